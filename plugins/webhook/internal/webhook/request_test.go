package webhook

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// seen is what a receiver got.
type seen struct {
	method string
	header http.Header
	body   []byte
	proto  string
}

// recorder is a receiver that hands over what it gets and refuses what is not
// signed with testSecret.
func recorder(t testing.TB) (url string, requests chan seen) {
	t.Helper()
	requests = make(chan seen, 100)
	server := receiver(t, record(t, requests))
	return server.URL, requests
}

func record(t testing.TB, requests chan seen) http.HandlerFunc {
	v, err := signature.NewVerifier([]string{testSecret})
	if err != nil {
		t.Fatal(err)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = v.Verify(r.Header, body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		requests <- seen{r.Method, r.Header, body, r.Proto}
	}
}

// send delivers one event and gives what arrived.
func send(t *testing.T, c Config, d *transport.Delivery) seen {
	t.Helper()
	url, requests := recorder(t)
	c.URL, c.Secret = url, testSecret
	if _, err := opened(t, loopback(t), c).Deliver(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return <-requests
}

func TestMethods(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"POST", "PUT", "PATCH"} {
		if got := send(t, Config{Method: method}, event("msg_1")); got.method != method {
			t.Errorf("%s became %s", method, got.method)
		}
	}
}

func TestDataAlone(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]string{
		"application/json": "application/json", "text/csv; charset=utf-8": "text/csv; charset=utf-8", "": "application/octet-stream", "a\r\nb": "application/octet-stream",
	} {
		d := event("msg_1")
		d.Data, d.ContentType = []byte("a,b\n\xff\x00"), contentType
		got := send(t, Config{Body: "data"}, d)
		if !bytes.Equal(got.body, d.Data) || got.header.Get("Content-Type") != want {
			t.Errorf("%q: body %q of type %q", contentType, got.body, got.header.Get("Content-Type"))
		}
	}
}

