package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost/supervision"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// supervisor keeps one plugin file running: one goroutine that starts the
// process, watches it, and does what package supervision decides.
type supervisor struct {
	host    *Host
	name    string
	path    string
	logger  hclog.Logger
	tried   chan struct{} // closed after the first start, however it went
	adopted chan adoption // a process that replaces the present one
	leave   func()        // ends run

	serving  atomic.Pointer[process] // what Deliver uses; nil while none is ready
	counters counters

	mu        sync.Mutex
	options   PluginOptions
	machine   *supervision.Machine
	binary    *binary
	described *transportv1.DescribeResponse
	instances map[instanceKey]*transportv1.OpenRequest
	suspects  map[instanceKey]int // how often the process died while it opened an instance
	lastExit  *Exit
	starts    int
	announced announcement
}

// adoption hands a process over to a supervisor. The answer says whether it
// serves now; if not, it still belongs to the sender.
type adoption struct {
	process *process
	answer  chan<- error
}

// announcement is what OnChange was told last.
type announcement struct {
	ready  bool
	reason string
	once   bool // it was told anything at all
}

func newSupervisor(h *Host, file pluginFile, options PluginOptions) *supervisor {
	return &supervisor{
		host: h, name: file.name, path: file.path,
		logger:    h.options.Logger.Named(file.name),
		tried:     make(chan struct{}),
		adopted:   make(chan adoption),
		counters:  newCounters(),
		options:   options,
		machine:   supervision.New(h.options.Supervision, rand.Float64),
		instances: make(map[instanceKey]*transportv1.OpenRequest),
		suspects:  make(map[instanceKey]int),
	}
}

func (s *supervisor) settings() PluginOptions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.options
}

// run supervises until ctx ends, then drains and stops the process. first, if
// not nil, serves already.
func (s *supervisor) run(ctx context.Context, first *process) {
	defer s.markTried() // a Stop before the first try must not leave Start waiting
	var at time.Time
	next := first
	for {
		if next == nil {
			next = s.wait(ctx, at)
		}
		if next == nil && ctx.Err() == nil {
			var err error
			if next, err = s.start(ctx); err != nil {
				at = s.startFailed(ctx, err)
				continue
			}
		}
		if next == nil {
			s.draining()
			return
		}
		next, at = s.serve(ctx, next)
	}
}

func (s *supervisor) draining() {
	s.step(supervision.Event{Kind: supervision.Drain})
	s.announce(false, "the plugin was stopped")
}

// wait returns at the given time, or earlier with a process to adopt or when
// ctx ends.
func (s *supervisor) wait(ctx context.Context, at time.Time) *process {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			return nil
		case a := <-s.adopted:
			err := s.complete(ctx, a.process, true)
			a.answer <- err
			if err == nil {
				s.step(supervision.Event{Kind: supervision.RetryNow}) // the past is another binary's
				return a.process
			}
		}
	}
}

