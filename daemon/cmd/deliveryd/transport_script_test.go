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
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/transport",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			if err := inhabit(t, env); err != nil {
				return err
			}
			env.Setenv("TRANSPORTS", filepath.Join(binaries, transports))
			env.Setenv("PLUGINS", filepath.Join(env.WorkDir, "plugins"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":   daemonCommand,
			"await":    awaitCommand,
			"http":     httpCommand,
			"freeport": freePortCommand,
			"install":  installCommand,
			"mail":     mailCommand(t),
			"systemd":  systemdCommand,
		},
	})
}
