package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/client"
)

func newDestinationsBreaker() *cobra.Command {
	var reason string
	open := breakerCommand("open", "Hold the circuit breaker open: nothing is sent and nothing is burnt until it is closed",
		func(c *client.Client, ctx context.Context, ref string) (*api.Destination, error) {
			return c.OpenBreaker(ctx, ref, reason)
		})
	open.Flags().StringVar(&reason, "reason", "", "why, for those who look at it later")
	return group("breaker", "Open or close a destination's circuit breaker", open,
		breakerCommand("close", "Close the circuit breaker, whatever opened it; what waited is let out gradually", (*client.Client).CloseBreaker))
}

func breakerCommand(verb, short string, do func(*client.Client, context.Context, string) (*api.Destination, error)) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " LABEL|ID", Short: short, Args: cobra.ExactArgs(1)}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		d, err := do(c, cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), d)
		}
		text := "closed"
		if d.Health != nil {
			text = d.Health.CircuitBreaker
			if d.Health.BreakerReason != "" {
				text += " (" + oneLine(d.Health.BreakerReason) + ")"
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "the circuit breaker of %s is %s\n", oneLine(d.Label), text)
		return err
	}
	return cmd
}
