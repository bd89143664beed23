package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// binaries is the directory with what the scripts run: the programs as they are
// shipped, built once for all scripts.
var binaries string

// transports is the directory below binaries with every transport that is shipped.
const transports = "transports"

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "deliveryd-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries = dir
	sources := map[string]string{
		"deliveryd":                           ".",
		"plugins/deliveryd-transport-webhook": "../../../plugins/webhook",
	}
	shipped, err := filepath.Glob("../../../plugins/*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, source := range shipped {
		folder := transports
		if filepath.Base(source) == "sink" {
			folder = "."
		}
		sources[filepath.Join(folder, "deliveryd-transport-"+filepath.Base(source))] = source
	}
	for output, source := range sources {
		build := exec.Command("go", "build", "-ldflags", "-X main.version=v1.2.3-test", "-o", filepath.Join(dir, output), source)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n", source, err)
			return 1
		}
	}
	return m.Run()
}

// TestScripts runs the program from outside: every file in testdata/script.
func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "script", nil, func(env *testscript.Env) error {
		env.Setenv("PLUGINS", filepath.Join(binaries, "plugins"))
		docs, err := filepath.Abs(filepath.Join(repository, "docs"))
		env.Setenv("DOCS", docs)
		return err
	})
}

// command is one that scripts have beside those of testscript.
type command = func(*testscript.TestScript, bool, []string)

// runScripts runs every file in a directory of testdata, with commands of its own
// beside those that all have, and with what setup adds to its world.
func runScripts(t *testing.T, directory string, commands map[string]command, setup func(*testscript.Env) error) {
	t.Helper()
	all := map[string]command{
		"daemon":   daemonCommand,
		"receiver": receiverCommand,
		"await":    awaitCommand,
		"http":     httpCommand,
		"freeport": freePortCommand,
		"install":  installCommand,
		"systemd":  systemdCommand,
	}
	maps.Copy(all, commands)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", directory),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			return errors.Join(inhabit(t, env), setup(env))
		},
		Cmds: all,
	})
}

// inhabit gives a script its world: the program, a database, a home.
func inhabit(t *testing.T, env *testscript.Env) error {
	// The host refuses a plugin that somebody else could have written, and
	// PostgreSQL does not run as root, so it has to come through here as somebody
	// else.
	for _, directory := range []string{filepath.Dir(env.WorkDir), env.WorkDir} {
		if err := os.Chmod(directory, 0o711); err != nil {
			return err
		}
	}
	env.Setenv("PATH", binaries+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
	env.Setenv("ENCRYPTION_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	env.Setenv("DATABASE_URL", pgtest.New(t).URL)
	env.Values[worldKey{}] = &world{
		daemons: map[string]*process{}, receivers: map[string]*receiver{},
		http: &http.Client{Timeout: 20 * time.Second},
	}
	return nil
}
