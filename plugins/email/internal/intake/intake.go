// Package intake bounds the memory that large messages take in this process,
// however many the daemon sends at once: few are read and composed at a time,
// and what then waits for its connection waits on disk.
//
// It must never make a message wait for another destination's server: a turn
// lasts for as long as reading and composing take, and never until something
// was sent.
package intake

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	// Large is the size of payloads, and of messages, that are counted, bytes.
	// What is smaller is bounded by the daemon's concurrency alone.
	Large = 256 << 10
	// turns is how many large requests are read and composed at once. More would
	// not be faster: this takes CPU and no waiting.
	turns = 2
	// kept bounds the large messages that wait in memory, bytes.
	kept = 8 << 20
	// longestTurn bounds how long one request keeps others from being read, if it is not
	// composed since its destination has no free slot.
	longestTurn = 250 * time.Millisecond
	// window is what a request takes before it is read: gRPC receives this many
	// bytes of each without asking. The SDK's default of 1 MiB is a whole
	// attachment.
	window = 64 << 10
)

// Intake is shared by all instances of the process.
type Intake struct {
	turns   chan struct{}
	longest time.Duration
	memory  *semaphore.Weighted
}

// New makes an Intake.
func New() *Intake {
	return &Intake{turns: make(chan struct{}, turns), longest: longestTurn, memory: semaphore.NewWeighted(kept)}
}

// Option makes the plugin's server take turns.
func (in *Intake) Option() transport.ServeOption {
	return transport.WithGRPC(grpc.InitialWindowSize(window), grpc.ChainStreamInterceptor(in.intercept))
}

// Keep says whether a message of n bytes may wait in memory; release is called
// when it need not any more. What is small always may.
func (in *Intake) Keep(n int64) (release func(), ok bool) {
	if n < Large {
		return func() {}, true
	}
	if !in.memory.TryAcquire(n) {
		return nil, false
	}
	return func() { in.memory.Release(n) }, true
}

// turn is that of one request.
type turn struct {
	in    *Intake
	items atomic.Int64 // not composed yet
	over  atomic.Bool
	timer *time.Timer
}

type turnKey struct{}

// Composed says that an item of the request of ctx needs its payload no more.
func Composed(ctx context.Context) {
	if t, ok := ctx.Value(turnKey{}).(*turn); ok && t.items.Add(-1) == 0 {
		t.end()
	}
}

func (t *turn) end() {
	if t.over.CompareAndSwap(false, true) {
		<-t.in.turns
	}
}

func (in *Intake) intercept(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod != transportv1.Transport_Deliver_FullMethodName {
		return handler(server, stream)
	}
	t := &turn{in: in}
	t.over.Store(true) // none was taken yet
	defer t.close()
	return handler(server, &reading{ServerStream: stream, turn: t, ctx: context.WithValue(stream.Context(), turnKey{}, t)})
}

func (t *turn) close() {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.end()
}

// reading is a request that is read in its turn.
type reading struct {
	grpc.ServerStream

	turn  *turn
	ctx   context.Context
	began bool
}

// Context carries the turn to Composed.
func (r *reading) Context() context.Context { return r.ctx }

// RecvMsg reads the request. Its turn ends here if it is small.
func (r *reading) RecvMsg(message any) error {
	if r.began { // there is one request in a call: this can only find its end
		return r.ServerStream.RecvMsg(message)
	}
	r.began = true
	t := r.turn
	select {
	case t.in.turns <- struct{}{}:
		t.over.Store(false)
	case <-r.ctx.Done():
		return status.FromContextError(r.ctx.Err()).Err()
	}
	request, ok := message.(*transportv1.DeliverRequest)
	if err := r.ServerStream.RecvMsg(message); err != nil || !ok || size(request) < Large {
		t.end()
		return err
	}
	t.items.Store(int64(len(request.GetItems())))
	t.timer = time.AfterFunc(t.in.longest, t.end)
	return nil
}

func size(request *transportv1.DeliverRequest) (n int) {
	for _, item := range request.GetItems() {
		n += len(item.GetData())
	}
	return n
}
