package webhook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// authority issues certificates for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue makes a certificate for name that ends after life.
func (a *authority) issue(t *testing.T, name string, life time.Duration) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

// secureRecorder is recorder behind TLS that demands a client certificate where
// clients is set.
func secureRecorder(t *testing.T, a *authority, name string, life time.Duration, clients bool) (string, chan seen) {
	t.Helper()
	requests := make(chan seen, 10)
	server := httptest.NewUnstartedServer(record(t, requests))
	server.EnableHTTP2 = true
	certificate, key := a.issue(t, name, life)
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients {
		server.TLS.ClientAuth, server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		server.TLS.ClientCAs.AddCert(a.certificate)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, requests
}

func TestTLSAndHTTP2(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	url, requests := secureRecorder(t, a, "127.0.0.1", time.Hour, false)
	for _, http2 := range []bool{true, false} {
		hook := opened(t, loopback(t), Config{URL: url, Secret: testSecret, HTTP2: http2, TLS: &tlsconfig.Config{CA: a.pem}})
		if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil {
			t.Fatal(err)
		}
		want := "HTTP/1.1"
		if http2 {
			want = "HTTP/2.0"
		}
		if got := <-requests; got.proto != want {
			t.Errorf("http2 = %t: %s", http2, got.proto)
		}
	}
	// The certificate ends within the hour.
	steps := opened(t, loopback(t), Config{URL: url, Secret: testSecret, HTTP2: true, TLS: &tlsconfig.Config{CA: a.pem}}).TestConnection(t.Context(), false)
	if len(steps) != 4 || steps[2].Name != "tls" || !strings.Contains(steps[2].Detail, "WARNING: the certificate expires in 0 days") {
		t.Errorf("%+v", steps)
	}
	_, err := opened(t, loopback(t), Config{URL: url, Secret: testSecret}).Deliver(t.Context(), event("msg_1"))
	if class, code := classOf(err); class != transport.ClassUnavailable || code != "tls.certificate" {
		t.Errorf("unknown authority: %v: %s %s", err, class, code)
	}
}

func TestServerName(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	url, requests := secureRecorder(t, a, "hooks.example", time.Hour, false)
	_, err := opened(t, loopback(t), Config{URL: url, Secret: testSecret, TLS: &tlsconfig.Config{CA: a.pem}}).Deliver(t.Context(), event("msg_1"))
	if class, code := classOf(err); class != transport.ClassUnavailable || code != "tls.certificate" {
		t.Errorf("wrong name: %v: %s %s", err, class, code)
	}
	hook := opened(t, loopback(t), Config{URL: url, Secret: testSecret, TLS: &tlsconfig.Config{CA: a.pem, ServerName: "hooks.example"}})
	if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil || len(requests) != 1 {
		t.Errorf("%v, %d requests", err, len(requests))
	}
	for _, step := range hook.TestConnection(t.Context(), false) {
		if step.Err != nil {
			t.Errorf("%+v", step)
		}
	}
}

func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	url, _ := secureRecorder(t, a, "127.0.0.1", -time.Minute, false)
	_, err := opened(t, loopback(t), Config{URL: url, Secret: testSecret, TLS: &tlsconfig.Config{CA: a.pem}}).Deliver(t.Context(), event("msg_1"))
	if class, code := classOf(err); class != transport.ClassUnavailable || code != "tls.certificate" || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v: %s %s", err, class, code)
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	url, requests := secureRecorder(t, a, "127.0.0.1", time.Hour, true)
	certificate, key := a.issue(t, "client.example", time.Hour)
	for _, http2 := range []bool{true, false} {
		hook := opened(t, loopback(t), Config{URL: url, Secret: testSecret, HTTP2: http2, TLS: &tlsconfig.Config{CA: a.pem, Certificate: certificate, Key: key}})
		if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil {
			t.Fatal(err)
		}
		<-requests
		_, err := opened(t, loopback(t), Config{URL: url, Secret: testSecret, HTTP2: http2, TLS: &tlsconfig.Config{CA: a.pem}}).Deliver(t.Context(), event("msg_1"))
		if err == nil {
			t.Error("delivered without the client certificate")
		}
	}
	// The server says so only after the handshake, and a connection that it has
	// closed may break before its alert is read: the test of the connection warns.
	steps := opened(t, loopback(t), Config{URL: url, Secret: testSecret, TLS: &tlsconfig.Config{CA: a.pem}}).TestConnection(t.Context(), false)
	if len(steps) < 3 || !strings.Contains(steps[2].Detail, "WARNING: the server asks for a client certificate") || steps[len(steps)-1].Err == nil {
		t.Errorf("%+v", steps)
	}
	for alert, want := range map[string]transport.Class{"tls: certificate required": transport.ClassAuth, "tls: bad certificate": transport.ClassAuth, "tls: access denied": transport.ClassAuth, "tls: internal error": transport.ClassUnknownOutcome} {
		class, _ := classOf(failed(&net.OpError{Op: "remote error", Err: errors.New(alert)}, true, false))
		if class != want {
			t.Errorf("%s: %s, want %s", alert, class, want)
		}
	}
}
