package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

const (
	hostVersion = "0.1.0"
	// callTimeout bounds a call that should answer at once.
	callTimeout = 10 * time.Second
	// slack is what the contract gives deadlines and cancels.
	slack = 500 * time.Millisecond
)

// session is one process with its peer during one case.
type session struct {
	target   Target
	process  *Process
	client   transportv1.TransportClient
	peer     Peer // nil without Target.Peer
	describe *transportv1.DescribeResponse
	config   []byte
}

func newSession(ctx context.Context, t Target) (*session, error) {
	s := &session{target: t, config: []byte(t.Config)}
	if t.Peer != nil {
		peer, err := t.Peer()
		if err != nil {
			return nil, fmt.Errorf("starting the peer: %w", err)
		}
		s.peer, s.config = peer, []byte(strings.ReplaceAll(t.Config, "{{peer}}", peer.Address()))
	}
	p, err := StartProcess(ctx, t.Command, t.Environment...)
	if err != nil {
		s.closePeer()
		return nil, err
	}
	s.process, s.client = p, p.Client
	if err := s.prepare(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepare learns the schema and fills in defaults, as the host would.
func (s *session) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	if s.describe, err = s.client.Describe(ctx, &transportv1.DescribeRequest{HostVersion: hostVersion}); err != nil {
		return fmt.Errorf("calling Describe: %w", err)
	}
	filled, diagnostics := schema.Check(s.describe.GetSchema(), s.config)
	if diagnostics.HasErrors() {
		return fmt.Errorf("the configuration given to the kit does not fit the plugin's schema: %s", diagnostics)
	}
	s.config = filled
	return nil
}

func (s *session) close() {
	if s.process != nil {
		s.process.Stop()
	}
	s.closePeer()
}

func (s *session) closePeer() {
	if s.peer != nil {
		s.peer.Release()
		s.peer.Close()
	}
}

// aftermath checks what must hold at the end of every case.
func (s *session) aftermath() error {
	if out := string(s.process.Stdout()); out != s.process.Handshake+"\n" {
		return fmt.Errorf("standard output holds more than the handshake line: %.200q", out)
	}
	secrets, err := schema.SecretValues(s.describe.GetSchema(), s.config)
	if err != nil {
		return err
	}
	log := s.process.Stderr()
	for i, secret := range append(secrets, s.target.Secrets...) {
		if len(secret) >= 4 && bytes.Contains(log, []byte(secret)) {
			return fmt.Errorf("the log holds a secret (%d of those configured)", i+1)
		}
	}
	return nil
}

// open opens the configuration as one generation of an instance.
func (s *session) open(ctx context.Context, generation uint64) (*transportv1.InstanceRef, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ref := &transportv1.InstanceRef{Id: "conformance", Generation: generation}
	cidrs := s.target.AllowCIDRs
	if cidrs == nil {
		cidrs = []string{"127.0.0.0/8", "::1/128"}
	}
	request := &transportv1.OpenRequest{
		Instance: ref, Config: &transportv1.Config{Json: s.config}, Egress: &transportv1.EgressPolicy{AllowCidrs: cidrs},
		OrganizationId: "acme", Label: "conformance",
	}
	for i, key := range s.target.Secrets {
		request.Secrets = append(request.Secrets, &transportv1.Secret{Id: fmt.Sprintf("secret-%d", i+1), Key: key, Algorithm: "HMAC-SHA256"})
	}
	response, err := s.client.Open(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("calling Open: %w", err)
	}
	if d := schema.FromProto(response.GetDiagnostics()); d.HasErrors() {
		return nil, fmt.Errorf("opening a valid configuration: %s", d)
	}
	return ref, nil
}

// items makes n items for the first instance of a batch.
func items(n int, timeout time.Duration) []*transportv1.Item {
	list := make([]*transportv1.Item, n)
	now := time.Now()
	for i := range list {
		list[i] = &transportv1.Item{
			Id: fmt.Sprintf("item_%06d", i), Attempt: 1, Deadline: timestamppb.New(now.Add(timeout)), DeliveryId: "dlv_1",
			OrganizationId: "acme", Type: "conformance.test", CreatedAt: timestamppb.New(now),
			Data: fmt.Appendf(nil, `{"number":%d,"pad":"%s"}`, i, strings.Repeat("x", 900)), Metadata: []byte(`{"kit":true}`),
		}
	}
	return list
}

// batch is a Deliver call under way.
type batch struct {
	stream  transportv1.Transport_DeliverClient
	items   map[string]bool
	results map[string]*transportv1.Result
}

func (s *session) start(ctx context.Context, list []*transportv1.Item, refs ...*transportv1.InstanceRef) (*batch, error) {
	stream, err := s.client.Deliver(ctx, &transportv1.DeliverRequest{Instances: refs, Items: list})
	if err != nil {
		return nil, fmt.Errorf("calling Deliver: %w", err)
	}
	b := &batch{stream: stream, items: map[string]bool{}, results: map[string]*transportv1.Result{}}
	for _, item := range list {
		b.items[item.GetId()] = true
	}
	return b, nil
}

// until reads results until there are n, checking each; io.EOF is the end of
// the stream.
func (b *batch) until(n int) error {
	for len(b.results) < n {
		response, err := b.stream.Recv()
		if err != nil {
			return err
		}
		for _, r := range response.GetResults() {
			if err := b.take(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *batch) take(r *transportv1.Result) error {
	switch {
	case !b.items[r.GetId()]:
		return fmt.Errorf("a result for item %.100q, which was not asked for", r.GetId())
	case b.results[r.GetId()] != nil:
		return fmt.Errorf("a second result for item %q", r.GetId())
	}
	b.results[r.GetId()] = r
	if err := checkResult(r); err != nil {
		return fmt.Errorf("result of item %q: %w", r.GetId(), err)
	}
	return nil
}

// rest reads to the end of the stream and wants one result per item.
func (b *batch) rest() error {
	err := b.until(len(b.items) + 1)
	switch {
	case err == nil:
		return errors.New("more results than items")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading results: %w", err)
	case len(b.results) != len(b.items):
		return fmt.Errorf("%d results for %d items", len(b.results), len(b.items))
	}
	return nil
}

// deliver runs a whole batch.
func (s *session) deliver(ctx context.Context, list []*transportv1.Item, refs ...*transportv1.InstanceRef) (map[string]*transportv1.Result, error) {
	b, err := s.start(ctx, list, refs...)
	if err != nil {
		return nil, err
	}
	if err := b.rest(); err != nil {
		return nil, err
	}
	return b.results, nil
}

// delivered wants every item delivered.
func delivered(results map[string]*transportv1.Result) error {
	for id, r := range results {
		if r.GetSuccess() == nil {
			return fmt.Errorf("item %q was not delivered to a peer that takes everything: %v", id, r.GetFailure())
		}
	}
	return nil
}

// without gives config less the attribute at path.
func without(config []byte, path schema.Path) ([]byte, error) {
	var root map[string]any
	if err := json.Unmarshal(config, &root); err != nil {
		return nil, err
	}
	var at any = root
	for i, step := range path {
		if step.IsIndex {
			at = at.([]any)[step.Index]
			continue
		}
		object := at.(map[string]any)
		if i == len(path)-1 {
			delete(object, step.Attribute)
			break
		}
		at = object[step.Attribute]
	}
	return json.Marshal(root)
}