func TestGzip(t *testing.T) {
	t.Parallel()
	d := event("msg_1")
	d.Data = []byte(`"` + strings.Repeat("compressible ", 1000) + `"`)
	got := send(t, Config{Compression: "gzip", Body: "data"}, d) // the recorder verified the compressed bytes
	if got.header.Get("Content-Encoding") != "gzip" || len(got.body) > 500 {
		t.Errorf("encoding %q, %d bytes", got.header.Get("Content-Encoding"), len(got.body))
	}
	r, err := gzip.NewReader(bytes.NewReader(got.body))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(r); err != nil || !bytes.Equal(plain, d.Data) {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
}

func TestHeadersFromEverywhere(t *testing.T) {
	t.Parallel()
	d := event("msg_1")
	d.Metadata = []byte(`{"tenant":"t-1","a.b":"dotted","number":42,"evil":"x\r\nY: 1","long":"` + strings.Repeat("x", 2000) + `","nested":{"a":1}}`)
	got := send(t, Config{
		Headers: map[string]string{"x-plain": "p"}, SecretHeaders: map[string]string{"x-secret": "s"},
		MetadataHeaders: map[string]string{"x-tenant": "tenant", "x-dotted": "a.b", "x-number": "number", "x-evil": "evil", "x-long": "long", "x-none": "none", "x-wild": "*"},
	}, d)
	for name, want := range map[string]string{
		"X-Plain": "p", "X-Secret": "s", "X-Tenant": "t-1", "X-Dotted": "dotted", "X-Number": "42", "X-Evil": "", "X-Long": "", "X-None": "", "X-Wild": "", "Y": "",
	} {
		if value := got.header.Get(name); value != want {
			t.Errorf("%s is %q, want %q", name, value, want)
		}
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config       Config
		header, want string
	}{
		"basic":   {Config{Basic: &Basic{"user", "pass:word"}}, "Authorization", "Basic dXNlcjpwYXNzOndvcmQ="},
		"bearer":  {Config{Bearer: &Bearer{"token-1"}}, "Authorization", "Bearer token-1"},
		"api key": {Config{APIKey: &APIKey{"x-key", "key-1"}}, "X-Key", "key-1"},
		"none":    {Config{}, "Authorization", ""},
	} {
		if got := send(t, c.config, event("msg_1")).header.Get(c.header); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestSecondSignature(t *testing.T) {
	t.Parallel()
	got := send(t, Config{Signature: &Signature{Header: "x-hub-signature-256", Algorithm: "sha256", Encoding: "hex", Content: "body", Prefix: "sha256="}}, event("msg_1"))
	key, err := signature.ParseKey(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	custom, err := key.Custom(signature.Form{Algorithm: "sha256", Encoding: "hex", Content: "body", Prefix: "sha256="})
	if err != nil {
		t.Fatal(err)
	}
	if want := string(custom.Append(nil, "", 0, got.body)); got.header.Get("X-Hub-Signature-256") != want {
		t.Errorf("%q, want %q", got.header.Get("X-Hub-Signature-256"), want)
	}
	// With an Ed25519 secret there is no HMAC to make: said when opening.
	private, public, err := signature.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	c := defaulted(Config{URL: "https://a.example", Secret: private, Signature: &Signature{Header: "X-A"}})
	if _, err := open(loopback(t), &c, newPools()); err == nil || !strings.Contains(err.Error(), "Ed25519") {
		t.Errorf("Ed25519 with a second form: %v", err)
	}
	// During a rotation the primary secret makes the second form.
	url, requests := recorder(t)
	in := loopback(t)
	const primary = "the-primary-secret-of-some-length"
	in.Secrets = []transport.Secret{{ID: "new", Key: primary}, {ID: "old", Key: testSecret, ExpiresAt: time.Now().Add(time.Hour)}}
	hook := opened(t, in, Config{URL: url, Signature: &Signature{Header: "X-A"}})
	if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil {
		t.Fatal(err)
	}
	request := <-requests
	mac := hmac.New(sha256.New, []byte(primary))
	mac.Write(request.body)
	if got, want := request.header.Get("X-A"), hex.EncodeToString(mac.Sum(nil)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	_ = public
}

func TestEd25519Alone(t *testing.T) {
	t.Parallel()
	private, public, err := signature.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.NewVerifier([]string{public})
	if err != nil {
		t.Fatal(err)
	}
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := v.Verify(r.Header, body); err != nil || !strings.HasPrefix(r.Header.Get("Webhook-Signature"), "v1a,") {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	if _, err := opened(t, loopback(t), Config{URL: server.URL, Secret: private}).Deliver(t.Context(), event("msg_1")); err != nil {
		t.Error(err)
	}
}

func TestStatusOverrides(t *testing.T) {
	t.Parallel()
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.WriteHeader(status)
	})
	for status, want := range map[int]transport.Class{404: transport.ClassPermanent, 503: transport.ClassPermanent, 400: transport.ClassTransient, 410: transport.ClassTransient, 422: transport.ClassPermanent} {
		c := Config{URL: fmt.Sprintf("%s/%d", server.URL, status), Secret: testSecret, PermanentStatuses: []int{404, 503}, RetryStatuses: []int{400, 410}}
		_, err := opened(t, loopback(t), c).Deliver(t.Context(), event("msg_1"))
		if class, _ := classOf(err); class != want {
			t.Errorf("%d: %s, want %s", status, class, want)
		}
	}
}

func TestUpload(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	for _, compression := range []string{"none", "gzip"} {
		url, requests := recorder(t)
		hook := opened(t, loopback(t), Config{URL: url, Secret: testSecret, Compression: compression, Signature: &Signature{Header: "X-A"}})
		d := event("msg_1")
		d.Data, d.Artifact = nil, &transport.Artifact{Name: `re"port.csv`, ContentType: "text/csv", Size: int64(len(content))}
		receipt, err := hook.Upload(t.Context(), d, bytes.NewReader(content))
		if err != nil || receipt.Status != 200 {
			t.Fatalf("%s: %+v, %v", compression, receipt, err)
		}
		got := <-requests
		body := io.Reader(bytes.NewReader(got.body))
		if compression == "gzip" {
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		if plain, err := io.ReadAll(body); err != nil || !bytes.Equal(plain, content) {
			t.Errorf("%s: %d bytes arrived, %v", compression, len(plain), err)
		}
		if got.header.Get("Content-Type") != "text/csv" || got.header.Get("Content-Disposition") != `attachment; filename="re\"port.csv"` || got.header.Get("Content-Length") != fmt.Sprint(len(got.body)) {
			t.Errorf("%s: %v", compression, got.header)
		}
		key, err := signature.ParseKey(testSecret)
		if err != nil {
			t.Fatal(err)
		}
		custom, err := key.Custom(signature.Form{Algorithm: "sha256", Encoding: "hex", Content: "body"})
		if err != nil {
			t.Fatal(err)
		}
		if want := string(custom.Append(nil, "", 0, got.body)); got.header.Get("X-A") != want {
			t.Errorf("%s: second signature %q, want %q", compression, got.header.Get("X-A"), want)
		}
	}
}

func TestUploadFailures(t *testing.T) {
	t.Parallel()
	url, requests := recorder(t)
	d := event("msg_1")
	d.Artifact = &transport.Artifact{Name: "a"}
	damaged := io.MultiReader(strings.NewReader("half"), &failing{transport.ErrDamagedUpload})
	_, err := opened(t, loopback(t), Config{URL: url, Secret: testSecret}).Upload(t.Context(), d, damaged)
	if class, code := classOf(err); class != transport.ClassTransient || code != "spool" {
		t.Errorf("damaged: %v", err)
	}
	private, _, err := signature.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	_, err = opened(t, loopback(t), Config{URL: url, Secret: private}).Upload(t.Context(), d, io.LimitReader(zeros{}, signature.MaxBuffered+1))
	if class, code := classOf(err); class != transport.ClassPermanent || code != "signature.too_long" {
		t.Errorf("too long for Ed25519: %v", err)
	}
	in := loopback(t)
	in.Secrets = []transport.Secret{{ID: "s", Key: testSecret, ExpiresAt: time.Now().Add(-time.Second)}}
	_, err = opened(t, in, Config{URL: url}).Upload(t.Context(), d, strings.NewReader("a"))
	if class, code := classOf(err); class != transport.ClassConfig || code != "signature.no_secret" {
		t.Errorf("expired secret: %v", err)
	}
	if n := len(requests); n != 0 {
		t.Errorf("%d requests left, want none", n)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
