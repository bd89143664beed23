package main

import (
	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/sdk/pace"
)

func newRoot(pacer *pace.Pacer) *cobra.Command {
	root := &cobra.Command{
		Use:   "deliveryd",
		Short: "Delivers what must arrive: webhooks and more, reliably and provably",
		Long: "deliveryd takes things that must arrive and delivers them to the places that an organization names.\n" +
			"Its only server is PostgreSQL. `deliveryd dev` starts everything on this machine.\n\n" + exitCodesHelp,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{hinted{err, "see " + cmd.CommandPath() + " --help"}}
	})
	root.AddCommand(
		newRun(pacer), newDev(pacer), newMigrate(), newConfig(), newSend(), newDeliveries(), newDestinations(), newAlerts(), newSecrets(), newKeys(), newAudit(),
		newPlugin(), newReload(), newVersion(),
	)
	for _, cmd := range all(root) {
		if cmd.Args == nil {
			cmd.Args = cobra.NoArgs
		}
		cmd.Args = usageArgs(cmd.Args)
	}
	return root
}

// all returns a command with every command below it.
func all(cmd *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{cmd}
	for _, child := range cmd.Commands() {
		list = append(list, all(child)...)
	}
	return list
}

// usageArgs makes the error of a check of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{hinted{err, "see " + cmd.CommandPath() + " --help"}}
		}
		return nil
	}
}

// hinted is an error with a hint for people.
type hinted struct {
	error
	hint string
}

func (h hinted) Error() string { return h.error.Error() + "; " + h.hint }
func (h hinted) Unwrap() error { return h.error }

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(children...)
	return cmd
}
