// Command deliveryd-transport-s3 delivers by writing objects into a bucket.
package main

import (
	"github.com/deliveryd/deliveryd/plugins/s3/internal/s3"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func main() {
	transport.Serve(s3.Plugin())
}
