// Package postfix runs a private Postfix for tests of transports that send mail:
// on free ports of the loopback interface, with a certificate and SASL users of
// its own, delivering to maildirs. It needs root and the Debian packages postfix,
// sasl2-bin and libsasl2-modules.
//
// It must never touch the system's own mail: configuration, queue and processes
// live in a temporary directory and end with the test.
package postfix

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/plugintest/freeport"
)

// The one user that may send.
const (
	User     = "sender@acme.example"
	Password = "correct-horse-battery"
)

// Server is a running Postfix. It takes mail for its mailboxes at acme.example and
// bücher.example, with STARTTLS on Port and TLS on TLSPort.
type Server struct {
	Port, TLSPort int
	// CA is the certificate to trust, PEM; it is valid for localhost and 127.0.0.1.
	CA string
	// Dir holds everything.
	Dir string
}

// Start starts a server with these mailboxes, which ends with t.
func Start(t testing.TB, names ...string) *Server {
	t.Helper()
	s := prepare(t, names)
	s.run(t)
	return s
}

// prepare writes all that a server needs.
func prepare(t testing.TB, names []string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "postfix-test-") //nolint:usetesting // only root may enter the parents of t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{Dir: dir, Port: reservePort(t), TLSPort: reservePort(t)}
	s.write(t, names)
	return s
}

func mailboxes(names []string) string {
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%[1]s@acme.example %[1]s/\n%[1]s@xn--bcher-kva.example %[1]s/\n", name)
	}
	return b.String()
}

func reservePort(t testing.TB) int {
	t.Helper()
	port, err := freeport.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Release)
	return port.Number
}

func (s *Server) write(t testing.TB, names []string) {
	t.Helper()
	command := func(stdin, name string, args ...string) {
		c := exec.CommandContext(t.Context(), name, args...)
		c.Stdin = strings.NewReader(stdin)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	for _, dir := range []string{"etc/sasl", "queue", "data", "mail"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	certificate, key := selfSigned(t)
	s.CA = certificate
	for name, text := range map[string]string{
		"etc/cert.pem": certificate, "etc/key.pem": key, "etc/main.cf": fmt.Sprintf(mainCF, s.Dir), "etc/master.cf": fmt.Sprintf(masterCF, s.Port, s.TLSPort),
		"etc/mailboxes": mailboxes(names),
		"etc/sasl/smtpd.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: " + s.Dir + "/etc/sasldb2\n" +
			"mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256\n",
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	name, realm, _ := strings.Cut(User, "@")
	command(Password+"\n", "saslpasswd2", "-p", "-c", "-f", s.Dir+"/etc/sasldb2", "-u", realm, name)
	command("", "chown", "postfix", s.Dir+"/data", s.Dir+"/etc/sasldb2")
	command("", "chown", "nobody:nogroup", s.Dir+"/mail")
	command("", "chmod", "-R", "a+rX", s.Dir+"/etc")
	command("", "chmod", "600", s.Dir+"/etc/key.pem")
	command("", "postfix", "-c", s.Dir+"/etc", "check")
}

func (s *Server) run(t testing.TB) {
	t.Helper()
	master := exec.Command("/usr/lib/postfix/sbin/master", "-d", "-c", s.Dir+"/etc") //nolint:noctx // it ends with the test, with its children
	master.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-master.Process.Pid, syscall.SIGTERM)
		_ = master.Wait()
		_ = syscall.Kill(-master.Process.Pid, syscall.SIGKILL) // what is left of its children
	})
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(s.Port))
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Postfix does not answer: %v\n%s", err, s.Log())
		}
		<-time.After(50 * time.Millisecond)
	}
}

// Log is what the server wrote.
func (s *Server) Log() string {
	text, err := os.ReadFile(filepath.Join(s.Dir, "data/log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// AwaitLog waits until the server has written text, which it does a moment after
// it has answered.
func (s *Server) AwaitLog(t testing.TB, text string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(s.Log(), text) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in the log after a minute\n%s", text, s.Log())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Messages gives the files of a mailbox, none before the first arrives.
func (s *Server) Messages(mailbox string) []string {
	names, _ := filepath.Glob(filepath.Join(s.Dir, "mail", mailbox, "new", "*"))
	return names
}

// Await waits until a mailbox holds n messages, and gives their files.
func (s *Server) Await(t testing.TB, mailbox string, n int) []string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		names := s.Messages(mailbox)
		if len(names) >= n {
			return names
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d messages in %s after a minute, want %d\n%s", len(names), mailbox, n, s.Log())
		}
		<-time.After(20 * time.Millisecond)
	}
}

func selfSigned(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}

const mainCF = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/data/log
maillog_file_prefixes = %[1]s
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.acme.example
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = acme.example, xn--bcher-kva.example
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = texthash:%[1]s/etc/mailboxes
virtual_mailbox_limit = 0
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_tls_cert_file = %[1]s/etc/cert.pem
smtpd_tls_key_file = %[1]s/etc/key.pem
smtpd_tls_security_level = may
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = acme.example
cyrus_sasl_config_path = %[1]s/etc/sasl
smtpd_client_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = reject_unlisted_recipient, permit_sasl_authenticated, reject
smtpd_relay_restrictions = permit_sasl_authenticated, reject
message_size_limit = 41943040
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtputf8_enable = yes
`

const masterCF = `127.0.0.1:%d inet n - n - - smtpd
127.0.0.1:%d inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
`
