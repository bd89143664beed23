package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/pace"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// Server is the gRPC service of one plugin. Serve makes one for the process;
// tests make one with NewServer and register it where they like.
type Server struct {
	transportv1.UnimplementedTransportServer

	describe *transportv1.DescribeResponse
	validate func(config []byte) Diagnostics
	open     func(ctx context.Context, instance Instance, config []byte) (Transport, Diagnostics, error)
	log      *slog.Logger
	pool     *pool
	onCall   func() // first call of the host; see capturedOutput
	pacer    *pace.Pacer
	// grpcOptions are those of WithGRPC.
	grpcOptions []grpc.ServerOption

	mu        sync.RWMutex
	instances map[instanceKey]*instance
}

type instanceKey struct {
	id         string
	generation uint64
}

// instance is an opened Transport with its share of the pool.
type instance struct {
	key       instanceKey
	name      string
	transport Transport
	limit     int
	asking    atomic.Bool // Health has been called and has not returned

	// Guarded by pool.mu.
	running  int
	waiting  fifo
	draining bool
	drained  chan struct{}
	isDone   bool
}

func (i *instance) drainedLocked() {
	if !i.isDone {
		i.isDone = true
		close(i.drained)
	}
}

// NewServer checks p and makes its service. log receives what the transport
// and the SDK have to say; nil discards it.
func NewServer[C any](p Plugin[C], log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	configSchema, err := schema.Of[C]()
	if err != nil {
		return nil, fmt.Errorf("config of plugin %q: %w", p.Name, err)
	}
	if err := checkIdentity(p.Name, p.Version, p.Summary, p.Open != nil); err != nil {
		return nil, err
	}
	s := &Server{
		describe: &transportv1.DescribeResponse{
			Name: p.Name, Version: p.Version, Summary: p.Summary, Homepage: p.Homepage,
			Schema: configSchema, Capabilities: p.Capabilities.proto(),
		},
		log: log, pool: newPool(p.Capabilities.MaxInFlight), instances: map[instanceKey]*instance{}, onCall: func() {},
	}
	s.validate = func(config []byte) Diagnostics {
		_, diagnostics := decode[C](configSchema, config)
		return diagnostics
	}
	s.open = func(ctx context.Context, in Instance, config []byte) (Transport, Diagnostics, error) {
		decoded, diagnostics := decode[C](configSchema, config)
		if diagnostics.HasErrors() {
			return nil, diagnostics, nil
		}
		t, err := p.Open(ctx, in, decoded)
		return t, diagnostics, err
	}
	return s, nil
}

