package webhook

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestRedirectsThatAreOn(t *testing.T) {
	t.Parallel()
	target, requests := recorder(t)
	hops := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/once":
			http.Redirect(w, r, target+"/end", http.StatusTemporaryRedirect)
		case "/twice":
			w.Header().Set("Location", "once")
			w.WriteHeader(http.StatusPermanentRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusTemporaryRedirect)
		case "/found":
			http.Redirect(w, r, target+"/end", http.StatusFound)
		case "/scheme":
			w.Header().Set("Location", "gopher://a.example/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		case "/nowhere":
			w.WriteHeader(http.StatusTemporaryRedirect)
		case "/metadata":
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusTemporaryRedirect)
		}
	})
	deliver := func(path string) (transport.Receipt, error) {
		c := Config{URL: hops.URL + path, Secret: testSecret, Redirects: 2}
		return opened(t, loopback(t), c).Deliver(t.Context(), event("msg_1"))
	}
	for _, path := range []string{"/once", "/twice"} {
		if receipt, err := deliver(path); err != nil || receipt.Status != 200 {
			t.Errorf("%s: %+v, %v", path, receipt, err)
			continue
		}
		if got := <-requests; got.method != http.MethodPost || len(got.body) == 0 {
			t.Errorf("%s: %s with %d bytes arrived", path, got.method, len(got.body))
		}
	}
	for path, want := range map[string]struct {
		class transport.Class
		code  string
	}{
		"/loop": {transport.ClassConfig, "http.redirects"}, "/found": {transport.ClassTransient, "http.302"}, "/scheme": {transport.ClassConfig, "http.redirect_refused"},
		"/nowhere": {transport.ClassConfig, "http.redirect_refused"}, "/metadata": {transport.ClassConfig, "egress.blocked"},
	} {
		_, err := deliver(path)
		if class, code := classOf(err); class != want.class || code != want.code {
			t.Errorf("%s: %v: %s %s, want %s %s", path, err, class, code, want.class, want.code)
		}
	}
	if n := len(requests); n != 0 {
		t.Errorf("%d more requests arrived", n)
	}
}

func TestCredentialsStayWithTheirHost(t *testing.T) {
	t.Parallel()
	requests := make(chan seen, 10)
	var home string
	foreign := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		requests <- seen{header: r.Header}
		http.Redirect(w, r, home+"/end", http.StatusTemporaryRedirect) // and back
	})
	own := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		requests <- seen{header: r.Header}
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, foreign.URL, http.StatusTemporaryRedirect)
		case "/here":
			http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
		}
	})
	home = own.URL
	config := Config{
		Secret: testSecret, Redirects: 3, Headers: map[string]string{"Cookie": "c=1", "X-Plain": "p"}, SecretHeaders: map[string]string{"X-Secret": "s"}, Bearer: &Bearer{"token-1"},
	}
	count := func(h http.Header) (n int) {
		for _, name := range []string{"Cookie", "X-Secret", "Authorization"} {
			if h.Get(name) != "" {
				n++
			}
		}
		return n
	}
	for path, want := range map[string][]int{"/here": {3, 3}, "/away": {3, 0, 0}} {
		config.URL = own.URL + path
		if _, err := opened(t, loopback(t), config).Deliver(t.Context(), event("msg_1")); err != nil {
			t.Fatal(err)
		}
		for hop, n := range want {
			header := (<-requests).header
			if got := count(header); got != n || header.Get("X-Plain") != "p" || header.Get("Webhook-Signature") == "" {
				t.Errorf("%s, hop %d: %d credentials, want %d: %v", path, hop, got, n, header)
			}
		}
	}
}

func TestRedirectNeverLeavesTLS(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	plain := receiver(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(secure.Close)
	hook := opened(t, loopback(t), Config{URL: secure.URL, Secret: testSecret, Redirects: 3})
	hook.client.TLSClientConfig.RootCAs = secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	_, err := hook.Deliver(t.Context(), event("msg_1"))
	if _, code := classOf(err); code != "http.redirect_refused" || !strings.Contains(err.Error(), "https to http") || reached.Load() != 0 {
		t.Errorf("%v, %d requests in the clear", err, reached.Load())
	}
}
