package bench

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
)

// organization owns all destinations of the bench.
const organization = "bench"

// label names the i-th destination, from 0.
func label(i int) string { return fmt.Sprintf("d%05d", i) }

// daemonConfig is what a configuration file is made of.
type daemonConfig struct {
	database, plugins, state, address, token, hook, secret string
	shape                                                  Shape
}

// hcl writes the configuration: what a user would write, with everything else at its default.
func (c daemonConfig) hcl() string {
	var b strings.Builder
	key := make([]byte, 32)
	rand.Read(key)
	fmt.Fprintf(&b, `database { url = %q }
plugins {
  directory = %q
  state_dir = %q
}
http { address = %q }
log { level = "warn" }
encryption { key = %q }
egress { allow = ["127.0.0.0/8"] }
api_key "bench" {
  organization = %q
  role         = "producer"
  token        = %q
}
defaults { concurrency = %d }
`, c.database, c.plugins, c.state, c.address, base64.StdEncoding.EncodeToString(key), organization, c.token, c.shape.Concurrency)
	for i := range c.shape.Destinations {
		fmt.Fprintf(&b, `
destination %q %q {
  type = "webhook"
  config {
    url    = %q
    secret = %q
  }
}
`, organization, label(i), c.hook, c.secret)
	}
	return b.String()
}
