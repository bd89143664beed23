package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
	"github.com/deliveryd/deliveryd/sdk/pace"
)

func newDev(pacer *pace.Pacer) *cobra.Command {
	var paths []string
	var dev app.Dev
	cmd := &cobra.Command{
		Use: "dev", Short: "Run everything on this machine, with a PostgreSQL of its own",
		Long: "Starts a private PostgreSQL, makes an encryption key and an API key where the configuration has none,\n" +
			"and says how to submit a delivery. Without --config, deliveries are printed where it runs.\n" +
			"Everything is in the directory --data; remove that to start afresh.",
		Example: "  deliveryd dev\n  deliveryd dev --config delivery.hcl --data /tmp/deliveryd",
	}
	addConfig(cmd, &paths)
	cmd.Flags().StringVar(&dev.Data, "data", "./data", "directory for the database and the keys")
	cmd.Flags().StringVar(&dev.Listen, "listen", "", "host:port of the API; port 0 takes a free one (default: as configured, else "+defaultAddress+")")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if dev.Data, err = filepath.Abs(dev.Data); err != nil {
			return err
		}
		return shown(cmd, app.Run(cmd.Context(), app.Options{
			ConfigPaths: paths, Dev: &dev, Version: version, Revision: revision(),
			Pacer: pacer, Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr(),
		}))
	}
	return cmd
}
