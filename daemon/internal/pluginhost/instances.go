package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	openTimeout     = 10 * time.Second
	validateTimeout = 5 * time.Second
	testTimeout     = 2 * time.Minute
	maxTestSteps    = 32
)

type instanceKey struct {
	id         string
	generation uint64
}

func keyOf(ref *transportv1.InstanceRef) instanceKey {
	return instanceKey{id: ref.GetId(), generation: ref.GetGeneration()}
}

// refusals holds which instances a process does not serve, and why. Immutable.
type refusals struct {
	reasons map[instanceKey]string
}

// Describe gives what the plugin said about itself, also while it is down. The
// caller must not change it. ErrUnavailable when it has never been up.
func (h *Host) Describe(transport string) (*transportv1.DescribeResponse, error) {
	s, err := h.lookup(transport)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	described := s.described
	s.mu.Unlock()
	if described == nil {
		return nil, s.unavailable()
	}
	return described, nil
}

// Validate asks the plugin about a configuration, a JSON object. An empty list
// means valid. Errors are those of the plugin or of the transport, never of
// the configuration.
func (h *Host) Validate(ctx context.Context, transport string, configJSON []byte) ([]*transportv1.Diagnostic, error) {
	s, err := h.lookup(transport)
	if err != nil {
		return nil, err
	}
	p, err := s.use()
	if err != nil {
		return nil, err
	}
	defer p.release()
	return p.validate(ctx, configJSON)
}

func (p *process) validate(ctx context.Context, configJSON []byte) ([]*transportv1.Diagnostic, error) {
	ctx, cancel := context.WithTimeout(ctx, validateTimeout)
	defer cancel()
	response, err := p.rpc.Validate(ctx, &transportv1.ValidateRequest{Config: &transportv1.Config{Json: configJSON}})
	if err != nil {
		return nil, p.callError(ctx, "validating a configuration", err)
	}
	return cleanDiagnostics(response.GetDiagnostics(), p.log.shown), nil
}

// Open opens an instance: one generation of a destination's configuration. The
// host remembers it and opens it again in each process that replaces this one,
// until Close. With ErrUnavailable the instance is remembered too and opened
// when the transport becomes ready; should it be refused then, its items get
// results of class CONFIG. With any other error, of which *DiagnosticsError
// means that the plugin refuses the configuration, nothing is remembered.
// Warnings of the plugin are logged.
func (h *Host) Open(ctx context.Context, transport string, req *transportv1.OpenRequest) error {
	if err := checkOpen(req); err != nil {
		return fmt.Errorf("opening an instance of %q: %w", transport, err)
	}
	s, err := h.lookup(transport)
	if err != nil {
		return err
	}
	req = proto.CloneOf(req) // it is kept
	s.remember(req)
	p, err := s.use()
	if err != nil {
		return err
	}
	defer p.release()
	err = p.open(ctx, req)
	switch {
	case errors.Is(err, ErrUnavailable):
		s.suspectIfDead(p, req)
	case err != nil:
		s.forget(req)
	}
	return err
}

func checkOpen(req *transportv1.OpenRequest) error {
	if req.GetInstance().GetId() == "" || req.GetConfig() == nil {
		return fmt.Errorf("%w: it needs an instance id and a config", ErrInvalidRequest)
	}
	return nil
}

