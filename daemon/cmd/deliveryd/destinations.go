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

func newDestinations() *cobra.Command {
	return group("destinations", "Look at and operate destinations",
		newDestinationsList(),
		destinationCommand("show", "Show a destination", (*client.Client).Destination),
		destinationCommand("pause", "Pause a destination: what is queued waits", (*client.Client).Pause),
		destinationCommand("resume", "Resume a destination: what waited is delivered", (*client.Client).Resume),
		destinationCommand("enable", "Enable a destination: its counters are reset, what waited is delivered", (*client.Client).Enable),
		newDestinationsDisable(),
		newDestinationsCreate(), newDestinationsUpdate(), newDestinationsDelete(),
		newDestinationsTest(),
		newDestinationsBreaker(),
		newDestinationsReplay(),
	)
}

func newDestinationsList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List destinations with their health"}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		list, err := c.Destinations(cmd.Context())
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), api.DestinationList{Destinations: list})
		}
		return printDestinations(cmd.OutOrStdout(), list)
	}
	return cmd
}

func printDestinations(w io.Writer, list []api.Destination) error {
	rows := make([][]string, len(list))
	for i := range list {
		d := &list[i]
		health := d.Health
		if health == nil {
			health = &api.Health{Status: "-", CircuitBreaker: "-"}
		}
		label := d.Label
		if d.Default {
			label += " (default)"
		}
		rows[i] = []string{
			strconv.Itoa(int(d.ID)), label, d.Type, d.State, health.Status, health.CircuitBreaker,
			strconv.Itoa(int(d.CountUsage)), when(d.LastUsedAt), firstOf(d.DisabledReason, health.HoldReason, health.BreakerReason),
		}
	}
	return table(w, []string{"ID", "LABEL", "TYPE", "STATE", "HEALTH", "BREAKER", "DELIVERED", "LAST USED", "REASON"}, rows)
}

// destinationCommand makes a command that does something to one destination.
func destinationCommand(verb, short string, do func(*client.Client, context.Context, string) (*api.Destination, error)) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " LABEL|ID", Short: short, Args: cobra.ExactArgs(1)}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		destination, err := do(c, cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if r.json || verb == "show" {
			return printJSON(cmd.OutOrStdout(), destination)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", oneLine(destination.Label), destination.State)
		return err
	}
	return cmd
}

func newDestinationsTest() *cobra.Command {
	var ping bool
	cmd := &cobra.Command{
		Use: "test LABEL|ID", Short: "Test a destination's connection; nothing is delivered", Args: cobra.ExactArgs(1),
		Long: "Resolves, connects and authenticates as the transport does, and delivers nothing, unless --ping is given.\nExits with 1 when the test fails.",
	}
	r := addRemote(cmd)
	cmd.Flags().BoolVar(&ping, "ping", false, "also deliver a signed event of type ping")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		result, err := c.Test(cmd.Context(), args[0], ping)
		if err != nil {
			return err
		}
		if r.json {
			err = printJSON(cmd.OutOrStdout(), result)
		} else {
			err = printTest(cmd.OutOrStdout(), result)
		}
		if err == nil && !result.OK {
			return exitError(exitFailed)
		}
		return err
	}
	return cmd
}

func printTest(w io.Writer, result *api.TestResult) error {
	rows := make([][]string, len(result.Steps))
	failed := ""
	for i, step := range result.Steps {
		verdict, detail := "ok", step.Detail
		if !step.OK {
			verdict, detail = "FAILED", step.Code
			failed = printable(step.Name + ": " + step.Error) // whole, below: a table cuts
		}
		rows[i] = []string{step.Name, verdict, fmt.Sprintf("%d ms", step.DurationMS), detail}
	}
	if err := table(w, []string{"STEP", "RESULT", "TOOK", "DETAIL"}, rows); err != nil || failed == "" {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", failed)
	return err
}
