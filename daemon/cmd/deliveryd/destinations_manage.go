package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

// documentFlags are those of a command that takes JSON objects from files.
type documentFlags struct{ config, settings string }

func addDocumentFlags(cmd *cobra.Command) *documentFlags {
	f := &documentFlags{}
	cmd.Flags().StringVar(&f.config, "config-file", "", "JSON file with the transport's configuration; - reads standard input")
	cmd.Flags().StringVar(&f.settings, "settings-file", "", "JSON file with settings such as concurrency and retry")
	return f
}

// read reads a file with a JSON object; nil without a name.
func (f *documentFlags) read(flag, name string, stdin io.Reader) (json.RawMessage, error) {
	if name == "" {
		return nil, nil
	}
	source := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", flag, err)}
		}
		defer func() { _ = file.Close() }()
		source = file
	}
	text, err := io.ReadAll(io.LimitReader(source, 1<<20))
	if err != nil {
		return nil, usageError{fmt.Errorf("--%s: %w", flag, err)}
	}
	if !json.Valid(text) {
		return nil, usageError{fmt.Errorf("--%s: %s is not JSON", flag, name)}
	}
	return text, nil
}

func (f *documentFlags) documents(stdin io.Reader) (config, settings json.RawMessage, err error) {
	if config, err = f.read("config-file", f.config, stdin); err != nil {
		return nil, nil, err
	}
	settings, err = f.read("settings-file", f.settings, stdin)
	return config, settings, err
}

func newDestinationsCreate() *cobra.Command {
	var n api.NewDestination
	cmd := &cobra.Command{
		Use: "create LABEL", Short: "Create a destination", Args: cobra.ExactArgs(1),
		Long:    "Creates a destination that the API manages. One that the configuration declares is changed there.",
		Example: `  deliveryd destinations create billing --type webhook --config-file billing.json`,
	}
	r, files := addRemote(cmd), addDocumentFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&n.Type, "type", "", "the transport, such as webhook; required")
	flags.StringVar(&n.Description, "description", "", "for people")
	flags.BoolVar(&n.Default, "default", false, "whether deliveries to \"default\" go here")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if n.Label = args[0]; n.Type == "" {
			return usageError{errors.New("--type must name the transport")}
		}
		if n.Config, n.Settings, err = files.documents(cmd.InOrStdin()); err != nil {
			return err
		}
		if n.Config == nil {
			n.Config = json.RawMessage("{}")
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		made, err := c.CreateDestination(cmd.Context(), &n)
		if err != nil {
			return err
		}
		return printDone(cmd.OutOrStdout(), made, "created", r.json)
	}
	return cmd
}

func newDestinationsUpdate() *cobra.Command {
	var p api.DestinationPatch
	var description string
	var isDefault bool
	cmd := &cobra.Command{
		Use: "update LABEL|ID", Short: "Change a destination: what is not given stays", Args: cobra.ExactArgs(1),
		Long: "Changes a destination. The files are JSON Merge Patches: members that are given change, null removes one.\n" +
			"A secret that is left out, or comes back as it was shown (***), stays.",
		Example: `  echo '{"url":"https://billing.example/v2"}' | deliveryd destinations update billing --config-file -
  deliveryd destinations update billing --default=true`,
	}
	r, files := addRemote(cmd), addDocumentFlags(cmd)
	cmd.Flags().StringVar(&description, "description", "", "for people")
	cmd.Flags().BoolVar(&isDefault, "default", false, "whether deliveries to \"default\" go here")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if p.Config, p.Settings, err = files.documents(cmd.InOrStdin()); err != nil {
			return err
		}
		if cmd.Flags().Changed("description") {
			p.Description = &description
		}
		if cmd.Flags().Changed("default") {
			p.Default = &isDefault
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		now, err := c.UpdateDestination(cmd.Context(), args[0], &p)
		if err != nil {
			return err
		}
		return printDone(cmd.OutOrStdout(), now, "changed", r.json)
	}
	return cmd
}

func printDone(w io.Writer, d *api.Destination, done string, asJSON bool) error {
	if asJSON {
		return printJSON(w, d)
	}
	_, err := fmt.Fprintf(w, "%s %s\n", oneLine(d.Label), done)
	return err
}

func newDestinationsDelete() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete LABEL|ID", Short: "Delete a destination for which nothing waits", Args: cobra.ExactArgs(1),
	}
	r := addRemote(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "make dead letters of what waits")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		deleted, err := c.DeleteDestination(cmd.Context(), args[0], force)
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), deleted)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s deleted, %d dead letters\n", oneLine(args[0]), deleted.DeadLetters)
		return err
	}
	return cmd
}

func newDestinationsDisable() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "disable LABEL|ID", Short: "Disable a destination: new deliveries are refused, what is queued waits", Args: cobra.ExactArgs(1),
	}
	r := addRemote(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who find it disabled")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		now, err := c.Disable(cmd.Context(), args[0], reason)
		if err != nil {
			return err
		}
		return printDone(cmd.OutOrStdout(), now, "is "+now.State, r.json)
	}
	return cmd
}
