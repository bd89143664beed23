package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

// sendFlags are the flags of `deliveryd send`.
type sendFlags struct {
	to                             []string
	eventType, data, metadata      string
	priority                       int
	at, key, correlation, expireAt string
	file, as, name, contentType    string
}

func newSend() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send --to DESTINATION --type TYPE --data JSON",
		Short: "Submit a delivery",
		Example: `  deliveryd send --to billing --type order.created --data '{"order": 42}'
  deliveryd send --to default --type report.ready --data @report.json --key report-2026-01
  deliveryd send --to billing --type order.created --file orders.ndjson
  deliveryd send --to archive --file report.csv
  jq '.order' order.json | deliveryd send --to billing --to audit --type order.created --data -`,
	}
	r := addRemote(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.to, "to", nil, "label or id of a destination, repeatable; or \"default\"")
	flags.StringVar(&f.eventType, "type", "", "kind of event, such as order.created")
	flags.StringVar(&f.data, "data", "", "the event as JSON; @FILE reads a file, - standard input")
	flags.StringVar(&f.metadata, "metadata", "", "a JSON object that goes beside the event")
	flags.IntVar(&f.priority, "priority", 0, "0 to 10; 10 goes first")
	flags.StringVar(&f.at, "at", "", "not before this time, RFC 3339")
	flags.StringVar(&f.expireAt, "expires-at", "", "not after this time, RFC 3339")
	flags.StringVar(&f.key, "key", "", "idempotency key: repeated sends with it are one delivery")
	flags.StringVar(&f.correlation, "correlation-id", "", "goes with the delivery into every log")
	flags.StringVar(&f.file, "file", "", "deliver a file as it is, as an artifact; or, where its name ends in .ndjson or .jsonl or is - for standard input, submit each of its lines: a whole submission, or the data of one that the other flags describe")
	flags.StringVar(&f.as, "as", "", "take --file as an artifact or as lines, whatever its name")
	flags.StringVar(&f.name, "name", "", "name of the artifact for its receivers (default: that of the file)")
	flags.StringVar(&f.contentType, "content-type", "", "media type of the artifact (default: by the name's ending)")
	cmd.MarkFlagsMutuallyExclusive("file", "data")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.checkFile(); err != nil {
			return usageError{err}
		}
		switch {
		case f.file != "" && f.isArtifact():
			return f.sendArtifact(cmd, r)
		case f.file != "":
			return f.sendFile(cmd, r)
		}
		submission, err := f.submission(cmd.InOrStdin())
		if err != nil {
			return usageError{err}
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		accepted, err := c.Submit(cmd.Context(), submission)
		if err != nil {
			return err
		}
		return printAccepted(cmd.OutOrStdout(), accepted, r.json)
	}
	return cmd
}

func (f *sendFlags) sendFile(cmd *cobra.Command, r *remote) error {
	template, err := f.template(cmd.InOrStdin())
	if err != nil {
		return usageError{err}
	}
	c, err := r.client()
	if err != nil {
		return err
	}
	sent, err := sendFile(cmd.Context(), c, f.file, cmd.InOrStdin(), cmd.ErrOrStderr(), *template)
	if sent == nil {
		return err
	}
	return errors.Join(err, sent.report(cmd.OutOrStdout(), cmd.ErrOrStderr(), r.json))
}

func printAccepted(w io.Writer, accepted *api.Accepted, asJSON bool) error {
	if asJSON {
		return printJSON(w, accepted)
	}
	labels := make([]string, len(accepted.Destinations))
	for i, d := range accepted.Destinations {
		labels[i] = d.Label
	}
	note := ""
	if accepted.Duplicate {
		note = " (the result of an earlier request with this key)"
	}
	_, err := fmt.Fprintf(w, "%s accepted for %s%s\n", accepted.ID, strings.Join(labels, ", "), note)
	return err
}

func (f *sendFlags) submission(stdin io.Reader) (*api.Submission, error) {
	switch {
	case len(f.to) == 0:
		return nil, errors.New("--to is needed: the label or id of a destination, or \"default\"")
	case f.eventType == "":
		return nil, errors.New("--type is needed: the kind of event, such as order.created")
	}
	s, err := f.template(stdin)
	if err != nil {
		return nil, err
	}
	s.Payload.Data, err = jsonArgument("--data", f.data, stdin)
	return s, err
}

// template is a submission without its data.
func (f *sendFlags) template(stdin io.Reader) (*api.Submission, error) {
	s := &api.Submission{Priority: f.priority, IdempotencyKey: f.key, CorrelationID: f.correlation}
	s.Payload.Type = f.eventType
	s.Destinations.Default = len(f.to) == 1 && f.to[0] == "default"
	if !s.Destinations.Default {
		s.Destinations.List = f.to
	}
	var err error
	if f.metadata != "" {
		if s.Payload.Metadata, err = jsonArgument("--metadata", f.metadata, stdin); err != nil {
			return nil, err
		}
	}
	if s.ScheduledAt, err = timeArgument("--at", f.at); err != nil {
		return nil, err
	}
	s.ExpiresAt, err = timeArgument("--expires-at", f.expireAt)
	return s, err
}

// maxData bounds what is read into memory; the daemon says how much it takes.
const maxData = 1 << 30

// jsonArgument reads the JSON that a flag gives, names or points to.
func jsonArgument(flag, value string, stdin io.Reader) (json.RawMessage, error) {
	text := []byte(value)
	var err error
	switch {
	case value == "":
		return nil, fmt.Errorf("%s is needed: JSON, @FILE, or - for standard input", flag)
	case value == "-":
		text, err = io.ReadAll(io.LimitReader(stdin, maxData))
	case strings.HasPrefix(value, "@"):
		text, err = os.ReadFile(value[1:])
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("%s is not JSON; text needs quotes of its own: '\"like this\"'", flag)
	}
	return text, nil
}

func timeArgument(flag, value string) (*time.Time, error) {
	if value == "" {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return nil, fmt.Errorf("%s: %q is not a time in RFC 3339, such as 2026-01-31T08:00:00Z", flag, value)
	}
	return &at, nil
}
