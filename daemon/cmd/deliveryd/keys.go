package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newKeys() *cobra.Command {
	return group("keys", "Rotate the encryption key", newKeysRotate())
}

func newKeysRotate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate", Short: "Seal all secrets in the database with the current encryption key",
		Long: "Seals what one of encryption.previous_keys sealed, and what another program wrote in plain, with encryption.key.\n" +
			"Deliveries go on meanwhile, and it may be repeated. When it exits with 0, previous_keys can be removed.\n" +
			"Takes a token of all organizations with the role admin.",
	}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		report, err := c.RotateKeys(cmd.Context())
		if err != nil {
			return err
		}
		if r.json {
			err = printJSON(cmd.OutOrStdout(), report)
		} else {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "key %s: %d destinations and %d signing secrets sealed anew, %d needed nothing, %d skipped\n",
				oneLine(report.KeyID), report.Destinations, report.Secrets, report.Current, report.Skipped)
			for _, name := range report.Unopened {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "sealed with a key that is not configured: %s\n", oneLine(name))
			}
		}
		if err == nil && !report.Done {
			return exitError(exitFailed)
		}
		return err
	}
	return cmd
}
