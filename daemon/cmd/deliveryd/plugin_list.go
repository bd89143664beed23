package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
)

func newPluginList() *cobra.Command {
	var paths []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list --config PATH", Short: "Start the plugins of a configuration and show how they are",
		Long: "Starts processes of its own and stops them; a running daemon is not asked and not disturbed.\n" +
			"PID and restarts are those of its own processes.",
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
			return printJSON(cmd.OutOrStdout(), pluginViews(list))
		}
		return printPlugins(cmd, list)
	}
	return cmd
}

// pluginView is a plugin as scripts see it.
type pluginView struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	Reason    string `json:"reason,omitempty"`
	Version   string `json:"version,omitempty"`
	Path      string `json:"path"`
	SHA256    string `json:"sha256,omitempty"`
	PID       int    `json:"pid,omitempty"`
	Restarts  int    `json:"restarts"`
	Instances int    `json:"instances"`
	Refused   int    `json:"refused"`
}

func pluginViews(list []pluginhost.Status) []pluginView {
	views := make([]pluginView, len(list))
	for i, s := range list {
		views[i] = pluginView{
			Name: s.Name, State: s.State.String(), Reason: s.Reason, Version: s.Version, Path: s.Path, SHA256: s.SHA256,
			PID: s.PID, Restarts: s.Restarts, Instances: s.Instances, Refused: s.Refused,
		}
	}
	return views
}

// shortDigest is what a table shows of a digest; --json shows all of it.
const shortDigest = 12

func printPlugins(cmd *cobra.Command, list []pluginhost.Status) error {
	rows := make([][]string, len(list))
	for i, s := range list {
		pid := ""
		if s.PID > 0 {
			pid = strconv.Itoa(s.PID)
		}
		rows[i] = []string{
			s.Name, s.Version, s.State.String(), s.SHA256[:min(shortDigest, len(s.SHA256))], pid,
			strconv.Itoa(s.Restarts), strconv.Itoa(s.Refused), s.Path,
		}
	}
	out := cmd.OutOrStdout()
	if err := table(out, []string{"TRANSPORT", "VERSION", "STATE", "SHA256", "PID", "RESTARTS", "REFUSED", "FILE"}, rows); err != nil {
		return err
	}
	// A reason says what to do about it, which no cell of a table has room for.
	for _, s := range list {
		if s.Reason == "" {
			continue
		}
		if _, err := fmt.Fprintf(out, "\n%s: %s\n", s.Name, printable(s.Reason)); err != nil {
			return err
		}
	}
	return nil
}
