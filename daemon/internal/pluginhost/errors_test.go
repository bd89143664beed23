package pluginhost

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestCallErrorTellsThatTheProcessIsGone, whatever gRPC makes of it.
func TestCallErrorTellsThatTheProcessIsGone(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	close(gone)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context //nolint:containedctx // a case of the table
		gone chan struct{}
		code codes.Code
		want error // ErrUnavailable or another that the error must be
	}{
		"the connection broke":           {t.Context(), nil, codes.Unavailable, ErrUnavailable},
		"the host closed the connection": {t.Context(), nil, codes.Canceled, ErrUnavailable},
		"gone, cut in the middle":        {t.Context(), gone, codes.Internal, ErrUnavailable},
		"gone when the time was over":    {t.Context(), gone, codes.DeadlineExceeded, ErrUnavailable},
		"gone, and the caller gave up":   {cancelled, gone, codes.Canceled, ErrUnavailable},
		"the caller gave up":             {cancelled, nil, codes.Canceled, context.Canceled},
		"the plugin did not answer":      {t.Context(), nil, codes.DeadlineExceeded, context.DeadlineExceeded},
		"the plugin says that it failed": {t.Context(), nil, codes.Internal, nil},
		"the plugin does not support it": {t.Context(), nil, codes.Unimplemented, nil},
	} {
		p := &process{name: "x", log: &pluginLog{show: same}, child: &child{gone: c.gone}}
		err := p.callError(c.ctx, "opening", status.Error(c.code, "words"))
		if got := errors.Is(err, ErrUnavailable); got != errors.Is(c.want, ErrUnavailable) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
