package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
)

func newPlugin() *cobra.Command {
	return group("plugin", "Look at plugins", newPluginList())
}

func newPluginList() *cobra.Command {
	var paths []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list --config PATH", Short: "Start the plugins of a configuration and show how they are",
		Long: "Starts processes of its own and stops them; a running daemon is not asked and not disturbed.",
	}
	addConfig(cmd, &paths)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needConfig(paths); err != nil {
			return err
		}
		list, err := app.Plugins(cmd.Context(), app.Options{ConfigPaths: paths, Version: version})
		if err != nil {
			return shown(cmd, err)
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), list)
		}
		rows := make([][]string, len(list))
		for i, s := range list {
			rows[i] = []string{s.Name, s.Version, fmt.Sprint(s.State), s.Path, s.Reason}
		}
		return table(cmd.OutOrStdout(), []string{"TRANSPORT", "VERSION", "STATE", "FILE", "REASON"}, rows)
	}
	return cmd
}
