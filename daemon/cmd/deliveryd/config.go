package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

func newConfig() *cobra.Command {
	return group("config", "Check, format and show configuration files", newConfigValidate(), newConfigFmt(), newConfigShow(), newConfigDocs())
}

func newConfigValidate() *cobra.Command {
	var paths []string
	var asJSON, testConnections bool
	cmd := &cobra.Command{
		Use: "validate --config PATH", Short: "Check a configuration, and ask the plugins that it names about it",
		Long: "Prints every mistake with its file, line and snippet, and exits with 3 when there is one.\n" +
			"Nothing is connected to and nothing is changed, except that with --test-connections, when nothing else\n" +
			"is wrong, the plugins try to reach and to log in at every destination that is not disabled; they deliver nothing.",
		Example: "  deliveryd config validate --config /etc/deliveryd\n  deliveryd config validate --config delivery.hcl --test-connections",
	}
	addConfig(cmd, &paths)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	cmd.Flags().BoolVar(&testConnections, "test-connections", false, "have the plugins try every destination")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needConfig(paths); err != nil {
			return err
		}
		result, err := app.Validate(cmd.Context(), app.Options{ConfigPaths: paths, Version: version}, testConnections)
		if err != nil {
			return err
		}
		found := result.Diagnostics
		if asJSON {
			if err := found.WriteJSON(cmd.OutOrStdout()); err != nil {
				return err
			}
			return failIf(found.HasErrors())
		}
		if err := printFindings(cmd, found); err != nil {
			return err
		}
		text := "the configuration is valid"
		if testConnections {
			text += fmt.Sprintf("; connections tested: %d", result.Tested)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	}
	return cmd
}

// printFindings prints what was found, and fails when there is an error in it.
func printFindings(cmd *cobra.Command, found config.Diagnostics) error {
	if len(found) == 0 {
		return nil
	}
	if err := shown(cmd, &app.ConfigError{Diagnostics: found}); found.HasErrors() {
		return err
	}
	return nil
}

// failIf exits with 3 without another word.
func failIf(invalid bool) error {
	if invalid {
		return exitError(exitInvalid)
	}
	return nil
}

func newConfigShow() *cobra.Command {
	var paths []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show --config PATH", Short: "Print the configuration as it takes effect",
		Long: "Prints every setting with its value, defaults filled in, those of the plugins too, and where each\n" +
			"value was given. Secrets are shown as ***. The files are read here and now: a running daemon may still use older ones.",
	}
	addConfig(cmd, &paths)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON: a list of path, value and source")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needConfig(paths); err != nil {
			return err
		}
		cfg, found, err := app.Show(cmd.Context(), app.Options{ConfigPaths: paths, Version: version})
		if err != nil {
			return err
		}
		if err := printFindings(cmd, found); err != nil {
			return err
		}
		if asJSON {
			return cfg.WriteJSON(cmd.OutOrStdout())
		}
		return cfg.WriteHCL(cmd.OutOrStdout())
	}
	return cmd
}
