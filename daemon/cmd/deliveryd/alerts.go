package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/client"
)

func newAlerts() *cobra.Command {
	return group("alerts", "Look at and operate alerts", newAlertsList(),
		alertCommand("ack", "Say that you look after an alert", (*client.Client).AcknowledgeAlert),
		alertCommand("resolve", "End an alert; what goes on is a new one, told of after the cool-down", (*client.Client).ResolveAlert))
}

func newAlertsList() *cobra.Command {
	var f api.AlertFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List alerts, the one that was seen last first",
		Example: `  deliveryd alerts list
  deliveryd alerts list --status all --destination billing --json`,
	}
	r := addRemote(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.Status, "status", "current", "current (open and acknowledged), open, acknowledged, resolved or all")
	flags.StringVar(&f.Destination, "destination", "", "label or id")
	flags.StringVar(&f.Cursor, "cursor", "", "next_cursor of the page before")
	flags.IntVar(&f.Limit, "limit", 100, "how many at most, up to 500")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		page, err := c.Alerts(cmd.Context(), f)
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), page)
		}
		return printAlerts(cmd.OutOrStdout(), page)
	}
	return cmd
}

func printAlerts(w io.Writer, page *api.AlertPage) error {
	rows := make([][]string, len(page.Alerts))
	for i := range page.Alerts {
		a := &page.Alerts[i]
		status := a.Status
		if a.AcknowledgedBy != "" && a.ResolvedAt == nil {
			status += " by " + a.AcknowledgedBy
		}
		rows[i] = []string{a.ID, a.Severity, a.Event, a.Destination, status, strconv.Itoa(int(a.Count)), when(&a.FirstSeenAt), when(&a.LastSeenAt), a.Message}
	}
	header := []string{"ALERT", "SEVERITY", "EVENT", "DESTINATION", "STATUS", "COUNT", "FIRST SEEN", "LAST SEEN", "MESSAGE"}
	if err := table(w, header, rows); err != nil || page.Next == "" {
		return err
	}
	_, err := fmt.Fprintf(w, "more with --cursor %s\n", page.Next)
	return err
}

// alertCommand makes a command that does something to one alert.
func alertCommand(verb, short string, do func(*client.Client, context.Context, string) (*api.Alert, error)) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1)}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		a, err := do(c, cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), a)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", oneLine(a.ID), a.Status)
		return err
	}
	return cmd
}
