// Package plugintest runs the conformance kit in a Go test:
//
//	func TestConformance(t *testing.T) {
//		plugintest.Run(t, plugintest.Target{
//			Command: []string{plugintest.Build(t, ".")},
//			Config:  `{"url": "{{peer}}/hook", "secret": "whsec_..."}`,
//			Peer:    plugintest.NewHTTPPeer,
//		})
//	}
//
// It must never import the daemon: authors of plugins use it in their own tests.
package plugintest

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/deliveryd/deliveryd/sdk/conformance"
)

// Target is the plugin to check.
type Target = conformance.Target

// Peer is a server under the control of the kit.
type Peer = conformance.Peer

// NewHTTPPeer makes a Peer for transports that deliver by HTTP.
func NewHTTPPeer() (Peer, error) { return conformance.NewHTTPPeer() }

// NewS3Peer makes a Peer for transports that write objects by S3.
func NewS3Peer() (Peer, error) { return conformance.NewS3Peer() }

// NewSMTPPeer makes a Peer for transports that deliver by SMTP.
func NewSMTPPeer() (Peer, error) { return conformance.NewSMTPPeer() }

// Run checks every promise that applies to target, each in a subtest with its
// own process. It does not run them in parallel: some measure time.
func Run(t *testing.T, target Target) {
	t.Helper()
	cases, err := conformance.CasesFor(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			if result := c.Check(t.Context(), target); result.Err != nil {
				t.Errorf("%s\n%v", c.Promise, result.Err)
			}
		})
	}
}

// Build builds the Go package in dir, mostly ".", and gives the path of the
// binary, which is removed after the test.
func Build(t testing.TB, dir string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "deliveryd-transport-under-test")
	command := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", dir, err, out)
	}
	return binary
}
