package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
)

func newPluginLock() *cobra.Command {
	var paths []string
	var output string
	cmd := &cobra.Command{
		Use: "lock --config PATH", Short: "Pin each plugin to the SHA-256 of its file",
		Long: "Starts each plugin and writes a file of plugin blocks with the SHA-256 of what ran. A daemon that\n" +
			"reads it starts no other binary. Nothing is written when a plugin does not work.\n\n" +
			"The file is " + app.LockFile + " beside the configuration. Where --config names a directory, the daemon\n" +
			"reads it by itself; otherwise name it as well: --config delivery.hcl --config " + app.LockFile + ".",
	}
	addConfig(cmd, &paths)
	cmd.Flags().StringVar(&output, "output", "", "file to write instead of "+app.LockFile+" beside the configuration")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needConfig(paths); err != nil {
			return err
		}
		lock, err := app.LockPlugins(cmd.Context(), app.Options{ConfigPaths: paths, Version: version}, output)
		if err != nil {
			return shown(cmd, err)
		}
		for _, s := range lock.Plugins {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", s.SHA256, s.Name, s.Version); err != nil {
				return err
			}
		}
		hint := "it takes effect at the next reload"
		if !lock.Loaded {
			hint = "the daemon reads it when it is named: --config " + lock.Path
		}
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "wrote %s: %s\n", lock.Path, hint)
		return err
	}
	return cmd
}
