package sftp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// sshd is an OpenSSH server of a test's own, on a free port, with a directory
// that its user may write to.
type sshd struct {
	dir  string // keys and configuration
	home string // where files arrive
	user string
	port int
	log  *buffer
}

type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startSSHD starts a server; lines are added to its configuration. Keys of the
// user: id (no passphrase), locked (passphrase "open sesame"), certified (with a
// certificate of the authority ca), stranger (nobody knows it).
func startSSHD(t testing.TB, before string, lines ...string) *sshd {
	t.Helper()
	binary := program(t, "sshd", "openssh-server")
	//nolint:usetesting // the server's user may not enter t.TempDir
	dir, err := os.MkdirTemp("", "sshd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &sshd{dir: dir, home: filepath.Join(dir, "home"), log: &buffer{}}
	s.makeUser(t)
	s.makeKeys(t)
	for range 5 {
		if s.start(t, binary, before, lines) {
			return s
		}
	}
	t.Fatalf("sshd does not start:\n%s", s.log)
	return nil
}

func program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	for _, path := range []string{"/usr/sbin/" + name, "/usr/bin/" + name, "/usr/local/sbin/" + name} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not there: install the Debian package %s; make deps does", name, debianPackage)
	return ""
}

func (s *sshd) makeUser(t testing.TB) {
	t.Helper()
	who, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.user = who.Username
	must(t, os.Chmod(s.dir, 0o755))
	must(t, os.Mkdir(s.home, 0o755))
	if os.Geteuid() != 0 {
		return
	}
	// Root may do everything, so permissions would not be seen.
	s.user = "nobody"
	must(t, exec.Command("chown", "nobody", s.home).Run())
	must(t, os.MkdirAll("/run/sshd", 0o755)) // sshd wants it when started by root
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *sshd) keygen(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), program(t, "ssh-keygen", "openssh-client"), append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
	}
}

func (s *sshd) path(name string) string { return filepath.Join(s.dir, name) }

func (s *sshd) read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(s.path(name))
	must(t, err)
	return string(text)
}

func (s *sshd) makeKeys(t testing.TB) {
	t.Helper()
	for name, args := range map[string][]string{
		"host_ed25519": {"-t", "ed25519"}, "host_ecdsa": {"-t", "ecdsa"}, "host_rsa": {"-t", "rsa", "-b", "2048"},
		"id": {"-t", "ed25519"}, "locked": {"-t", "ecdsa"}, "certified": {"-t", "ed25519"}, "stranger": {"-t", "ed25519"}, "ca": {"-t", "ed25519"},
	} {
		passphrase := ""
		if name == "locked" {
			passphrase = "open sesame"
		}
		s.keygen(t, append(args, "-N", passphrase, "-f", s.path(name))...)
	}
	s.keygen(t, "-s", s.path("ca"), "-I", "user", "-n", s.user, s.path("certified.pub"))
	s.keygen(t, "-s", s.path("ca"), "-I", "host", "-h", "-n", "127.0.0.1,localhost", s.path("host_ed25519.pub"))
	must(t, os.WriteFile(s.path("authorized_keys"), []byte(s.read(t, "id.pub")+s.read(t, "locked.pub")), 0o644))
}

// start reports whether the server listens; its port may have been taken meanwhile.
func (s *sshd) start(t testing.TB, binary, before string, lines []string) bool {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	address, _ := listener.Addr().(*net.TCPAddr)
	s.port = address.Port
	must(t, listener.Close())
	config := append([]string{
		"ListenAddress 127.0.0.1", fmt.Sprint("Port ", s.port), "PidFile none", "UsePAM no", "StrictModes no", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "AuthorizedKeysFile " + s.path("authorized_keys"), "TrustedUserCAKeys " + s.path("ca.pub"),
		"HostKey " + s.path("host_ed25519"), "HostKey " + s.path("host_ecdsa"), "HostKey " + s.path("host_rsa"),
		"HostCertificate " + s.path("host_ed25519-cert.pub"), "MaxStartups 100", "Subsystem sftp internal-sftp -d " + s.home,
	}, lines...)
	must(t, os.WriteFile(s.path("sshd_config"), []byte(strings.Join(config, "\n")+"\n"), 0o644))
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, "/bin/sh", "-c", before+`exec "$@"`, "sh", binary, "-D", "-e", "-f", s.path("sshd_config"))
	read, write, err := os.Pipe()
	must(t, err)
	command.Stderr = write
	must(t, command.Start())
	_ = write.Close()
	listens := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(read)
		for lines.Scan() {
			_, _ = s.log.Write(append(lines.Bytes(), '\n'))
			if strings.Contains(lines.Text(), "Server listening") {
				listens <- true
			}
		}
		close(listens)
	}()
	stop := func() {
		cancel()
		_ = command.Wait()
		_ = read.Close()
	}
	if !<-listens {
		stop()
		return false
	}
	t.Cleanup(stop)
	return true
}

func (s *sshd) knownHosts(t testing.TB, key string) string {
	t.Helper()
	return fmt.Sprintf("[127.0.0.1]:%d %s", s.port, s.read(t, key+".pub"))
}

// config is a configuration that works, with the schema's defaults.
func (s *sshd) config(t testing.TB) *Config {
	t.Helper()
	return &Config{
		Server:    Server{Host: "127.0.0.1", Port: s.port, Username: s.user, KnownHosts: s.knownHosts(t, "host_ed25519"), PrivateKey: s.read(t, "id")},
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
	must(t, filepath.WalkDir(s.home, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(s.home, path)
		files[name] = string(text)
		return err
	}))
	return files
}
