package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
	"github.com/deliveryd/deliveryd/sdk/pace"
)

func newRun(pacer *pace.Pacer) *cobra.Command {
	var paths []string
	var skipMigrate bool
	cmd := &cobra.Command{
		Use: "run --config PATH", Short: "Run the daemon",
		Long: "Runs until SIGTERM or Ctrl-C, and then lets what is in flight end. A second signal ends it at once.\n" +
			"SIGHUP makes it read its configuration again, whole or nothing.",
		Example: "  deliveryd run --config /etc/deliveryd\n  deliveryd run --config base.hcl --config acme.hcl",
	}
	addConfig(cmd, &paths)
	cmd.Flags().BoolVar(&skipMigrate, "skip-migrate", false, "leave the database's schema as it is")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needConfig(paths); err != nil {
			return err
		}
		return shown(cmd, app.Run(cmd.Context(), app.Options{
			ConfigPaths: paths, SkipMigrate: skipMigrate, Version: version, Revision: revision(),
			Pacer: pacer, Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr(),
		}))
	}
	return cmd
}

func addConfig(cmd *cobra.Command, paths *[]string) {
	cmd.Flags().StringArrayVar(paths, "config", nil, "file, or directory with *.hcl files; repeatable")
}

func needConfig(paths []string) error {
	if len(paths) == 0 {
		return usageError{errors.New("--config is needed: a file, or a directory with *.hcl files (delivery.hcl.example shows what goes in)")}
	}
	return nil
}

// shown prints the mistakes of a configuration with their snippets and turns the
// error into its exit code.
func shown(cmd *cobra.Command, err error) error {
	var mistakes *app.ConfigError
	if !errors.As(err, &mistakes) {
		return err
	}
	width, color := uint(0), false
	if file, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		color = os.Getenv("NO_COLOR") == ""
		if w, _, err := term.GetSize(int(file.Fd())); err == nil {
			width = uint(w)
		}
	}
	if err := mistakes.Diagnostics.WriteText(cmd.ErrOrStderr(), width, color); err != nil {
		return err
	}
	return exitError(exitInvalid)
}
