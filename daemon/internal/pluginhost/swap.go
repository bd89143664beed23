package pluginhost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// ChangeKind says what a swap does to a transport.
type ChangeKind string

// The kinds of change.
const (
	Added    ChangeKind = "added"    // a new file
	Replaced ChangeKind = "replaced" // another binary, other settings or another egress policy
	Retried  ChangeKind = "retried"  // the same, but no process was ready
	Removed  ChangeKind = "removed"  // the file is gone
)

// Change is what Commit will do, or has done, to one transport.
type Change struct {
	// Transport that changes.
	Transport string
	// Kind of the change.
	Kind ChangeKind
	// From and To are versions of the plugin; empty where there is none.
	From, To string
}

// Swap is a new set of plugins that is ready beside the one that serves.
// Commit or Abort must follow. Describe, Validate and Try are safe for concurrent
// use, the other methods are not.
type Swap struct {
	host       *Host
	settings   map[string]PluginOptions
	egress     *transportv1.EgressPolicy
	rejected   []FileFailure
	candidates map[string]*candidate
	removed    []string
	problems   []FileFailure
	failures   []FileFailure
	once       sync.Once
}

type candidate struct {
	supervisor *supervisor
	process    *process // nil: it did not start
	kind       ChangeKind
	options    PluginOptions
	from       string
}

// ErrReloading is returned by Prepare and Reload while another swap is open.
var ErrReloading = errors.New("another reload of the plugins is under way")

// Reload takes over what has changed in the directory: new files are started,
// changed ones replace their process without cutting a call, and transports
// that are not ready are tried again. What cannot be taken over stays as it
// was, and the error says which and why.
func (h *Host) Reload(ctx context.Context) error {
	h.reload.Lock()
	settings, egress := h.options.Plugins, h.options.Egress
	h.reload.Unlock()
	swap, err := h.Prepare(ctx, settings, egress)
	if err != nil {
		return err
	}
	commitErr := swap.Commit(ctx)
	return errors.Join(problemsError(swap.Failures()), problemsError(swap.Problems()), commitErr)
}

func problemsError(problems []FileFailure) error {
	var errs []error
	for _, problem := range problems {
		errs = append(errs, fmt.Errorf("plugin %s: %s", problem.File, problem.Reason))
	}
	return errors.Join(errs...)
}

// Problems lists what has not worked before and still does not, and files that
// are gone though they are in use, with the reasons; sorted by file. Commit leaves
// these plugins as they are.
func (w *Swap) Problems() []FileFailure { return slices.Clone(w.problems) }

// Failures lists new files that do not start and changes of plugins that work now
// and cannot be made, with the reasons; sorted by file. Who wants all or nothing
// aborts: Commit leaves those plugins as they are.
func (w *Swap) Failures() []FileFailure { return slices.Clone(w.failures) }

// Changes lists what Commit will do, sorted by transport.
func (w *Swap) Changes() []Change {
	var changes []Change
	for name, c := range w.candidates {
		change := Change{Transport: name, Kind: c.kind, From: c.from}
		if c.process != nil {
			change.To = c.process.describe.GetVersion()
		}
		changes = append(changes, change)
	}
	for _, name := range w.removed {
		changes = append(changes, Change{Transport: name, Kind: Removed})
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Transport, b.Transport) })
	return changes
}

// Describe is Host.Describe as it will be after Commit.
func (w *Swap) Describe(transport string) (*transportv1.DescribeResponse, error) {
	if c := w.candidates[transport]; c != nil && c.process != nil {
		return c.process.describe, nil
	}
	return w.host.Describe(transport)
}

// Validate is Host.Validate as it will be after Commit.
func (w *Swap) Validate(ctx context.Context, transport string, configJSON []byte) ([]*transportv1.Diagnostic, error) {
	if c := w.candidates[transport]; c != nil && c.process != nil {
		return c.process.validate(ctx, configJSON)
	}
	return w.host.Validate(ctx, transport, configJSON)
}

