package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/scaffold"
)

func newPluginNew() *cobra.Command {
	var o scaffold.Options
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a transport plugin in Go that works, to begin from",
		Long: "Writes a module that delivers by HTTP POST and passes the conformance kit: change it into what you\n" +
			"need while its tests pass. Nothing is overwritten.",
		Example: "  deliveryd plugin new pigeon --module github.com/acme/deliveryd-transport-pigeon",
		Args:    cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Directory, "directory", "", "directory to write to (default deliveryd-transport-NAME)")
	flags.StringVar(&o.Module, "module", "", "module path (default example.com/deliveryd-transport-NAME)")
	flags.StringVar(&o.SDK, "sdk", "", "checkout of deliveryd to build against, in place of the release of this binary")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name, o.SDKVersion = args[0], version
		files, err := scaffold.Write(o)
		if errors.Is(err, scaffold.ErrNoRelease) {
			return usageError{hinted{err, "this deliveryd was not built from a release: name a checkout of it with --sdk PATH"}}
		}
		if err != nil {
			return err
		}
		for _, file := range files {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), file); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "Now: cd %s && go mod tidy && go test ./...\n", filepath.Dir(files[0]))
		return err
	}
	return cmd
}
