package s3

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

const sse = "X-Amz-Server-Side-Encryption"

// recorder stands between the plugin and the gateway, with TLS, and keeps what was
// asked for. The gateway checks the signatures, knows no encryption and ignores
// what asks for it.
type recorder struct {
	url, ca string

	mu   sync.Mutex
	seen map[string]http.Header // by operation, the last one
}

// operation names a request.
func operation(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case q.Has("partNumber"):
		return "part"
	case q.Has("uploads") && r.Method == http.MethodPost:
		return "create"
	case q.Has("uploadId") && r.Method == http.MethodPost:
		return "complete"
	case len(q) == 1 && q.Has("x-id") && r.Method == http.MethodPut:
		return "put"
	}
	return strings.ToLower(r.Method)
}

// says makes a server say of some operations that it encrypts. Amazon's says it of
// all, MinIO not when an upload in parts begins.
func says(operations ...string) func(operation string) bool {
	return func(operation string) bool { return slices.Contains(operations, operation) }
}

// record starts a recorder, whose server says when it encrypts as it was asked to.
func record(t *testing.T, encrypts func(operation string) bool) *recorder {
	t.Helper()
	upstream, err := url.Parse(gateway.URL)
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{seen: map[string]http.Header{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = upstream.Scheme, upstream.Host },
		ModifyResponse: func(r *http.Response) error {
			for _, name := range []string{sse, sse + "-Customer-Algorithm"} {
				value := r.Request.Header.Get(name)
				if value == "" {
					value = rec.asked("create")[name] // of which this is a part
				}
				if value != "" && encrypts(operation(r.Request)) {
					r.Header.Set(name, value)
				}
			}
			return nil
		},
		FlushInterval: -1, Transport: gateway.Transport(),
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec.mu.Lock()
		rec.seen[operation(r)] = r.Header.Clone()
		rec.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	rec.url = server.URL
	rec.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return rec
}

// asked gives the headers of an operation that say how an object is kept.
func (rec *recorder) asked(operation string) map[string]string {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	kept := map[string]string{}
	for name := range rec.seen[operation] {
		if strings.HasPrefix(name, sse) || name == "X-Amz-Storage-Class" {
			kept[name] = rec.seen[operation].Get(name)
		}
	}
	return kept
}

func TestWhatIsAskedOfTheServer(t *testing.T) {
	t.Parallel()
	customer := map[string]string{
		sse + "-Customer-Algorithm": "AES256", sse + "-Customer-Key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", sse + "-Customer-Key-Md5": "hRasmdxgYDKV3nvbahU1MA==",
	}
	for name, c := range map[string]struct {
		settings string
		object   map[string]string // asked for with a new object
		always   map[string]string // and with everything about it
	}{
		"SSE-S3": {`,"encryption":{"mode":"s3"}`, map[string]string{sse: "AES256"}, nil},
		"SSE-KMS": {
			`,"encryption":{"mode":"kms","kms_key":"alias/archive","bucket_key":true}`,
			map[string]string{sse: "aws:kms", sse + "-Aws-Kms-Key-Id": "alias/archive", sse + "-Bucket-Key-Enabled": "true"},
			nil,
		},
		"DSSE-KMS":      {`,"encryption":{"mode":"kms_dsse"}`, map[string]string{sse: "aws:kms:dsse"}, nil},
		"SSE-C":         {`,"encryption":{"mode":"customer","customer_key":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`, customer, customer},
		"storage class": {`,"storage_class":"STANDARD_IA"`, map[string]string{"X-Amz-Storage-Class": "STANDARD_IA"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := record(t, says("create", "put"))
			config := target(t, rec.url, newBucket(t), c.settings+fmt.Sprintf(`,"ca":%q`, rec.ca))
			b := opened(t, config)
			if _, err := b.Deliver(t.Context(), delivery("1")); err != nil {
				t.Fatal(err)
			}
			d, content := artifact("2", 6<<20)
			if _, err := b.Upload(t.Context(), d, bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			for operation, want := range map[string]map[string]string{"put": c.object, "create": c.object, "part": c.always, "complete": c.always, "head": c.always} {
				if want == nil {
					want = map[string]string{}
				}
				if diff := cmp.Diff(want, rec.asked(operation)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", operation, diff)
				}
			}
		})
	}
}

// A server that ignores the wish to encrypt is found out before it has anything.
func TestServerThatDoesNotEncrypt(t *testing.T) {
	t.Parallel()
	rec := record(t, says())
	for _, settings := range []string{`{"mode":"s3"}`, `{"mode":"kms"}`, `{"mode":"customer","customer_key":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`} {
		name := newBucket(t)
		b := opened(t, target(t, rec.url, name, fmt.Sprintf(`,"ca":%q,"encryption":%s`, rec.ca, settings)))
		_, err := b.Deliver(t.Context(), delivery("1"))
		if class, code := classOfError(err); class != transport.ClassConfig || code != "s3.not_encrypted" {
			t.Errorf("%s: %v: %s %s", settings, err, class, code)
		}
		for _, size := range []int{1, 6 << 20} {
			d, content := artifact("2", size)
			_, err := b.Upload(t.Context(), d, bytes.NewReader(content))
			if _, code := classOfError(err); code != "s3.not_encrypted" {
				t.Errorf("%s, %d bytes: %v", settings, size, err)
			}
		}
		steps := b.TestConnection(t.Context(), true)
		if last := steps[len(steps)-1]; last.Name != "permission" || last.Err == nil {
			t.Errorf("%s: steps %+v", settings, steps)
		}
		if objects, uploads := remains(t, name); objects != 0 || uploads != 0 {
			t.Errorf("%s: %d objects and %d uploads are left", settings, objects, uploads)
		}
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	const nothing = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d" // SHA-256 of a zero byte
	if rec.seen["put"] != nil || rec.seen["part"].Get("X-Amz-Content-Sha256") != nothing {
		t.Error("something was sent")
	}
}

// A server that says so of parts only, as MinIO does.
func TestServerThatSaysLaterThatItEncrypts(t *testing.T) {
	t.Parallel()
	rec := record(t, says("part", "put"))
	for _, settings := range []string{`{"mode":"s3"}`, `{"mode":"customer","customer_key":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`} {
		name := newBucket(t)
		b := opened(t, target(t, rec.url, name, fmt.Sprintf(`,"ca":%q,"encryption":%s`, rec.ca, settings)))
		for _, step := range b.TestConnection(t.Context(), false) {
			if step.Err != nil {
				t.Errorf("%s: %s: %v", settings, step.Name, step.Err)
			}
		}
		if _, err := b.Deliver(t.Context(), delivery("1")); err != nil {
			t.Errorf("%s: %v", settings, err)
		}
		d, content := artifact("2", 6<<20)
		if _, err := b.Upload(t.Context(), d, bytes.NewReader(content)); err != nil {
			t.Errorf("%s: %v", settings, err)
		}
		if got, _ := stored(t, name, "acme/archive/2026/03/05/dlv_2.csv"); !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes are there, want %d", settings, len(got), len(content))
		}
		if objects, uploads := remains(t, name); objects != 2 || uploads != 0 {
			t.Errorf("%s: %d objects and %d uploads are left", settings, objects, uploads)
		}
	}
}

// newCertificate makes one for 127.0.0.1 that is its own authority.
func newCertificate(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// The real server over TLS: with its authority, and without.
func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	server, err := versitygw.StartTLS(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if err := server.CreateBucket(t.Context(), "sealed"); err != nil {
		t.Fatal(err)
	}
	b := opened(t, target(t, server.URL, "sealed", fmt.Sprintf(`,"ca":%q`, certificate)))
	d, content := artifact("1", 6<<20)
	if _, err := b.Upload(t.Context(), d, bytes.NewReader(content)); err != nil {
		t.Error(err)
	}
	if _, err := b.Deliver(t.Context(), delivery("2")); err != nil {
		t.Error(err)
	}
	for _, step := range b.TestConnection(t.Context(), false) {
		if step.Err != nil {
			t.Errorf("%s: %v", step.Name, step.Err)
		}
	}
	_, err = opened(t, target(t, server.URL, "sealed", "")).Deliver(t.Context(), delivery("3"))
	if class, code := classOfError(err); class != transport.ClassUnavailable || !strings.HasPrefix(code, "tls") {
		t.Errorf("an authority that is not trusted: %v: %s %s", err, class, code)
	}
}