// Try opens an instance in the process that serves after Commit and closes it
// again: nothing of it is kept. Errors are those of Host.Open.
func (w *Swap) Try(ctx context.Context, transport string, req *transportv1.OpenRequest) error {
	if err := checkOpen(req); err != nil {
		return fmt.Errorf("opening an instance of %q: %w", transport, err)
	}
	if c := w.candidates[transport]; c != nil && c.process != nil {
		return c.process.try(ctx, req)
	}
	s, err := w.host.lookup(transport)
	if err != nil {
		return err
	}
	p, err := s.use()
	if err != nil {
		return err
	}
	defer p.release()
	return p.try(ctx, req)
}

// try opens an instance and closes it.
func (p *process) try(ctx context.Context, req *transportv1.OpenRequest) error {
	err := p.open(ctx, req)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// What did not answer in time may be open all the same.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	return cmp.Or(err, p.closeInstance(closing, req.GetInstance()))
}

// Commit makes the new processes serve, drains the old ones in the background
// and lets go of removed ones. Calls in flight end where they began. The error
// tells which transport could not be changed after all: its old process goes on.
func (w *Swap) Commit(ctx context.Context) error {
	err := fmt.Errorf("reloading plugins: %w: the swap has ended", ErrUnavailable)
	w.once.Do(func() { err = w.host.commit(ctx, w) })
	return err
}

// Abort stops the new processes and leaves everything as it was. After Commit
// it does nothing.
func (w *Swap) Abort() {
	w.once.Do(func() {
		w.host.reload.Lock()
		defer w.host.reload.Unlock()
		w.host.pending = nil
		w.discard()
	})
}

// discard undoes what Prepare has done.
func (w *Swap) discard() {
	var group sync.WaitGroup
	for _, c := range w.candidates {
		if c.process != nil {
			group.Go(func() { c.drop(w.host.hard) })
		}
	}
	group.Wait()
}

// drop stops a process that never served.
func (c *candidate) drop(hard context.Context) {
	c.process.close()
	c.process.stop(hard)
	c.process.binary.release()
	c.process = nil
}

func (h *Host) commit(ctx context.Context, w *Swap) error {
	h.reload.Lock()
	defer h.reload.Unlock()
	if h.pending != w { // Stop has aborted it
		return fmt.Errorf("reloading plugins: %w: the plugin host is stopped", ErrUnavailable)
	}
	h.pending = nil
	changes := w.Changes()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(w.candidates)) {
		if c := w.candidates[name]; c.kind != Added {
			if err := h.adopt(ctx, c); err != nil {
				errs = append(errs, fmt.Errorf("replacing the process of transport %q: %w", name, err))
			}
		}
	}
	h.options.Plugins, h.options.Egress = w.settings, w.egress
	h.applyTable(w)
	for _, change := range changes {
		h.options.Logger.Info("plugin reloaded", "transport", change.Transport, "change", string(change.Kind), "from", change.From, "to", change.To)
	}
	return errors.Join(errs...)
}

// adopt hands a process over to its supervisor.
func (h *Host) adopt(ctx context.Context, c *candidate) error {
	s := c.supervisor
	s.mu.Lock()
	previous := s.options
	s.options = c.options
	s.mu.Unlock()
	answer := make(chan error, 1)
	var err error
	select {
	case s.adopted <- adoption{process: c.process, answer: answer}:
		err = <-answer
	case <-ctx.Done():
		err = ctx.Err()
	case <-h.running.Done():
		err = ErrUnavailable
	}
	if err == nil {
		return nil
	}
	s.mu.Lock()
	s.options = previous
	s.mu.Unlock()
	c.drop(h.hard)
	return err
}

// applyTable publishes added transports and lets removed ones go.
func (h *Host) applyTable(w *Swap) {
	old := h.table.Load()
	next := &table{transports: maps.Clone(old.transports), rejected: w.rejected}
	for name, c := range w.candidates {
		if c.kind != Added {
			continue
		}
		if c.process != nil {
			c.supervisor.serving.Store(c.process)
		}
		next.transports[name] = c.supervisor
	}
	for _, name := range w.removed {
		delete(next.transports, name)
	}
	h.table.Store(next)
	for _, c := range w.candidates {
		if c.kind == Added {
			h.supervise(c.supervisor, c.process)
		}
	}
	for _, name := range w.removed {
		old.transports[name].leave()
	}
}
