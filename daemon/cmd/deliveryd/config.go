package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
)

func newConfig() *cobra.Command {
	return group("config", "Check configuration files", newConfigValidate())
}

func newConfigValidate() *cobra.Command {
	var paths []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "validate --config PATH", Short: "Check a configuration, and ask the plugins that it names about it",
		Long: "Prints every mistake with its file, line and snippet, and exits with 3 when there is one.\nNothing is connected to and nothing is changed.",
	}
	addConfig(cmd, &paths)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needConfig(paths); err != nil {
			return err
		}
		found, err := app.Validate(cmd.Context(), app.Options{ConfigPaths: paths, Version: version})
		if err != nil {
			return err
		}
		if asJSON {
			if err := found.WriteJSON(cmd.OutOrStdout()); err != nil {
				return err
			}
			if found.HasErrors() {
				return exitError(exitInvalid)
			}
			return nil
		}
		if len(found) > 0 {
			err := shown(cmd, &app.ConfigError{Diagnostics: found})
			if found.HasErrors() {
				return err
			}
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "the configuration is valid")
		return err
	}
	return cmd
}
