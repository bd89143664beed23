// Package conformance checks a built transport plugin, in any language, against
// what the daemon relies on. Package plugintest runs it in Go tests; deliveryd
// plugin test runs it for everybody else.
//
// It must never import the daemon, and never trust the plugin: every wait is
// bounded.
package conformance

import (
	"cmp"
	"context"
	"fmt"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Target is the plugin to check.
type Target struct {
	// Command is the path of the binary and its arguments. Required.
	Command []string
	// Config is a complete and valid configuration, JSON, with a value for
	// every required attribute. "{{peer}}" in it becomes Peer.Address. Required.
	Config string
	// Peer makes the server that the plugin delivers to, a new one per case.
	// Defaults to none: the cases that need one are left out.
	Peer func() (Peer, error)
	// Secrets are signing secrets, as the daemon would keep them. Defaults to none.
	Secrets []string
	// Environment is added to the few variables that a plugin gets. Defaults
	// to none.
	Environment []string
	// AllowCIDRs may be dialled. Defaults to the loopback networks.
	AllowCIDRs []string
}

// Behaviour is what a Peer does with one delivery.
type Behaviour int

// What a Peer must be able to do.
const (
	// Accept takes the delivery.
	Accept Behaviour = iota
	// RateLimit refuses it and says to come back in 7 s.
	RateLimit
	// RefuseAuth refuses the credentials.
	RefuseAuth
	// Gone says that the destination is no more.
	Gone
	// Busy is a passing failure, such as HTTP 503.
	Busy
	// Reset cuts the connection after the delivery was received.
	Reset
	// Slow does not answer before Release.
	Slow
)

// Peer is a server under the control of the cases.
type Peer interface {
	// Address replaces "{{peer}}" in Target.Config.
	Address() string
	// Script says what to do with the next deliveries, one each; after them
	// each is accepted.
	Script(...Behaviour)
	// Release lets the slow ones go on, those to come included.
	Release()
	// Deliveries counts what arrived, whatever became of it.
	Deliveries() int
	// Connections counts connections since the start.
	Connections() int
	// Close stops the server; later connections are refused.
	Close()
}

// Lacker is a Peer of a protocol that does not know every behaviour, as SFTP
// knows no rate limit: those are never scripted.
type Lacker interface {
	// Lacks lists what the protocol does not know.
	Lacks() []Behaviour
}

// Case is one promise.
type Case struct {
	// Name is stable: lower case words and dashes.
	Name string
	// Promise says in one sentence what is checked.
	Promise string
	// NeedsPeer says that the case is left out without Target.Peer.
	NeedsPeer bool

	applies func(*transportv1.DescribeResponse) bool
	check   func(context.Context, *session) error
	// timeout bounds the case. Defaults to caseTimeout.
	timeout time.Duration
}

// caseTimeout bounds a case; the slowest of them delivers 10,000 items.
const caseTimeout = 2 * time.Minute

// Result is what became of a case.
type Result struct {
	Case Case
	// Err is nil where the promise was kept.
	Err error
	// Took is the length of the check.
	Took time.Duration
}

// Check runs every case that applies to t and reports each as it ends. The
// error says that the plugin could not be started at all.
func Check(ctx context.Context, t Target, report func(Result)) error {
	cases, err := CasesFor(ctx, t)
	if err != nil {
		return err
	}
	for _, c := range cases {
		report(c.Check(ctx, t))
	}
	return nil
}

// CasesFor starts the plugin once to ask what it can do, and lists the cases
// that apply to it.
func CasesFor(ctx context.Context, t Target) ([]Case, error) {
	p, err := StartProcess(ctx, t.Command, t.Environment...)
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	described, err := p.Client.Describe(ctx, &transportv1.DescribeRequest{HostVersion: hostVersion})
	if err != nil {
		return nil, fmt.Errorf("calling Describe: %w", err)
	}
	var list []Case
	for _, c := range Cases() {
		if (c.NeedsPeer && t.Peer == nil) || (c.applies != nil && !c.applies(described)) {
			continue
		}
		list = append(list, c)
	}
	return list, nil
}

// Check runs one case with its own process and peer.
func (c Case) Check(ctx context.Context, t Target) Result {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.timeout, caseTimeout))
	defer cancel()
	err := func() error {
		s, err := newSession(ctx, t)
		if err != nil {
			return err
		}
		defer s.close()
		if err := c.check(ctx, s); err != nil {
			return err
		}
		return s.aftermath()
	}()
	return Result{Case: c, Err: err, Took: time.Since(start)}
}

// Cases lists every case.
func Cases() []Case {
	return append(append(contractCases(), deliverCases()...), processCases()...)
}
