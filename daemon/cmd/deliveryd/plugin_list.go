package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/app"
)

func newPluginList() *cobra.Command {
	var paths []string
	cmd := &cobra.Command{
		Use: "list", Short: "Show how the plugins are, of a running daemon or of a configuration",
		Long: "Asks the running daemon, which takes an api_key with organization = \"*\".\n" +
			"With --config no daemon is asked or disturbed: the plugins of that configuration are started, looked at and stopped.",
		Example: "  deliveryd plugin list\n  deliveryd plugin list --config /etc/deliveryd",
	}
	addConfig(cmd, &paths)
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := pluginsOf(cmd.Context(), r, paths)
		if err != nil {
			return shown(cmd, err)
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), list)
		}
		return printPlugins(cmd.OutOrStdout(), list)
	}
	return cmd
}

func pluginsOf(ctx context.Context, r *remote, paths []string) ([]api.Plugin, error) {
	if len(paths) > 0 {
		return app.Plugins(ctx, app.Options{ConfigPaths: paths, Version: version})
	}
	c, err := r.client()
	if err != nil {
		return nil, err
	}
	list, err := c.Plugins(ctx)
	if err != nil {
		return nil, err
	}
	return list.Plugins, nil
}

// shortDigest is what a table shows of a digest; --json shows all of it.
const shortDigest = 12

func printPlugins(out io.Writer, list []api.Plugin) error {
	rows := make([][]string, len(list))
	for i, p := range list {
		pid := ""
		if p.PID > 0 {
			pid = strconv.Itoa(p.PID)
		}
		rows[i] = []string{
			p.Name, p.Version, p.State, p.SHA256[:min(shortDigest, len(p.SHA256))], pid,
			strconv.Itoa(p.Restarts), strconv.Itoa(p.Instances), strconv.Itoa(p.Refused), p.Path,
		}
	}
	if err := table(out, []string{"TRANSPORT", "VERSION", "STATE", "SHA256", "PID", "RESTARTS", "INSTANCES", "REFUSED", "FILE"}, rows); err != nil {
		return err
	}
	// A reason says what to do about it, which no cell of a table has room for.
	for _, p := range list {
		if p.Reason == "" {
			continue
		}
		if _, err := fmt.Fprintf(out, "\n%s: %s\n", p.Name, printable(p.Reason)); err != nil {
			return err
		}
	}
	return nil
}
