package pluginhost

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Prepare reads the directory again, with new settings and a new egress policy
// (nil: public targets only), and starts what is new or changed beside what
// serves: describes it, asks CheckSchema, opens all instances in it. Nothing that
// serves is touched. What cannot be used is in Failures and Problems. The error is
// one of the directory or the settings.
func (h *Host) Prepare(ctx context.Context, plugins map[string]PluginOptions, egress *transportv1.EgressPolicy) (*Swap, error) {
	h.reload.Lock()
	defer h.reload.Unlock()
	switch {
	case h.running.Err() != nil || h.state == nil:
		return nil, fmt.Errorf("reloading plugins: %w: the plugin host does not run", ErrUnavailable)
	case h.pending != nil:
		return nil, ErrReloading
	}
	for _, name := range slices.Sorted(maps.Keys(plugins)) {
		if err := plugins[name].check(); err != nil {
			return nil, fmt.Errorf("reloading plugins: settings of plugin %q: %w", name, err)
		}
	}
	found, rejected, err := discover(h.options.Directory)
	if err != nil {
		return nil, fmt.Errorf("reloading plugins: %w", err)
	}
	h.report(plugins, found, rejected)
	if egress == nil {
		egress = &transportv1.EgressPolicy{}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.running, cancel)()

	swap := &Swap{host: h, settings: maps.Clone(plugins), egress: egress, rejected: rejected, candidates: make(map[string]*candidate)}
	swap.problems = append(swap.problems, rejected...)
	swap.prepareAll(ctx, found)
	if err := ctx.Err(); err != nil {
		swap.discard()
		return nil, fmt.Errorf("reloading plugins: %w", err)
	}
	h.pending = swap
	return swap, nil
}

// prepareAll prepares the files in parallel; launch bounds how many start at once.
func (w *Swap) prepareAll(ctx context.Context, found []pluginFile) {
	transports := w.host.table.Load().transports
	present := make(map[string]bool)
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, file := range found {
		present[file.name] = true
		existing := transports[file.name]
		group.Go(func() {
			c, err := w.prepare(ctx, file, existing)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				w.note(existing, FileFailure{File: file.path, Reason: err.Error()})
			}
			if c != nil {
				w.candidates[file.name] = c
			}
		})
	}
	group.Wait()
	for name, s := range transports {
		if !present[name] {
			w.prepareRemoval(s)
		}
	}
	slices.Sort(w.removed)
	for _, list := range [][]FileFailure{w.failures, w.problems} {
		slices.SortFunc(list, func(a, b FileFailure) int { return strings.Compare(a.File, b.File) })
	}
}

// note keeps why a file cannot be used. A plugin that did not work before is no
// reason to refuse a reload, or a broken one would keep the others as they are.
func (w *Swap) note(existing *supervisor, failure FileFailure) {
	if existing == nil || existing.serving.Load() != nil {
		w.failures = append(w.failures, failure)
	} else {
		w.problems = append(w.problems, failure)
	}
}

// prepareRemoval lets go of a plugin whose file is gone, unless it is in use.
func (w *Swap) prepareRemoval(s *supervisor) {
	s.mu.Lock()
	inUse := len(s.instances)
	s.mu.Unlock()
	if inUse > 0 {
		w.problems = append(w.problems, FileFailure{File: s.path, Reason: fmt.Sprintf("the file is gone, but %d destinations use it: its process goes on", inUse)})
		return
	}
	w.removed = append(w.removed, s.name)
}

// prepare gives nil, nil where nothing has changed.
func (w *Swap) prepare(ctx context.Context, file pluginFile, existing *supervisor) (*candidate, error) {
	options := w.settings[file.name].with(w.egress)
	if existing == nil {
		s := newSupervisor(w.host, file, options)
		c := &candidate{supervisor: s, kind: Added, options: options}
		bin, err := w.host.state.stage(ctx, file.path, options.SHA256)
		if err != nil {
			return c, err
		}
		if c.process, err = s.launch(ctx, bin, options); err != nil {
			bin.release()
		}
		return c, err
	}
	bin, err := w.host.state.stage(ctx, file.path, options.SHA256)
	if err != nil {
		return nil, err
	}
	c := &candidate{supervisor: existing, options: options}
	if c.kind = existing.changeTo(bin, options); c.kind == "" {
		bin.release()
		return nil, nil
	}
	if c.process, c.from, err = w.prepareReplacement(ctx, existing, bin, options); err != nil {
		bin.release()
		return nil, err
	}
	return c, nil
}

// changeTo compares what runs with what would run.
func (s *supervisor) changeTo(bin *binary, options PluginOptions) ChangeKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.binary == nil || s.binary.sha256 != bin.sha256 || !s.options.equal(options):
		return Replaced
	case s.serving.Load() == nil:
		return Retried
	}
	return ""
}

// prepareReplacement starts the new process and makes sure that it can do what
// the old one does.
func (w *Swap) prepareReplacement(ctx context.Context, s *supervisor, bin *binary, options PluginOptions) (p *process, from string, err error) {
	candidate, err := s.launch(ctx, bin, options)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			candidate.destroy()
		}
	}()
	s.mu.Lock()
	previous := s.described
	s.mu.Unlock()
	if previous != nil {
		if err := w.host.options.CheckSchema(s.name, previous, candidate.describe); err != nil {
			return nil, "", fmt.Errorf("version %s cannot replace %s: %w", candidate.describe.GetVersion(), previous.GetVersion(), err)
		}
	}
	if err := s.complete(ctx, candidate, false); err != nil {
		return nil, "", fmt.Errorf("opening its instances: %w", candidate.explain(ctx, err))
	}
	if reason := s.newRefusal(candidate); reason != "" {
		return nil, "", fmt.Errorf("version %s refuses a destination that is in use: %s", candidate.describe.GetVersion(), reason)
	}
	return candidate, previous.GetVersion(), nil
}

// newRefusal gives what p refuses and the process that serves does not.
func (s *supervisor) newRefusal(p *process) string {
	refused := p.refusals.Load()
	if refused == nil {
		return ""
	}
	known := map[instanceKey]string{}
	if serving := s.serving.Load(); serving == nil {
		return "" // anything is better than no process
	} else if r := serving.refusals.Load(); r != nil {
		known = r.reasons
	}
	for key, reason := range refused.reasons {
		if known[key] == "" {
			return reason
		}
	}
	return ""
}
