package sftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/plugins/sftp/internal/peer"
	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/plugintest/gate"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// patience is for what takes a moment.
const patience = 30 * time.Second

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }

// cutter is a proxy that cuts connections once so many bytes have passed.
type cutter struct {
	listener net.Listener
	target   string
	after    atomic.Int64 // bytes that still pass towards the server; then all is cut
	wg       sync.WaitGroup
}

func newCutter(t *testing.T, port int) *cutter {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	c := &cutter{listener: listener, target: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	c.wg.Go(c.serve)
	t.Cleanup(func() {
		_ = listener.Close()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) port() int {
	address, _ := c.listener.Addr().(*net.TCPAddr)
	return address.Port
}

func (c *cutter) serve() {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(context.Background(), "tcp", c.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		both := func() {
			_ = client.Close()
			_ = server.Close()
		}
		c.wg.Go(func() {
			defer both()
			_, _ = io.Copy(client, server)
		})
		c.wg.Go(func() {
			defer both()
			b := make([]byte, 16<<10)
			for {
				n, err := client.Read(b)
				if err != nil || c.after.Add(-int64(n)) < 0 {
					return
				}
				if _, err := server.Write(b[:n]); err != nil {
					return
				}
			}
		})
	}
}

func artifact(id string, content []byte) *transport.Delivery {
	d := order(id, "")
	digest := sha256.Sum256(content)
	d.Data, d.Artifact = nil, &transport.Artifact{Name: "report.csv", ContentType: "text/csv", Size: int64(len(content)), SHA256: digest[:]}
	return d
}

func random(n int) []byte {
	content := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(content)
	return content
}

// A transfer is cut again and again, each time later; the file arrives whole and
// was never seen in part.
func TestCutTransfersGoOn(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	proxy := newCutter(t, s.Port)
	c := s.config(t)
	c.Port = proxy.port()
	c.KnownHosts = "[127.0.0.1]:" + strconv.Itoa(c.Port) + " " + s.read(t, "host_ed25519.pub")
	d := opened(t, c)
	content := random(24 << 20)
	final := filepath.Join(s.Home, "dlv_1-report.csv")
	for attempt, limit := range []int64{8 << 20, 10 << 20, 1 << 10} {
		proxy.after.Store(limit)
		_, err := d.Upload(t.Context(), artifact("dlv_1", content), bytes.NewReader(content))
		if err == nil {
			t.Fatalf("attempt %d was not cut", attempt)
		}
		if limit > 1<<20 {
			wantClass(t, err, transport.ClassTransient, "sftp.cut")
		}
		if _, err := os.Stat(final); err == nil {
			t.Fatal("a part of the file has the final name")
		}
	}
	proxy.after.Store(1 << 40)
	receipt, err := d.Upload(t.Context(), artifact("dlv_1", content), bytes.NewReader(content))
	must(t, err)
	if at, _ := strconv.Atoi(receipt.Details["resumed_at"]); at < 10<<20 || at > 18<<20 {
		t.Errorf("resumed at %d of %d bytes", at, len(content))
	}
	files := s.files(t)
	if len(files) != 1 || files["dlv_1-report.csv"] != string(content) {
		t.Errorf("%d files; the content is right: %t", len(files), files["dlv_1-report.csv"] == string(content))
	}
}

// A connection that is neither closed nor answered, as behind a firewall that has
// forgotten it, is given up by keepalive, and not at the attempt's deadline.
func TestASilentConnectionIsGivenUp(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	before, err := gate.New(net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)), 1<<20)
	must(t, err)
	t.Cleanup(before.Close)
	c := s.config(t)
	c.Port, c.Keepalive = before.Port, 200*time.Millisecond
	c.KnownHosts = "[127.0.0.1]:" + strconv.Itoa(c.Port) + " " + s.read(t, "host_ed25519.pub")
	content := random(8 << 20)
	_, err = opened(t, c).Upload(t.Context(), artifact("dlv_1", content), bytes.NewReader(content))
	wantClass(t, err, transport.ClassTransient, "sftp.cut")
}

// What is left of another program's file under the temporary name is found out.
func TestADamagedPartIsFoundOut(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	d := opened(t, s.config(t))
	content := random(6 << 20)
	p := &putting{destination: d, session: &session{home: s.Home}, file: &file{delivery: artifact("dlv_1", content), sha256: artifact("dlv_1", content).Artifact.SHA256}}
	p.place()
	must(t, os.WriteFile(p.temporary, make([]byte, 5<<20), 0o666))
	must(t, os.Chmod(p.temporary, 0o666))
	_, err := d.Upload(t.Context(), artifact("dlv_1", content), bytes.NewReader(content))
	wantClass(t, err, transport.ClassTransient, "sftp.verify")
	receipt, err := d.Upload(t.Context(), artifact("dlv_1", content), bytes.NewReader(content))
	if err != nil || receipt.Details["resumed_at"] != "" || s.files(t)["dlv_1-report.csv"] != string(content) {
		t.Errorf("the next attempt: %+v, %v", receipt, err)
	}
}

// A body that ends early, as a damaged upload does, must not become a file.
func TestADamagedBodyIsNoFile(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	d := opened(t, s.config(t))
	content := random(3 << 20)
	body := io.MultiReader(bytes.NewReader(content[:1<<20]), failing{})
	_, err := d.Upload(t.Context(), artifact("dlv_1", content), body)
	wantClass(t, err, transport.ClassTransient, "sftp.source")
	if _, there := s.files(t)["dlv_1-report.csv"]; there {
		t.Error("a part of the file has the final name")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, transport.ErrDamagedUpload }

func TestAServerThatHangsHoldsNobody(t *testing.T) {
	t.Parallel()
	fingerprint, err := peer.Fingerprint()
	must(t, err)
	server, err := peer.New()
	must(t, err)
	t.Cleanup(server.Close)
	t.Cleanup(server.Release)
	c := (&sshd{}).passwordConfig(server, fingerprint)
	c.MaxConnections = 1
	d := opened(t, c)
	server.Script(conformance.Slow)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = d.Deliver(ctx, order("dlv_1", "x"))
	wantClass(t, err, transport.ClassTransient, "sftp.timeout")
	if _, err := d.Deliver(t.Context(), order("dlv_2", "x")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	// A connection that the server dropped while it was idle is nobody's failure
	// once that is known.
	server.Cut()
	waitGone(t, d)
	if _, err := d.Deliver(t.Context(), order("dlv_3", "x")); err != nil {
		t.Errorf("after a cut: %v", err)
	}
}

func waitGone(t *testing.T, d *destination) {
	t.Helper()
	d.pool.mu.Lock()
	idle := d.pool.idle
	d.pool.mu.Unlock()
	for _, s := range idle {
		select {
		case <-s.gone:
		case <-time.After(patience):
			t.Fatal("the end of a connection was not noticed")
		}
	}
}
