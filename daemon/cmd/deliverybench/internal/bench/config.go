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
	database, plugins, state, address, token string
	transport, hook, secret                  string
	shape                                    Shape
	hooks                                    func(i int) string // of the i-th destination; nil: hook for all
	// blocks stand in the place of the shape's destinations where there are any.
	blocks string
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
api_key "fleet" {
  organization = "*"
  role         = "admin"
  token        = %q
}
defaults { concurrency = %d }
`, c.database, c.plugins, c.state, c.address, base64.StdEncoding.EncodeToString(key), organization, c.token, c.token+"-admin", max(c.shape.Concurrency, 1))
	if c.blocks != "" {
		return b.String() + c.blocks
	}
	for i := range c.shape.Destinations {
		fmt.Fprintf(&b, `
destination %q %q {
  type = %q
  config {%s}
}
`, organization, label(i), c.transport, c.settings(i))
	}
	return b.String()
}

// Transports that are measured.
const (
	webhook = "webhook"
	// noop is the plugin that delivers to nobody: what is left is the daemon and the way to a plugin and back.
	noop = "sink"
)

// settings is what config {} of the i-th destination holds.
func (c daemonConfig) settings(i int) string {
	if c.transport == noop {
		return ""
	}
	if c.hooks != nil {
		c.hook = c.hooks(i)
	}
	return fmt.Sprintf("\n    url    = %q\n    secret = %q\n  ", c.hook, c.secret)
}
