package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/client"
)

func newDeliveriesCancel() *cobra.Command {
	return moveCommand("cancel ID", "Cancel what waits of a delivery", "cancelled", (*client.Client).Cancel)
}

func newDeliveriesReplay() *cobra.Command {
	return moveCommand("replay ID", "Replay the dead letters of a delivery", "replayed", (*client.Client).Replay)
}

// moveCommand makes a command of what is done to the rows of one delivery.
func moveCommand(use, short, done string, do func(*client.Client, context.Context, string, string) (*api.Moved, error)) *cobra.Command {
	var destination string
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1)}
	r := addRemote(cmd)
	cmd.Flags().StringVar(&destination, "destination", "", "label or id: only at this destination")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		moved, err := do(c, cmd.Context(), args[0], destination)
		if err != nil {
			return err
		}
		return printMoved(cmd.OutOrStdout(), moved, done, r.json)
	}
	return cmd
}

func newDestinationsReplay() *cobra.Command {
	var f api.DeadLetterFilter
	var since string
	cmd := &cobra.Command{
		Use: "replay REF", Short: "Replay the dead letters of a destination", Args: cobra.ExactArgs(1),
		Example: `  deliveryd destinations replay billing
  deliveryd destinations replay billing --since 24h --reason http.500 --limit 100`,
	}
	r := addRemote(cmd)
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "only what became a dead letter since: a time in RFC 3339, or how long ago, such as 24h")
	flags.StringVar(&f.Reason, "reason", "", "only where the failure reason contains this")
	flags.StringVar(&f.Type, "type", "", "only payloads of this type")
	flags.IntVar(&f.Limit, "limit", 0, "at most so many, oldest first; 0 means all")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		f.Destination = args[0]
		if f.Since, err = sinceArgument(since, time.Now()); err != nil {
			return usageError{err}
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		moved, err := c.ReplayDeadLetters(cmd.Context(), f)
		if err != nil {
			return err
		}
		return printMoved(cmd.OutOrStdout(), moved, "replayed", r.json)
	}
	return cmd
}

func printMoved(w io.Writer, moved *api.Moved, done string, asJSON bool) error {
	if asJSON {
		return printJSON(w, moved)
	}
	_, err := fmt.Fprintf(w, "%d %s\n", moved.Deliveries, done)
	return err
}
