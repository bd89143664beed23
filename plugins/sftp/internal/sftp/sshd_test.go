package sftp

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/plugintest/openssh"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// sshd is an OpenSSH server of a test's own, with a directory that its user may
// write to.
type sshd struct{ *openssh.Server }

// startSSHD starts a server; before is run by the shell ahead of it, lines are
// added to its configuration.
func startSSHD(t testing.TB, before string, lines ...string) *sshd {
	t.Helper()
	server, err := openssh.Start(openssh.Options{Before: before, Lines: lines})
	must(t, err)
	t.Cleanup(server.Stop)
	return &sshd{server}
}

// mayMount reports whether a server can have a disk and files of its own, in a
// mount namespace: root can, outside of most containers.
func mayMount(t *testing.T) bool {
	t.Helper()
	return exec.CommandContext(t.Context(), "unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", t.TempDir()).Run() == nil
}

// mounting goes on in a mount namespace, ahead of the server: the
// commands mount.
func mounting(commands ...string) string {
	return "exec unshare --mount sh -ec '" + strings.Join(commands, "; ") + `; exec "$@"' sh "$@"; `
}

func program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := openssh.Program(name, debianPackage)
	must(t, err)
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *sshd) read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(s.Path(name))
	must(t, err)
	return string(text)
}

func (s *sshd) knownHosts(t testing.TB, key string) string {
	t.Helper()
	line, err := s.KnownHosts(key)
	must(t, err)
	return line
}

// config is a configuration that works, with the schema's defaults.
func (s *sshd) config(t testing.TB) *Config {
	t.Helper()
	return &Config{
		Server:    Server{Host: "127.0.0.1", Port: s.Port, Username: s.User, KnownHosts: s.knownHosts(t, "host_ed25519"), PrivateKey: s.read(t, "id")},
		Directory: ".", Filename: "{id}-{filename}", IfExists: existsFail, MakeDirectories: true, Verify: verifySize, Fsync: true, Resume: true,
		MaxConnections: 4, ConnectTimeout: 30 * time.Second, Keepalive: 30 * time.Second, IdleTimeout: time.Minute,
	}
}

// opened opens a destination that may dial the loopback interface.
func opened(t testing.TB, c *Config) *destination {
	t.Helper()
	d, err := openFor(t, c, egress.Policy{AllowCIDRs: []string{"127.0.0.0/8"}})
	must(t, err)
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

func openFor(t testing.TB, c *Config, policy egress.Policy) (*destination, error) {
	t.Helper()
	if found := c.Validate(); found.HasErrors() {
		return nil, errors.New(found.String())
	}
	guard, err := egress.New(policy)
	must(t, err)
	return open(transport.Instance{ID: "1", Label: "bank", OrganizationID: "acme", Egress: guard}, c)
}

func order(id, data string) *transport.Delivery {
	return &transport.Delivery{ID: id, Attempt: 1, DeliveryID: "dlv_0", OrganizationID: "acme", Type: "order.paid", CreatedAt: time.Now(), ContentType: "application/json", Data: []byte(data)}
}

// wantClass checks what an attempt came to.
func wantClass(t *testing.T, err error, class transport.Class, code string) {
	t.Helper()
	var classified *transport.Error
	if !errors.As(err, &classified) || classified.Class != class || classified.Code != code {
		t.Errorf("got %v (%+v), want %s with %s", err, classified, class, code)
	}
}

// files lists what is in the home directory, directories left out.
func (s *sshd) files(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	must(t, filepath.WalkDir(s.Home, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(s.Home, path)
		files[name] = string(text)
		return err
	}))
	return files
}