var (
	nameForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,49}$`)
	semverForm = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

func checkIdentity(name, version, summary string, open bool) error {
	switch {
	case !nameForm.MatchString(name):
		return fmt.Errorf("plugin name %q: want lower case letters, digits and '-', starting with a letter, at most 50", name)
	case !semverForm.MatchString(version):
		return fmt.Errorf("version %q of plugin %q: want semver such as 1.2.3", version, name)
	case summary == "":
		return fmt.Errorf("plugin %q has no summary: want one sentence for people", name)
	case !open:
		return fmt.Errorf("plugin %q has no Open", name)
	}
	return nil
}

// decode checks config against the schema, decodes it and asks the config itself.
func decode[C any](s *transportv1.ConfigSchema, config []byte) (*C, Diagnostics) {
	filled, diagnostics := schema.Check(s, config)
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	decoded := new(C)
	diagnostics = append(diagnostics, schema.Decode(filled, decoded)...)
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	if v, ok := any(decoded).(interface{ Validate() Diagnostics }); ok {
		diagnostics = append(diagnostics, v.Validate()...)
	}
	return decoded, diagnostics
}

// Describe answers from memory.
func (s *Server) Describe(context.Context, *transportv1.DescribeRequest) (*transportv1.DescribeResponse, error) {
	s.onCall()
	return s.describe, nil
}

// Validate checks a configuration; no network, no files.
func (s *Server) Validate(_ context.Context, r *transportv1.ValidateRequest) (*transportv1.ValidateResponse, error) {
	s.onCall()
	var diagnostics Diagnostics
	if err := s.guarded("Validate", func() { diagnostics = s.validate(r.GetConfig().GetJson()) }); err != nil {
		return nil, err
	}
	return &transportv1.ValidateResponse{Diagnostics: diagnostics.Proto()}, nil
}

// Open makes an instance, unless a diagnostic is an error.
func (s *Server) Open(ctx context.Context, r *transportv1.OpenRequest) (*transportv1.OpenResponse, error) {
	s.onCall()
	guard, err := egress.New(egress.Policy{AllowCIDRs: r.GetEgress().GetAllowCidrs(), AllowHosts: r.GetEgress().GetAllowHosts()})
	if err != nil {
		return &transportv1.OpenResponse{Diagnostics: Diagnostics{schema.Errorf(nil, "egress policy of the host: %v", err)}.Proto()}, nil //nolint:nilerr // it is told as a diagnostic
	}
	i := &instance{
		key:   instanceKey{r.GetInstance().GetId(), r.GetInstance().GetGeneration()},
		name:  r.GetOrganizationId() + "/" + r.GetLabel(),
		limit: int(r.GetConcurrency()), drained: make(chan struct{}),
	}
	if !s.reserve(i) {
		return nil, status.Errorf(codes.AlreadyExists, "instance %s generation %d is open", i.key.id, i.key.generation)
	}
	var t Transport
	var diagnostics Diagnostics
	if panicked := s.guarded("Open", func() { t, diagnostics, err = s.open(ctx, s.instanceOf(r, guard), r.GetConfig().GetJson()) }); panicked != nil {
		s.settle(i, nil, true)
		return nil, panicked
	}
	if err != nil {
		t = nil // authors return a nil pointer as a Transport that is not nil
		diagnostics = append(diagnostics, diagnosticOf(err))
	}
	if t == nil && !diagnostics.HasErrors() {
		diagnostics = append(diagnostics, schema.Errorf(nil, "the transport's Open returned neither a transport nor an error"))
	}
	s.settle(i, t, diagnostics.HasErrors())
	return &transportv1.OpenResponse{Diagnostics: diagnostics.Proto()}, nil
}

func (s *Server) instanceOf(r *transportv1.OpenRequest, guard *egress.Guard) Instance {
	in := Instance{
		ID: r.GetInstance().GetId(), Generation: r.GetInstance().GetGeneration(), OrganizationID: r.GetOrganizationId(),
		Label: r.GetLabel(), Concurrency: int(r.GetConcurrency()), Egress: guard,
		Logger: s.log.With("destination", r.GetOrganizationId()+"/"+r.GetLabel()),
	}
	for _, secret := range r.GetSecrets() {
		one := Secret{ID: secret.GetId(), Key: secret.GetKey(), Algorithm: secret.GetAlgorithm()}
		if secret.GetExpiresAt() != nil {
			one.ExpiresAt = secret.GetExpiresAt().AsTime()
		}
		in.Secrets = append(in.Secrets, one)
	}
	return in
}

// diagnosticOf keeps the path of an error that already is a diagnostic.
func diagnosticOf(err error) Diagnostic {
	var d Diagnostic
	if errors.As(err, &d) {
		return d
	}
	return schema.Errorf(nil, "opening the destination: %v", err)
}

// reserve takes the key of i, so that two concurrent Opens cannot both succeed.
func (s *Server) reserve(i *instance) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.instances[i.key]; taken {
		return false
	}
	s.instances[i.key] = i
	return true
}

// settle makes i usable, or forgets it.
func (s *Server) settle(i *instance, t Transport, failed bool) {
	s.mu.Lock()
	if failed {
		delete(s.instances, i.key)
	} else {
		i.transport = t
	}
	s.mu.Unlock()
	if failed && t != nil {
		s.closeTransport(context.Background(), t, i.name)
	}
}

// lookup finds opened instances; nil stands for each that is not open.
func (s *Server) lookup(refs []*transportv1.InstanceRef) []*instance {
	found := make([]*instance, len(refs))
	s.mu.RLock()
	defer s.mu.RUnlock()
	for n, ref := range refs {
		if i := s.instances[instanceKey{ref.GetId(), ref.GetGeneration()}]; i != nil && i.transport != nil {
			found[n] = i
		}
	}
	return found
}

// Close drains an instance. When the call ends before the items do, they go on
// and the instance is closed after the last of them.
func (s *Server) Close(ctx context.Context, r *transportv1.CloseRequest) (*transportv1.CloseResponse, error) {
	s.onCall()
	i := s.lookup([]*transportv1.InstanceRef{r.GetInstance()})[0]
	if i == nil {
		return &transportv1.CloseResponse{}, nil
	}
	drained := s.pool.drain(i)
	select {
	case <-drained:
		s.forget(ctx, i)
		return &transportv1.CloseResponse{}, nil
	case <-ctx.Done():
		go func() {
			<-drained
			s.forget(context.Background(), i)
		}()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// forget removes i and closes its transport, once however often it is called.
func (s *Server) forget(ctx context.Context, i *instance) {
	s.mu.Lock()
	present := s.instances[i.key] == i
	if present {
		delete(s.instances, i.key)
	}
	s.mu.Unlock()
	if present {
		s.closeTransport(ctx, i.transport, i.name)
	}
}

func (s *Server) closeTransport(ctx context.Context, t Transport, name string) {
	c, ok := t.(Closer)
	if !ok {
		return
	}
	var err error
	if panicked := s.guarded("Close", func() { err = c.Close(ctx) }); panicked != nil {
		err = panicked
	}
	if err != nil {
		s.log.Warn("closing a destination", "destination", name, "error", err.Error())
	}
}

// TestConnection tries the peer of an opened instance.
func (s *Server) TestConnection(ctx context.Context, r *transportv1.TestConnectionRequest) (*transportv1.TestConnectionResponse, error) {
	s.onCall()
	i := s.lookup([]*transportv1.InstanceRef{r.GetInstance()})[0]
	if i == nil {
		return nil, status.Errorf(codes.NotFound, "instance %s generation %d is not open", r.GetInstance().GetId(), r.GetInstance().GetGeneration())
	}
	tester, ok := i.transport.(Tester)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "this transport cannot test a connection")
	}
	response := &transportv1.TestConnectionResponse{}
	err := s.guarded("TestConnection", func() {
		for _, step := range tester.TestConnection(ctx, r.GetPing()) {
			response.Steps = append(response.Steps, step.proto())
		}
	})
	return response, err
}

// shutdown drains every instance for at most grace and closes it.
func (s *Server) shutdown(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var wg sync.WaitGroup
	for _, i := range s.healthTargets(nil) {
		wg.Go(func() {
			select {
			case <-s.pool.drain(i):
				s.forget(ctx, i)
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
	s.pool.close()
}

// guarded runs the author's code. One destination whose configuration makes it
// panic must not take down the process that serves all the others; the text of
// the panic may hold anything, so it stays in the plugin's log.
func (s *Server) guarded(call string, run func()) (err error) {
	defer func() {
		if value := recover(); value != nil {
			s.log.Error("transport panicked", "call", call, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "the transport panicked in %s; its log has the stack", call)
		}
	}()
	run()
	return nil
}

func (c Capabilities) proto() *transportv1.Capabilities {
	return &transportv1.Capabilities{
		MaxBatch: uint32(max(c.MaxBatch, 0)), MaxInFlight: uint32(max(c.MaxInFlight, 0)), MaxItemBytes: uint64(max(c.MaxItemBytes, 0)),
		Upload: c.Upload, TestConnection: c.TestConnection, Idempotent: c.Idempotent, Features: c.Features,
	}
}
