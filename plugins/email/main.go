// Command deliveryd-transport-email delivers by e-mail.
package main

import (
	"github.com/deliveryd/deliveryd/plugins/email/internal/email"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func main() {
	plugin, option := email.Plugin()
	transport.Serve(plugin, option)
}
