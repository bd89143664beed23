package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

func newReload() *cobra.Command {
	cmd := &cobra.Command{
		Use: "reload", Short: "Make the daemon read its configuration again",
		Long: "Whole or nothing: with any mistake in it, all of the old configuration stays in effect,\n" +
			"the mistakes are printed, and the exit code is 3. What changed is printed, and which changed settings\n" +
			"take a restart. The daemon reads the environment only at its start, files each time. It takes an admin's api_key with organization = \"*\".",
	}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		report, err := c.Reload(cmd.Context())
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), report)
		}
		return printReload(cmd.OutOrStdout(), report)
	}
	return cmd
}

// maxReloadNames bounds what is printed of each kind; --json prints all.
const maxReloadNames = 20

func printReload(w io.Writer, r *api.ReloadReport) error {
	_, err := fmt.Fprintln(w, r.Summary)
	for _, list := range []struct {
		label string
		names []string
	}{
		{"added", r.Added},
		{"changed", r.Changed},
		{"removed, now disabled", r.Removed},
		{"waiting for its plugin", r.Waiting},
		{"plugin", r.Plugins},
		{"setting", r.Applied},
		{"warning", r.Warnings},
		{"needs a restart", r.NotReloaded},
	} {
		for i, name := range list.names {
			if i == maxReloadNames {
				_, _ = fmt.Fprintf(w, "  %s: and %d more\n", list.label, len(list.names)-i)
				break
			}
			_, _ = fmt.Fprintf(w, "  %s: %s\n", list.label, name)
		}
	}
	return err
}
