package pluginhost

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestConnectionIsKeptWhenStdioFails: only with these codes does go-plugin give
// the connection to its caller, who closes it; else it leaks.
func TestConnectionIsKeptWhenStdioFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		method    string
		got, want codes.Code
	}{
		{"/plugin.GRPCStdio/StreamStdio", codes.Canceled, codes.Unavailable},
		{"/plugin.GRPCStdio/StreamStdio", codes.Internal, codes.Unavailable},
		{"/plugin.GRPCStdio/StreamStdio", codes.Unimplemented, codes.Unimplemented},
		{"/plugin.GRPCStdio/StreamStdio", codes.OK, codes.OK},
		{"/deliveryd.transport.v1.Transport/Deliver", codes.Canceled, codes.Canceled},
	}
	for _, test := range tests {
		next := func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			return nil, status.Error(test.got, "as told")
		}
		if _, err := keepConnection(t.Context(), nil, nil, test.method, next); status.Code(err) != test.want {
			t.Errorf("%s with %v gives %v, want %v", test.method, test.got, status.Code(err), test.want)
		}
	}
}
