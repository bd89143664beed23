package sink

import (
	"bytes"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Interceptor breaks the promises that the SDK keeps for every plugin: it
// changes results on their way out.
func (s *Sink) Interceptor() grpc.ServerOption {
	return grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if info.FullMethod != transportv1.Transport_Deliver_FullMethodName {
			return handler(srv, stream)
		}
		return handler(srv, &mangler{ServerStream: stream, sink: s})
	})
}

// mangler is the stream of one batch.
type mangler struct {
	grpc.ServerStream
	sink  *Sink
	items map[string]*Config // nil where every instance behaves
}

// RecvMsg learns which item belongs to which configuration.
func (m *mangler) RecvMsg(message any) error {
	if err := m.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	request, ok := message.(*transportv1.DeliverRequest)
	if !ok {
		return nil
	}
	configs := m.sink.configs(request.GetInstances())
	for _, item := range request.GetItems() {
		if int(item.GetInstance()) >= len(configs) {
			continue
		}
		c := configs[item.GetInstance()]
		if c == nil || !c.mangles() {
			continue
		}
		if c.DeliverStatus != "" {
			return status.Error(map[string]codes.Code{
				"internal": codes.Internal, "unavailable": codes.Unavailable, "unimplemented": codes.Unimplemented,
			}[c.DeliverStatus], "told to fail")
		}
		if m.items == nil {
			m.items = map[string]*Config{}
		}
		m.items[item.GetId()] = c
	}
	return nil
}

func (s *Sink) configs(refs []*transportv1.InstanceRef) []*Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	configs := make([]*Config, len(refs))
	for n, ref := range refs {
		if i := s.instances[keyOf(ref)]; i != nil {
			configs[n] = i.config
		}
	}
	return configs
}

func (c *Config) mangles() bool {
	return c.WrongIDs || c.DuplicateResults || c.MissingResults || c.OutOfRange || c.NoOutcome || c.DeliverStatus != ""
}

// SendMsg changes the results of items whose configuration says so.
func (m *mangler) SendMsg(message any) error {
	response, ok := message.(*transportv1.DeliverResponse)
	if !ok || m.items == nil {
		return m.ServerStream.SendMsg(message)
	}
	changed := &transportv1.DeliverResponse{}
	for _, r := range response.GetResults() {
		changed.Results = append(changed.Results, mangle(r, m.items[r.GetId()])...)
	}
	return m.ServerStream.SendMsg(changed)
}

func mangle(r *transportv1.Result, c *Config) []*transportv1.Result {
	if c == nil {
		return []*transportv1.Result{r}
	}
	changed := &transportv1.Result{Id: r.GetId(), Outcome: r.GetOutcome(), Took: r.GetTook()}
	if c.WrongIDs {
		changed.Id = "never-asked-for-" + r.GetId()
	}
	if c.NoOutcome {
		changed.Outcome = nil
	}
	if c.OutOfRange {
		changed.Took = &durationpb.Duration{Seconds: -1 << 40, Nanos: -1}
		changed.Resume = bytes.Repeat([]byte("r"), 1<<20)
		changed.Outcome = &transportv1.Result_Failure{Failure: &transportv1.Failure{
			Class: 99, Code: string(bytes.Repeat([]byte("c"), 10_000)), Message: string(bytes.Repeat([]byte("m"), 1<<20)),
			RetryAfter: &durationpb.Duration{Seconds: 1 << 40}, Status: 1 << 31, Excerpt: bytes.Repeat([]byte{0}, 1<<20),
		}}
	}
	switch {
	case c.MissingResults:
		return nil
	case c.DuplicateResults:
		return []*transportv1.Result{changed, changed}
	default:
		return []*transportv1.Result{changed}
	}
}
