package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/sdk/conformance"
)

// pluginTest holds the flags of `deliveryd plugin test`.
type pluginTest struct {
	settings, peer     string
	cases, secrets     []string
	allow, environment []string
	json               bool
}

// Peers that the kit can play.
const (
	peerNone = "none"
	peerHTTP = "http"
	peerS3   = "s3"
	peerSMTP = "smtp"
)

func newPluginTest() *cobra.Command {
	var f pluginTest
	cmd := &cobra.Command{
		Use:   "test BINARY",
		Short: "Check a plugin, in any language, against what the daemon relies on",
		Long: "Starts the plugin anew for each case of the conformance kit, and exits with 1 when a promise is\n" +
			"broken. --settings is a complete and valid config {}, as JSON; {{peer}} in it stands for the address of a\n" +
			"server that the kit plays, such as http://127.0.0.1:41234. Without a peer the cases that need one are\n" +
			"left out. The configuration must be one that may be delivered to: some 10,000 times.",
		Example: `  deliveryd plugin test ./deliveryd-transport-webhook --settings '{"url": "{{peer}}/hook"}' --peer http
  deliveryd plugin test ./deliveryd-transport-file --settings @test.json --case memory --case lifeline`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.settings, "settings", "{}", "config {} of a destination as JSON; @FILE reads a file, - standard input")
	flags.StringVar(&f.peer, "peer", peerNone, "server to play for the plugin: http, s3, smtp or none")
	flags.StringArrayVar(&f.cases, "case", nil, "run this case only, repeatable; an unknown one lists all")
	flags.StringArrayVar(&f.secrets, "secret", nil, "signing secret, as the daemon would keep it; repeatable")
	flags.StringArrayVar(&f.allow, "allow", nil, "network that may be dialled although it is not public, repeatable (default the loopback networks)")
	flags.StringArrayVar(&f.environment, "env", nil, "NAME=VALUE for the plugin's environment, which is minimal; repeatable")
	flags.BoolVar(&f.json, "json", false, "print as JSON, one object per line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := f.target(args[0], cmd.InOrStdin())
		if err != nil {
			return usageError{err}
		}
		return f.run(cmd, target)
	}
	return cmd
}

func (f *pluginTest) target(binary string, stdin io.Reader) (conformance.Target, error) {
	settings, err := jsonArgument("--settings", f.settings, stdin)
	if err != nil {
		return conformance.Target{}, err
	}
	target := conformance.Target{
		Command: []string{binary}, Config: string(settings), Secrets: f.secrets, Environment: f.environment, AllowCIDRs: f.allow,
	}
	switch f.peer {
	case peerHTTP:
		target.Peer = conformance.NewHTTPPeer
	case peerS3:
		target.Peer = conformance.NewS3Peer
	case peerSMTP:
		target.Peer = conformance.NewSMTPPeer
	case peerNone:
		if strings.Contains(target.Config, "{{peer}}") {
			return target, errors.New("--settings has {{peer}}, but there is none: add --peer http")
		}
	default:
		return target, fmt.Errorf("--peer %q: want %s, %s, %s or %s", f.peer, peerHTTP, peerS3, peerSMTP, peerNone)
	}
	known := map[string]bool{}
	var names []string
	for _, c := range conformance.Cases() {
		known[c.Name] = true
		names = append(names, c.Name)
	}
	for _, name := range f.cases {
		if !known[name] {
			return target, fmt.Errorf("--case %q: want one of %s", name, strings.Join(names, ", "))
		}
	}
	return target, nil
}

func (f *pluginTest) run(cmd *cobra.Command, target conformance.Target) error {
	chosen, left, err := f.choose(cmd, target)
	if err != nil {
		return fmt.Errorf("testing %s: %w", target.Command[0], err)
	}
	out := cmd.OutOrStdout()
	failed := 0
	for _, c := range chosen {
		result := c.Check(cmd.Context(), target)
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		if result.Err != nil {
			failed++
		}
		if err := f.report(out, result); err != nil {
			return err
		}
	}
	if !f.json {
		summary := fmt.Sprintf("%d promises kept, %d broken", len(chosen)-failed, failed)
		if len(left) > 0 {
			summary += ", left out: " + strings.Join(left, ", ")
		}
		if _, err := fmt.Fprintln(out, summary); err != nil {
			return err
		}
	}
	if failed > 0 {
		return exitError(exitFailed)
	}
	return nil
}

// choose lists the cases to run and names those that do not apply.
func (f *pluginTest) choose(cmd *cobra.Command, target conformance.Target) (chosen []conformance.Case, left []string, err error) {
	applicable, err := conformance.CasesFor(cmd.Context(), target)
	if err != nil {
		return nil, nil, err
	}
	wanted := map[string]bool{}
	for _, name := range f.cases {
		wanted[name] = true
	}
	applies := map[string]bool{}
	for _, c := range applicable {
		applies[c.Name] = true
		if len(wanted) == 0 || wanted[c.Name] {
			chosen = append(chosen, c)
		}
	}
	for _, c := range conformance.Cases() {
		if !applies[c.Name] && (len(wanted) == 0 || wanted[c.Name]) {
			left = append(left, c.Name)
		}
	}
	if len(chosen) == 0 {
		return nil, nil, fmt.Errorf("none of the cases applies: %s", strings.Join(left, ", "))
	}
	return chosen, left, nil
}

// report prints what became of a case. Text of a plugin may be in it: a terminal
// obeys escape sequences.
func (f *pluginTest) report(out io.Writer, r conformance.Result) error {
	problem := ""
	if r.Err != nil {
		problem = r.Err.Error()
	}
	if f.json {
		return json.NewEncoder(out).Encode(struct {
			Case    string  `json:"case"`
			Promise string  `json:"promise"`
			Kept    bool    `json:"kept"`
			Error   string  `json:"error,omitempty"`
			Seconds float64 `json:"seconds"`
		}{r.Case.Name, r.Case.Promise, r.Err == nil, problem, r.Took.Seconds()})
	}
	word := "ok"
	if r.Err != nil {
		word = "BROKEN"
	}
	if _, err := fmt.Fprintf(out, "%-7s %-18s %6.1f s  %s\n", word, r.Case.Name, r.Took.Round(100*time.Millisecond).Seconds(), r.Case.Promise); err != nil {
		return err
	}
	if problem == "" {
		return nil
	}
	for line := range strings.Lines(problem) {
		if _, err := fmt.Fprintf(out, "          %s\n", printable(strings.TrimRight(line, "\n"))); err != nil {
			return err
		}
	}
	return nil
}
