// Command deliveryd-transport-webhook delivers by signed HTTP requests.
package main

import (
	"github.com/deliveryd/deliveryd/plugins/webhook/internal/webhook"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func main() {
	transport.Serve(webhook.Plugin())
}
