package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestPluginScripts builds the plugins of examples/plugins as their README says
// and runs them in real daemons: every file in testdata/plugin.
func TestPluginScripts(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Abs(filepath.Join(repository, "examples/plugins"))
	if err != nil {
		t.Fatal(err)
	}
	built := t.TempDir()
	buildIn(t, filepath.Join(examples, "go-file"), "go", "build", "-trimpath", "-o", filepath.Join(built, "deliveryd-transport-file"), ".")
	buildIn(t, filepath.Join(examples, "python-ntfy"), "./build.sh", filepath.Join(built, "deliveryd-transport-ntfy"))
	runScripts(t, "plugin", map[string]command{"topic": topicCommand}, func(env *testscript.Env) error {
		env.Setenv("EXAMPLES", built)
		env.Setenv("SINK", filepath.Join(binaries, "deliveryd-transport-sink"))
		env.Setenv("ROOT", filepath.Dir(filepath.Dir(examples)))
		env.Setenv("PLUGINS", filepath.Join(env.WorkDir, "plugins"))
		env.Values[topicKey{}] = &topic{}
		return nil
	})
}

// The examples come with tests of their own, which a reader runs first.
func TestPluginExamplesPassTheirOwnTests(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Abs(filepath.Join(repository, "examples/plugins"))
	if err != nil {
		t.Fatal(err)
	}
	buildIn(t, filepath.Join(examples, "go-file"), "go", "vet", "./...")
	buildIn(t, filepath.Join(examples, "go-file"), "go", "test", "-count=1", "./...")
	ntfy := filepath.Join(t.TempDir(), "deliveryd-transport-ntfy")
	buildIn(t, filepath.Join(examples, "python-ntfy"), "./build.sh", ntfy)
	buildIn(t, filepath.Join(examples, "python-ntfy"), "env", "PYTHONPATH="+ntfy, "PYTHONDONTWRITEBYTECODE=1", "/usr/bin/python3", "-m", "unittest", "test_plugin")
}

func buildIn(t *testing.T, directory, program string, args ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, args...)
	command.Dir = directory
	command.Env = append(os.Environ(), "GOWORK=off")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s %s in %s: %v\n%s", program, strings.Join(args, " "), directory, err, out)
	}
}

// installCommand puts a plugin into the plugin directory as install(1) would, by a
// rename: install FILE [NAME]. A daemon that looks meanwhile sees no half of it.
func installCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: install FILE [NAME]")
	}
	directory := ts.Getenv("PLUGINS")
	ts.Check(os.MkdirAll(directory, 0o755))
	content, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	partial := filepath.Join(directory, ".partial")
	ts.Check(os.WriteFile(partial, content, 0o600))
	ts.Check(os.Chmod(partial, 0o755)) // whatever the umask
	ts.Check(os.Rename(partial, filepath.Join(directory, filepath.Base(args[len(args)-1]))))
}

// topic is a server that takes what ntfy takes.
type topic struct {
	mu       sync.Mutex
	messages []string // "path|authorization|title|body"
	busy     int      // so many are refused first
}

type topicKey struct{}

// topicCommand starts and asks such a server:
//
//	topic start [busy...]     sets TOPIC_URL; refuses one message with 503 per "busy"
//	topic await TEXT...       until one message has all of these texts in it
func topicCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: topic start|await ...")
	}
	one := ts.Value(topicKey{}).(*topic)
	switch args[0] {
	case "start":
		one.busy = len(args) - 1
		server := httptest.NewServer(one)
		ts.Defer(server.Close)
		ts.Setenv("TOPIC_URL", server.URL)
	case "await":
		poll(ts, "a message with "+strings.Join(args[1:], ", "), func() bool { return one.has(args[1:]) })
	default:
		ts.Fatalf("no subcommand %q", args[0])
	}
}

func (o *topic) has(texts []string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, message := range o.messages {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(message, text)
		}
		if all {
			return true
		}
	}
	return false
}

// ServeHTTP takes a message.
func (o *topic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil:
		return
	case o.busy > 0:
		o.busy--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	o.messages = append(o.messages, strings.Join([]string{r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Title"), string(body)}, "|"))
	_, _ = io.WriteString(w, `{"id":"message-of-ntfy"}`)
}
