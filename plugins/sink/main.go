// Command deliveryd-transport-sink takes deliveries and misbehaves on demand;
// it is for tests of the daemon and of a plugin's surroundings.
package main

import (
	"github.com/deliveryd/deliveryd/plugins/sink/internal/sink"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func main() {
	s := sink.New()
	transport.Serve(s.Plugin(), transport.WithGRPC(s.Interceptor()))
}
