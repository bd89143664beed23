package webhook

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// installForeign installs the libraries that the lock file names.
func installForeign(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "verify.mjs"} {
		content, err := os.ReadFile(filepath.Join("testdata", "foreign", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("installing the foreign libraries (Debian packages nodejs and npm): %v\n%s", err, out)
	}
	return dir
}

// startForeign starts the receiver and gives its URL.
func startForeign(t *testing.T, dir, secret string) string {
	t.Helper()
	node := exec.Command("node", "verify.mjs", secret)
	node.Dir, node.Stderr = dir, os.Stderr
	lifeline, err1 := node.StdinPipe()
	out, err2 := node.StdoutPipe()
	if err := errors.Join(err1, err2, node.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = lifeline.Close()
		_ = node.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("reading the receiver's port: %v", err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(port)
}

// The libraries that receivers use must accept what the transport sends, and
// refuse the same bytes signed with another key.
func TestForeignLibrariesVerify(t *testing.T) {
	t.Parallel()
	dir := installForeign(t)
	for _, size := range []int{24, 32, 48, 64} { // 32 and 64 need padding
		secret, err := signature.GenerateSecret(size)
		if err != nil {
			t.Fatal(err)
		}
		url := startForeign(t, dir, secret)
		private, _, err := signature.GenerateKeyPair()
		if err != nil {
			t.Fatal(err)
		}
		in := loopback(t)
		in.Secrets = []transport.Secret{{ID: "ed25519", Key: private}, {ID: "other", Key: testSecret}, {ID: "theirs", Key: secret}}
		for name, hook := range map[string]*webhook{
			"alone":             opened(t, loopback(t), Config{URL: url, Secret: secret}),
			"beside two others": opened(t, in, Config{URL: url}),
			"PUT of data alone": opened(t, loopback(t), Config{URL: url, Secret: secret, Method: "PUT", Body: "data"}),
		} {
			for i, data := range []string{`{"a":1}`, `{"text":"Zoë 💶 \u0000 \"quoted\""}`, `[1.50, 1e400, null]`, `"` + strings.Repeat("x", 100_000) + `"`} {
				d := event(fmt.Sprintf("msg_%d", i))
				d.Data = []byte(data)
				receipt, err := hook.Deliver(t.Context(), d)
				var verdict map[string]string
				if json.Unmarshal(receipt.Excerpt, &verdict) != nil || err != nil || len(verdict) != 2 {
					t.Errorf("%d bytes of key, %s, event %d: %v, %s", size, name, i, err, receipt.Excerpt)
				}
			}
		}
		_, err = opened(t, loopback(t), Config{URL: url, Secret: testSecret}).Deliver(t.Context(), event("msg_1"))
		if class, code := classOf(err); class != transport.ClassPermanent || code != "http.400" {
			t.Errorf("a foreign key was accepted: %v", err)
		}
	}
}
