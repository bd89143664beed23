package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newReload() *cobra.Command {
	cmd := &cobra.Command{
		Use: "reload", Short: "Make the daemon read its configuration again",
		Long: "Whole or nothing: with any mistake in it, all of the old configuration stays in effect,\n" +
			"the mistakes are printed, and the exit code is 3. It takes an admin's api_key with organization = \"*\".",
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
		_, err = fmt.Fprintln(cmd.OutOrStdout(), report.Summary)
		for _, name := range report.NotReloaded {
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "needs a restart: %s\n", name)
		}
		return err
	}
	return cmd
}
