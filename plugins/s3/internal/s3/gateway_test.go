package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// gateway is the S3 server of all tests; each test has a bucket of its own.
var gateway *versitygw.Server

// With endpointEnv the tests use another server in place of versitygw, whose
// administrator has versitygw's keys; authorityEnv is the file with its certificate
// where it speaks TLS, without which MinIO takes no SSE-C. Tried with MinIO, with
// MINIO_KMS_SECRET_KEY for SSE-S3 and SSE-KMS, and SeaweedFS, with WEED_S3_SSE_KEK and
// a local KMS. Tests that know what versitygw cannot do, that it has users and a
// region, or no TLS, fail then; for the rest:
//
//	DELIVERYD_TEST_S3_ENDPOINT=http://127.0.0.1:9000 go test ./plugins/s3/internal/s3
//	DELIVERYD_TEST_S3_ENDPOINT=https://127.0.0.1:9000 DELIVERYD_TEST_S3_CA=public.crt go test -run Kept ./plugins/s3/internal/s3
const (
	endpointEnv  = "DELIVERYD_TEST_S3_ENDPOINT"
	authorityEnv = "DELIVERYD_TEST_S3_CA"
)

var buckets atomic.Int64

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	server, err := startGateway()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer server.Stop()
	gateway = server
	return m.Run()
}

func startGateway() (*versitygw.Server, error) {
	endpoint := os.Getenv(endpointEnv)
	if endpoint == "" {
		return versitygw.Start()
	}
	if !strings.HasPrefix(endpoint, "https:") {
		return versitygw.Connect(endpoint, nil)
	}
	authority, err := os.ReadFile(os.Getenv(authorityEnv))
	if err != nil {
		return nil, err
	}
	return versitygw.Connect(endpoint, authority)
}

// newBucket makes a bucket of the test's own.
func newBucket(t testing.TB, options ...func(*awss3.CreateBucketInput)) string {
	t.Helper()
	name := fmt.Sprintf("test-%d-%d", os.Getpid(), buckets.Add(1))
	if err := gateway.CreateBucket(t.Context(), name, options...); err != nil {
		t.Fatal(err)
	}
	return name
}

// configOf is a configuration with its defaults.
func configOf(t testing.TB, text string) *Config {
	t.Helper()
	c, found := check(text)
	if found.HasErrors() {
		t.Fatal(found)
	}
	return c
}

// check decodes as the SDK does.
func check(text string) (*Config, transport.Diagnostics) {
	s, err := schema.Of[Config]()
	if err != nil {
		panic(err)
	}
	filled, found := schema.Check(s, []byte(text))
	if found.HasErrors() {
		return nil, found
	}
	c := new(Config)
	if found = schema.Decode(filled, c); found.HasErrors() {
		return nil, found
	}
	return c, c.Validate()
}

// target configures a destination of the gateway at url; settings is the inside
// of a JSON object, each with a comma before it.
func target(t testing.TB, url, name, settings string) *Config {
	t.Helper()
	if authority := os.Getenv(authorityEnv); url == gateway.URL && authority != "" {
		text, err := os.ReadFile(authority)
		if err != nil {
			t.Fatal(err)
		}
		settings += fmt.Sprintf(`,"ca":%q`, text)
	}
	return configOf(t, fmt.Sprintf(`{"bucket":%q,"endpoint":%q,"credentials":{"access_key_id":%q,"secret_access_key":%q}%s}`,
		name, url, versitygw.AccessKey, versitygw.SecretKey, settings))
}

func instance(t testing.TB) transport.Instance {
	t.Helper()
	guard, err := egress.New(egress.Policy{AllowCIDRs: []string{"127.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	return transport.Instance{ID: "d1", OrganizationID: "acme", Label: "archive", Egress: guard, Logger: slog.New(slog.DiscardHandler)}
}

func opened(t testing.TB, c *Config) *bucket {
	t.Helper()
	b, err := open(t.Context(), instance(t), c, &budget{left: sharedBuffers}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

var acceptedAt = time.Date(2026, 3, 4, 23, 30, 0, 0, time.FixedZone("", -3600)) // the 5th in UTC

func delivery(id string) *transport.Delivery {
	return &transport.Delivery{
		ID: "msg_" + id, DeliveryID: "dlv_" + id, Attempt: 1, OrganizationID: "acme", Type: "order.paid", CreatedAt: acceptedAt, ContentType: "application/json",
		Data: []byte(`{"order": 42}`), Metadata: []byte(`{"tenant":"x"}`), CorrelationID: "corr-1",
	}
}

// artifact is a delivery of size random bytes.
func artifact(id string, size int) (*transport.Delivery, []byte) {
	content := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = source.Read(content)
	digest := sha256.Sum256(content)
	d := delivery(id)
	d.Data = nil
	d.Artifact = &transport.Artifact{Name: "report 1.csv", ContentType: "text/csv", Size: int64(size), SHA256: digest[:]}
	return d, content
}

// stored reads an object; nil where there is none.
func stored(t testing.TB, name, key string) ([]byte, *awss3.GetObjectOutput) {
	t.Helper()
	out, err := gateway.Client().GetObject(t.Context(), &awss3.GetObjectInput{Bucket: &name, Key: &key})
	if statusOf(err) == 404 {
		return nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Body.Close() }()
	body, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body, out
}

// remains counts objects and unfinished uploads of a bucket.
func remains(t testing.TB, name string) (objects, uploads int) {
	t.Helper()
	objects, uploads, err := gateway.Remains(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return objects, uploads
}

func classOfError(err error) (transport.Class, string) {
	var e *transport.Error
	if errors.As(err, &e) {
		return e.Class, e.Code
	}
	return 0, ""
}

// fault stands between the plugin and the gateway. True from it means that it
// has dealt with the request.
type fault func(w http.ResponseWriter, r *http.Request) bool

// faulty gives the URL of the gateway behind a fault.
func faulty(t testing.TB, f fault) string {
	t.Helper()
	upstream, err := url.Parse(gateway.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = upstream.Scheme, upstream.Host },
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		FlushInterval: -1, Transport: gateway.Transport(),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f(w, r) {
			proxy.ServeHTTP(w, r) // Out.Host is In.Host, which is signed
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// cut sends n bytes of the body on and then breaks both connections.
func cut(w http.ResponseWriter, r *http.Request, n int64) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(gateway.URL, "http://"))
	if err == nil {
		head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", r.Method, r.URL.RequestURI(), r.Host, r.ContentLength)
		var fields bytes.Buffer
		_ = r.Header.WriteSubset(&fields, map[string]bool{"Expect": true, "Content-Length": true})
		_, _ = io.WriteString(conn, head+fields.String()+"\r\n")
		_, _ = io.CopyN(conn, r.Body, n)
		_ = conn.Close()
	}
	hangUp(w)
}

// hangUp resets the connection.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// scripted answers once as S3 would.
func scripted(w http.ResponseWriter, r *http.Request, status int, code string) bool {
	_, _ = io.Copy(io.Discard, r.Body) // what is not read resets the connection, and the answer may be lost
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>scripted</Message></Error>`, code)
	return true
}
