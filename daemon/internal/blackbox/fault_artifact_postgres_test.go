package blackbox_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/sdk/plugintest/gate"
	"github.com/deliveryd/deliveryd/sdk/plugintest/openssh"
)

// TestFaultKillPostgresWhileArtifactsMove kills PostgreSQL while the daemon is in
// the middle of a file's chunks and another file is being uploaded. The first MiB
// of the one has reached two SFTP servers, which take no more for now: both have
// it whole after the restart. (A webhook takes the whole file first, since its
// signature stands in front.) The other is refused.
func TestFaultKillPostgresWhileArtifactsMove(t *testing.T) {
	t.Parallel()
	// More than the daemon reads ahead of a receiver that stands still.
	const size = 48 << 20
	server, err := openssh.Start(openssh.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	before, err := gate.New(fmt.Sprintf("127.0.0.1:%d", server.Port), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(before.Close)
	cluster := pgtest.Cluster(t, func(o *pglocal.Options) { o.Logger = nil })
	labels := []string{"a", "b"}
	f := newFleet(t, settings{
		database: pgtest.Migrated(t, cluster, "deliveryd"), plugins: "files", block: func(label string) string { return sftpBlock(t, server, before.Port, label) },
	}, labels...)
	d := f.start()
	id, digest := f.uploadArtifact(d, size)
	f.submitArtifact(d, id)
	for range labels {
		select {
		case <-before.Held:
		case <-time.After(patience):
			t.Fatal("the file does not arrive")
		}
	}

	body, content := io.Pipe()
	cut := f.beginUpload(d, body)
	if _, err := io.CopyN(content, rand.NewChaCha8([32]byte{2}), 4<<20); err != nil {
		t.Fatal(err)
	}
	from := d.mark()
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	before.Open()
	// What follows cannot be stored; the daemon may stop reading at any byte of it.
	_, _ = io.CopyN(content, rand.NewChaCha8([32]byte{3}), 8<<20)
	_ = content.Close()
	if status := <-cut; status == http.StatusCreated {
		t.Error("an upload that the database did not take was called stored")
	}
	d.awaitLogAfter(from, "an artifact could not be read")
	for _, label := range labels {
		if _, err := os.Stat(filepath.Join(server.Home, label, "report.bin")); err == nil {
			t.Errorf("%s has a file of which only a part could be read", label)
		}
	}
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.eventually("the file to be delivered", func() bool {
		empty, err := f.look("select (not exists (select 1 from delivery_queue))::text")
		return err == nil && empty == "true"
	})
	for _, label := range labels {
		content, err := os.ReadFile(filepath.Join(server.Home, label, "report.bin"))
		if got := fmt.Sprintf("%x", sha256.Sum256(content)); err != nil || got != digest {
			t.Errorf("%s has %d bytes with SHA-256 %s, %v, want %s", label, len(content), got, err, digest)
		}
		if left, err := filepath.Glob(filepath.Join(server.Home, label, ".*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left over: %v, %v", label, left, err)
		}
	}
	if d.gone() {
		t.Error("the daemon ended with its database")
	}
}

// beginUpload uploads a body and sends the status of the answer, 0 for none.
func (f *fleet) beginUpload(d *daemon, body io.Reader) <-chan int {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, d.url+"/v1/artifacts?name=cut.bin", body)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	answered := make(chan int, 1)
	go func() {
		response, err := http.DefaultClient.Do(req)
		if err != nil {
			answered <- 0
			return
		}
		_ = response.Body.Close()
		answered <- response.StatusCode
	}()
	return answered
}

// sftpBlock configures a destination that writes into a directory of its own.
func sftpBlock(t *testing.T, server *openssh.Server, port int, label string) string {
	t.Helper()
	key, err := server.PrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile(server.Path("host_ed25519.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
  type = "sftp"
  config {
    host        = "127.0.0.1"
    port        = %d
    username    = %q
    private_key = %q
    known_hosts = "[127.0.0.1]:%d %s"
    directory   = %q
    filename    = "{filename}"
  }
`, port, server.User, key, port, strings.TrimSpace(string(host)), label)
}
