package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

func newAudit() *cobra.Command {
	var f api.AuditFilter
	var since, cursor string
	cmd := &cobra.Command{
		Use: "audit", Short: "Show who changed what through the API or the configuration file, newest first",
		Example: `  deliveryd audit --since 24h
  deliveryd audit --actor config
  deliveryd audit --target billing --json`,
	}
	r := addRemote(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.Actor, "actor", "", "only by this one, such as api_key:acme-admin")
	flags.StringVar(&f.Action, "action", "", "only this, such as destination.update")
	flags.StringVar(&f.Target, "target", "", "only of this label or id")
	flags.StringVar(&since, "since", "", "a time in RFC 3339, or how long ago, such as 24h")
	flags.StringVar(&cursor, "cursor", "", "next_cursor of the page before")
	flags.IntVar(&f.Limit, "limit", 50, "how many at most, up to 500")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if f.Since, err = sinceArgument(since, time.Now()); err != nil {
			return usageError{err}
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		page, err := c.Audit(cmd.Context(), f, cursor)
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), page)
		}
		return printAudit(cmd.OutOrStdout(), page)
	}
	return cmd
}

func printAudit(w io.Writer, page *api.AuditPage) error {
	rows := make([][]string, len(page.Entries))
	for i := range page.Entries {
		e := &page.Entries[i]
		rows[i] = []string{when(&e.At), e.Organization, e.Actor, e.Action, e.Target, string(e.Details)}
	}
	if err := table(w, []string{"AT", "ORGANIZATION", "BY", "ACTION", "TARGET", "DETAILS"}, rows); err != nil || page.Next == "" {
		return err
	}
	_, err := fmt.Fprintf(w, "more with --cursor %s\n", page.Next)
	return err
}
