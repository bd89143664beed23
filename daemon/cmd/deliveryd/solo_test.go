package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// solo is a daemon by itself that logs all it can, with the transports webhook and sink.
type solo struct {
	t                             *testing.T
	cmd                           *exec.Cmd
	dir, config, log, base, token string
	database, address, key        string
}

func startSolo(t *testing.T) *solo {
	t.Helper()
	d := &solo{t: t, dir: t.TempDir(), token: rand.Text(), database: pgtest.New(t).URL}
	d.config, d.log = filepath.Join(d.dir, "delivery.hcl"), filepath.Join(d.dir, "log")
	if err := os.Chmod(d.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(d.dir, "plugins")
	if err := os.Mkdir(installed, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"deliveryd-transport-sink", "plugins/deliveryd-transport-webhook"} {
		if err := os.Symlink(filepath.Join(binaries, source), filepath.Join(installed, filepath.Base(source))); err != nil {
			t.Fatal(err)
		}
	}
	d.key = base64.StdEncoding.EncodeToString([]byte(rand.Text() + "as32bytes")[:32])
	d.base = fmt.Sprintf("database { url = %q }\nplugins { directory = %q }\nencryption { key = %q }\nhttp { address = \"127.0.0.1:0\" }\nlog {\n  level  = \"debug\"\n  format = \"json\"\n}\napi_key \"fleet\" {\n  organization = \"*\"\n  role         = \"admin\"\n  token        = %q\n}\n",
		d.database, installed, d.key, d.token)
	d.write("")
	log, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	d.cmd = exec.Command(filepath.Join(binaries, "deliveryd"), "run", "--config", d.config)
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.Env = log, log, d.environment()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	d.awaitReady()
	return d
}

func (d *solo) environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "XDG_CACHE_HOME=" + filepath.Join(d.dir, "cache"), "DELIVERYD_TOKEN=" + d.token, "DELIVERYD_ADDRESS=" + d.address}
}

func (d *solo) awaitReady() {
	d.t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.After(patience); ; {
		text, err := os.ReadFile(d.log)
		if _, rest, ok := strings.Cut(string(text), `"msg":"ready"`); err == nil && ok {
			_, rest, _ = strings.Cut(rest, `"address":"`)
			d.address, _, _ = strings.Cut(rest, `"`)
			return
		}
		select {
		case <-look.C:
		case <-deadline:
			d.t.Fatalf("the daemon was not ready within %v:\n%s", patience, text)
		}
	}
}

func (d *solo) stop() {
	if d.cmd.ProcessState != nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("the daemon ended with %v", err)
	}
}

func (d *solo) write(more string) {
	d.t.Helper()
	if err := os.WriteFile(d.config, []byte(d.base+more), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// ask makes a request with a token and returns status and body.
func (d *solo) ask(token, method, path, body string) (int, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.address+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// run runs the program and returns what it prints.
func (d *solo) run(args ...string) string {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), filepath.Join(binaries, "deliveryd"), args...)
	cmd.Env = d.environment()
	text, _ := cmd.CombinedOutput() // it may well fail
	return string(text)
}

// query returns the text that a statement selects.
func (d *solo) query(sql string) string {
	d.t.Helper()
	var text string
	if err := connect(d.t, d.database).conn.QueryRow(d.t.Context(), sql).Scan(&text); err != nil {
		d.t.Fatal(err)
	}
	return text
}
