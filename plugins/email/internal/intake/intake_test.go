package intake

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// call is a request on its way through the interceptor.
type call struct {
	grpc.ServerStream

	ctx  context.Context
	size int
}

func (c *call) Context() context.Context { return c.ctx }

func (c *call) RecvMsg(message any) error {
	request, _ := message.(*transportv1.DeliverRequest)
	request.Items = []*transportv1.Item{{Data: make([]byte, c.size)}}
	return nil
}

// serve runs a call whose handler says when it has read its request, and goes on
// when it is told to. The context is the one that the transport gets.
func serve(ctx context.Context, in *Intake, size int) (read chan context.Context, finish func(), ended chan error) {
	read, ended = make(chan context.Context, 1), make(chan error, 1)
	release := make(chan struct{})
	go func() {
		info := &grpc.StreamServerInfo{FullMethod: transportv1.Transport_Deliver_FullMethodName}
		ended <- in.intercept(nil, &call{ctx: ctx, size: size}, info, func(_ any, stream grpc.ServerStream) error {
			if err := stream.RecvMsg(&transportv1.DeliverRequest{}); err != nil {
				return err
			}
			read <- stream.Context()
			<-release
			return nil
		})
	}()
	return read, func() { close(release) }, ended
}

func TestTurns(t *testing.T) {
	t.Parallel()
	in := New()
	in.longest = time.Hour
	first, finishFirst, _ := serve(t.Context(), in, Large)
	second, finishSecond, _ := serve(t.Context(), in, Large)
	ctx := <-first
	<-second
	defer finishSecond()
	third, finishThird, _ := serve(t.Context(), in, Large)
	defer finishThird()
	canceled, cancel := context.WithCancel(t.Context())
	_, _, ended := serve(canceled, in, Large)
	cancel()
	if err := <-ended; err == nil {
		t.Error("a canceled call was read")
	}
	select {
	case <-third:
		t.Error("three large requests are read at once")
	default:
	}
	Composed(ctx) // the first has a message: it is the third's turn, though the first goes on
	<-third
	finishFirst()
}

// What is not composed, as where its destination has no free slot, keeps others
// from being read for a while only.
func TestTurnsEnd(t *testing.T) {
	t.Parallel()
	in := New()
	in.longest = time.Millisecond
	for range 5 * turns {
		read, finish, _ := serve(t.Context(), in, Large)
		defer finish()
		<-read
	}
}

// Small requests take no turn, however many there are and however long they go on.
func TestSmallRequestsTakeNoTurn(t *testing.T) {
	t.Parallel()
	in := New()
	for range 10 * turns {
		read, finish, _ := serve(t.Context(), in, Large-1)
		defer finish()
		<-read
	}
	Composed(context.Background()) // outside of a request, as in a test of the connection
}

func TestKeep(t *testing.T) {
	t.Parallel()
	in := New()
	release, ok := in.Keep(kept - Large)
	if !ok {
		t.Fatal("the first message finds no room")
	}
	if _, ok := in.Keep(2 * Large); ok {
		t.Error("more than there is room for")
	}
	if _, ok := in.Keep(Large - 1); !ok {
		t.Error("a small message finds no room")
	}
	release()
	if _, ok := in.Keep(kept); !ok {
		t.Error("what was released is not there")
	}
	if _, ok := New().Keep(kept + 1); ok {
		t.Error("a message that is larger than all the room")
	}
}

var errBroken = errors.New("broken")

type broken struct{ call }

func (b *broken) RecvMsg(any) error { return errBroken }

// A call that fails while it is read gives its turn back.
func TestTurnEndsWithTheCall(t *testing.T) {
	t.Parallel()
	in := New()
	info := &grpc.StreamServerInfo{FullMethod: transportv1.Transport_Deliver_FullMethodName}
	for range 10 * turns {
		err := in.intercept(nil, &broken{call{ctx: t.Context()}}, info, func(_ any, stream grpc.ServerStream) error { return stream.RecvMsg(&transportv1.DeliverRequest{}) })
		if !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
	}
	if len(in.turns) != 0 {
		t.Errorf("%d turns are taken", len(in.turns))
	}
}