// start launches a process from the copy that ran before, or from the file if
// none has run yet, and opens all instances in it.
func (s *supervisor) start(ctx context.Context) (*process, error) {
	s.step(supervision.Event{Kind: supervision.Launched})
	bin, err := s.staged(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.launch(ctx, bin, s.settings())
	if err != nil {
		return nil, err
	}
	if err := s.complete(ctx, p, true); err != nil {
		err = p.explain(ctx, err)
		p.destroy()
		return nil, err
	}
	return p, nil
}

// staged gives the verified copy.
func (s *supervisor) staged(ctx context.Context) (*binary, error) {
	s.mu.Lock()
	bin, pin := s.binary, s.options.SHA256
	s.mu.Unlock()
	if bin != nil {
		return bin, nil
	}
	bin, err := s.host.state.stage(ctx, s.path, pin)
	if err != nil {
		return nil, err
	}
	s.setBinary(bin)
	return bin, nil
}

func (s *supervisor) setBinary(bin *binary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.binary != nil && s.binary != bin {
		s.binary.release()
	}
	s.binary = bin
}

func (s *supervisor) startFailed(ctx context.Context, err error) time.Time {
	defer s.markTried()
	if ctx.Err() != nil {
		return time.Time{}
	}
	if isPermanent(err) {
		// The file is read again at the next try: someone may have mended it.
		s.setBinary(nil)
	}
	decision := s.step(supervision.Event{Kind: supervision.Exited, Reason: err.Error(), Permanent: isPermanent(err)})
	s.logger.Error("plugin did not start", "file", s.path, "reason", err.Error(), "state", s.state().String(), "next_start_in", time.Until(decision.StartAt).Round(time.Millisecond))
	s.announce(false, err.Error())
	return decision.StartAt
}

// markTried lets Host.Start return. Only the supervisor's goroutine calls it.
func (s *supervisor) markTried() {
	select {
	case <-s.tried:
	default:
		close(s.tried)
	}
}

// serve watches a process that serves until it ends, and returns when to start
// the next one, or until another replaces it, and returns that one. When ctx
// ends it drains and stops the process.
func (s *supervisor) serve(ctx context.Context, p *process) (successor *process, startAt time.Time) {
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	s.publish(p)
	probes := s.probe(probing, p)
	for {
		select {
		case <-ctx.Done():
			s.draining()
			s.serving.Store(nil)
			p.retire(s.host.hard, s.host.options.DrainTimeout)
			return nil, time.Time{}
		case <-p.child.gone:
			return nil, s.ended(p)
		case event := <-probes:
			s.act(p, event)
		case reason := <-p.condemned:
			s.act(p, supervision.Event{Kind: supervision.Condemned, Reason: reason})
		case a := <-s.adopted:
			err := s.complete(ctx, a.process, true)
			a.answer <- err
			if err == nil {
				s.replaced(p)
				return a.process, time.Time{}
			}
		}
	}
}

// publish makes known that p serves.
func (s *supervisor) publish(p *process) {
	p.opened = nil
	s.mu.Lock()
	if s.binary != nil && s.binary.sha256 != p.binary.sha256 {
		s.paroleSuspects()
	}
	s.described = p.describe
	s.starts++
	again := s.starts > 1
	s.mu.Unlock()
	s.setBinary(p.binary)
	s.step(supervision.Event{Kind: supervision.BecameReady})
	s.logger.Info("plugin is ready", "version", p.describe.GetVersion(), "pid", p.child.pid(), "sha256", p.binary.sha256, "restarted", again)
	s.announce(true, "")
	s.markTried()
}

// replaced drains and stops the process that another has replaced.
func (s *supervisor) replaced(old *process) {
	s.host.supervisors.Go(func() {
		old.retire(s.host.hard, s.host.options.DrainTimeout)
		s.logger.Info("plugin was replaced", "version", old.describe.GetVersion(), "sha256", old.binary.sha256)
	})
}

// act carries out a decision about a process that still lives.
func (s *supervisor) act(p *process, event supervision.Event) {
	before := s.state()
	decision := s.step(event)
	if event.Kind == supervision.Missed && before == supervision.Ready {
		s.logger.Warn("plugin does not answer its health probe", "reason", event.Reason)
	}
	if decision.Kill {
		s.logger.Error("plugin is killed", "pid", p.child.pid(), "reason", event.Reason)
		s.host.supervisors.Go(p.abort)
	}
}

// ended takes note of the end of the serving process.
func (s *supervisor) ended(p *process) time.Time {
	s.serving.Store(nil)
	p.close()
	killedFor := ""
	if s.state() == supervision.Degraded {
		s.mu.Lock()
		killedFor = s.machine.Reason()
		s.mu.Unlock()
	}
	<-p.child.drained
	exit := p.exit()
	if killedFor != "" {
		exit.Reason = killedFor + "; " + exit.Reason
	}
	s.mu.Lock()
	s.lastExit = &exit
	s.mu.Unlock()
	decision := s.step(supervision.Event{Kind: supervision.Exited, Reason: exit.Reason})
	s.logger.Error("plugin ended", "pid", p.child.pid(), "uptime", exit.At.Sub(p.started).Round(time.Millisecond), "reason", exit.Reason,
		"state", s.state().String(), "next_start_in", time.Until(decision.StartAt).Round(time.Millisecond))
	s.announce(false, exit.Reason)
	p.destroy()
	return decision.StartAt
}

func (s *supervisor) step(event supervision.Event) supervision.Decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.Step(time.Now(), event)
}

func (s *supervisor) state() supervision.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.State()
}

// announce tells OnChange, unless it knows.
func (s *supervisor) announce(ready bool, reason string) {
	now := announcement{ready: ready, reason: reason, once: true}
	s.mu.Lock()
	known := s.announced == now
	s.announced = now
	s.mu.Unlock()
	if !known {
		s.host.options.OnChange(s.name, ready, reason)
	}
}

// failure tells why the transport does not work now; false when it does.
func (s *supervisor) failure() (FileFailure, bool) {
	if s.serving.Load() != nil {
		return FileFailure{}, false
	}
	return FileFailure{File: s.path, Reason: s.why()}, true
}

func (s *supervisor) why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, reason := s.machine.State(), s.machine.Reason()
	if reason == "" {
		return "it is " + state.String()
	}
	return reason
}

// use finds the serving process and counts a call on it; the caller must
// release it.
func (s *supervisor) use() (*process, error) {
	for {
		p := s.serving.Load()
		if p == nil {
			return nil, s.unavailable()
		}
		if p.acquire() {
			return p, nil
		}
		// It is being replaced or has ended: there is another soon or none.
		if s.serving.Load() == p {
			return nil, s.unavailable()
		}
	}
}

func (s *supervisor) unavailable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("transport %q: %w (%s): %w", s.name, ErrUnavailable, s.machine.State(), errors.New(orUnknown(s.machine.Reason())))
}

func orUnknown(reason string) string {
	if reason == "" {
		return "its process is being started"
	}
	return reason
}
