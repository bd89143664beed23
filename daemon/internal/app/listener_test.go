package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

// certify writes a certificate for 127.0.0.1 and its key into dir.
func certify(t *testing.T, dir, name string) config.TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := config.TLS{CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key")}
	for path, block := range map[string]*pem.Block{
		files.CertFile: {Type: "CERTIFICATE", Bytes: certificate}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestListenerServesTLSAndTakesANewCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := &config.Config{HTTP: config.HTTP{Address: "127.0.0.1:0", TLS: certify(t, dir, "first")}}
	l, err := listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	if !strings.HasPrefix(l.url(), "https://127.0.0.1:") {
		t.Errorf("url is %s", l.url())
	}
	name := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // which certificate comes is the question
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Errorf("certificate is %q", got)
	}
	cfg.HTTP.TLS = certify(t, dir, "second")
	next, err := loadCertificate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.certificate.Store(next)
	if got := name(); got != "second" {
		t.Errorf("certificate after the change is %q", got)
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, err = listen(t.Context(), &config.Config{HTTP: config.HTTP{Address: taken.Addr().String()}})
	if err == nil || !strings.Contains(err.Error(), taken.Addr().String()) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address that is taken: %v", err)
	}
	_, err = listen(t.Context(), &config.Config{HTTP: config.HTTP{Address: "127.0.0.1:0", TLS: config.TLS{CertFile: "/nowhere.crt", KeyFile: "/nowhere.key"}}})
	if err == nil || !strings.Contains(err.Error(), "/nowhere.crt") {
		t.Errorf("a certificate that is not there: %v", err)
	}
}

func TestURLOfAnyAddressIsOneThatWorksHere(t *testing.T) {
	t.Parallel()
	l, err := listen(t.Context(), &config.Config{HTTP: config.HTTP{Address: "0.0.0.0:0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if !strings.HasPrefix(l.url(), "http://127.0.0.1:") {
		t.Errorf("url is %s", l.url())
	}
}
