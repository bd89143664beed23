// Command deliveryd-transport-sftp delivers files over SFTP.
package main

import (
	"github.com/deliveryd/deliveryd/plugins/sftp/internal/sftp"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func main() {
	transport.Serve(sftp.Plugin())
}
