package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestTransportScripts has a daemon deliver through each transport that is not the
// webhook, to a server that others wrote: every file in testdata/transport. A
// script installs the plugin that it needs from $TRANSPORTS.
func TestTransportScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "transport", map[string]command{"mail": mailCommand(t)}, func(env *testscript.Env) error {
		env.Setenv("TRANSPORTS", filepath.Join(binaries, transports))
		env.Setenv("PLUGINS", filepath.Join(env.WorkDir, "plugins"))
		return nil
	})
}