// open opens an instance in one process, under the egress policy of that process:
// the next one may have another.
func (p *process) open(ctx context.Context, req *transportv1.OpenRequest) error {
	if req.GetEgress() == nil {
		req = proto.CloneOf(req)
		req.Egress = p.egress
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	response, err := p.rpc.Open(ctx, req)
	if err != nil {
		return p.callError(ctx, fmt.Sprintf("opening instance %s", req.GetInstance().GetId()), err)
	}
	diagnostics := cleanDiagnostics(response.GetDiagnostics(), p.log.shown)
	if hasError(diagnostics) {
		return &DiagnosticsError{Transport: p.name, Diagnostics: diagnostics}
	}
	for _, d := range diagnostics {
		p.log.logger.Warn("plugin warns of a configuration", "organization", req.GetOrganizationId(), "destination", req.GetLabel(), "summary", d.GetSummary(), "detail", d.GetDetail())
	}
	return nil
}

// Close closes an instance after what is in flight has ended, at the latest
// when ctx does. Closing an unknown instance succeeds.
func (h *Host) Close(ctx context.Context, transport string, ref *transportv1.InstanceRef) error {
	s, err := h.lookup(transport)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.instances, keyOf(ref))
	delete(s.suspects, keyOf(ref))
	s.mu.Unlock()
	p, err := s.use()
	if err != nil {
		return nil // no process, no instance
	}
	defer p.release()
	return p.closeInstance(ctx, ref)
}

func (p *process) closeInstance(ctx context.Context, ref *transportv1.InstanceRef) error {
	if _, err := p.rpc.Close(ctx, &transportv1.CloseRequest{Instance: ref}); err != nil {
		return p.callError(ctx, fmt.Sprintf("closing instance %s", ref.GetId()), err)
	}
	return nil
}

// TestConnection has the plugin try the real peer of an open instance. The
// answer may name a failed step; the error is the plugin's own.
func (h *Host) TestConnection(ctx context.Context, transport string, ref *transportv1.InstanceRef, ping bool) (*transportv1.TestConnectionResponse, error) {
	s, err := h.lookup(transport)
	if err != nil {
		return nil, err
	}
	p, err := s.use()
	if err != nil {
		return nil, err
	}
	defer p.release()
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	if err := s.openRefused(ctx, p, ref); err != nil {
		return nil, err
	}
	response, err := p.rpc.TestConnection(ctx, &transportv1.TestConnectionRequest{Instance: ref, Ping: ping})
	if err != nil {
		return nil, p.callError(ctx, fmt.Sprintf("testing the connection of instance %s", ref.GetId()), err)
	}
	response.Steps = response.GetSteps()[:min(len(response.GetSteps()), maxTestSteps)]
	for _, step := range response.GetSteps() {
		step.Name = p.log.shown(step.GetName(), 64)
		step.Detail = p.log.shown(step.GetDetail(), maxTextBytes)
		if failure := step.GetFailure(); failure != nil {
			clipFailure(failure)
			failure.Message = p.log.shown(failure.GetMessage(), maxMessage)
		}
	}
	return response, nil
}

// callError makes the error of a failed call: ErrUnavailable when the process or
// its connection is gone, else the plugin's words, cleaned. What gRPC says of a
// call that a process's end cut depends on who noticed first: the connection that
// broke (Unavailable), or the host, which closed it (Canceled, though nobody
// cancelled the call).
func (p *process) callError(ctx context.Context, doing string, err error) error {
	text := errors.New(p.log.shown(status.Convert(err).Message(), maxTextBytes))
	code := status.Code(err)
	if code == codes.Unavailable || code == codes.Canceled && ctx.Err() == nil || p.isGone() {
		return fmt.Errorf("transport %q: %s: %w: %w", p.name, doing, ErrUnavailable, text)
	}
	switch code {
	case codes.DeadlineExceeded:
		return fmt.Errorf("transport %q: %s: %w: the plugin did not answer in time", p.name, doing, context.DeadlineExceeded)
	case codes.Canceled:
		return fmt.Errorf("transport %q: %s: %w", p.name, doing, context.Canceled)
	case codes.Unimplemented:
		return fmt.Errorf("transport %q: %s: the plugin does not support it", p.name, doing)
	default:
		return fmt.Errorf("transport %q: %s: the plugin failed: %w", p.name, doing, text)
	}
}

func (s *supervisor) remember(req *transportv1.OpenRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances[keyOf(req.GetInstance())] = req
}

// forget forgets req, unless a later request has taken its place.
func (s *supervisor) forget(req *transportv1.OpenRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key := keyOf(req.GetInstance()); s.instances[key] == req {
		delete(s.instances, key)
	}
}
