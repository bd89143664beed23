package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/sdk/plugintest/freeport"
)

// serve starts a server that answers with status and body and keeps the request.
func serve(t *testing.T, status int, body string) (*Client, func() (*http.Request, string)) {
	t.Helper()
	var got *http.Request
	var content []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		content, _ = io.ReadAll(r.Body)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	c, err := New(Options{Address: server.URL, Token: secret.New("a-token"), Organization: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() (*http.Request, string) { return got, string(content) }
}

func TestSubmit(t *testing.T) {
	t.Parallel()
	c, got := serve(t, 202, `{"id":"dlv_1","status":"accepted","destinations":[{"id":7,"label":"billing"}]}`)
	accepted, err := c.Submit(context.Background(), &api.Submission{
		Destinations: api.References{List: []string{"billing"}},
		Payload:      api.Payload{Type: "t", Data: json.RawMessage(`{"a":1}`)},
	})
	if err != nil || accepted.ID != "dlv_1" || accepted.Destinations[0].ID != 7 {
		t.Fatalf("Submit = %+v, %v", accepted, err)
	}
	r, body := got()
	if r.Method != "POST" || r.URL.String() != "/v1/deliveries?organization=acme" || r.Header.Get("Authorization") != "Bearer a-token" {
		t.Errorf("request was %s %s %v", r.Method, r.URL, r.Header)
	}
	if body != `{"destinations":["billing"],"payload":{"type":"t","data":{"a":1}}}` {
		t.Errorf("body was %s", body)
	}
}

func TestListAsksForWhatWasWanted(t *testing.T) {
	t.Parallel()
	c, got := serve(t, 200, `{"items":[]}`)
	_, err := c.Deliveries(context.Background(), api.DeliveryFilter{Status: "failed", Destination: "a/b", Limit: 5, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := got()
	q := r.URL.Query()
	if q.Get("status") != "failed" || q.Get("destination") != "a/b" || q.Get("limit") != "5" || q.Get("since") != "2026-01-02T03:04:05Z" || q.Has("cursor") {
		t.Errorf("query was %v", q)
	}
	if _, err := c.Destination(context.Background(), "a/b"); err == nil {
		t.Log("the answer happens to decode")
	}
	if r, _ := got(); r.URL.EscapedPath() != "/v1/destinations/a%2Fb" {
		t.Errorf("path was %s", r.URL.EscapedPath())
	}
}

func TestProblemIsTheError(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, 422, `{"type":"urn:deliveryd:problem:unknown_destination","status":422,"code":"unknown_destination","detail":"no such destination","errors":[{"pointer":"/destinations/0","detail":"x"}]}`)
	_, err := c.Submit(context.Background(), &api.Submission{})
	var problem *api.Problem
	if !errors.As(err, &problem) || problem.Code != "unknown_destination" || problem.Errors[0].Pointer != "/destinations/0" {
		t.Errorf("error is %#v", err)
	}
}

func TestAnswersOfOthers(t *testing.T) {
	t.Parallel()
	for _, status := range []int{302, 404, 502} {
		c, _ := serve(t, status, "<html>a proxy</html>")
		_, err := c.Destinations(context.Background())
		if err == nil || !strings.Contains(err.Error(), "is the address right") {
			t.Errorf("%d in HTML: %v", status, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	port, err := freeport.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Release)
	address := port.Address()
	c, err := New(Options{Address: address, Token: secret.New("t")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Reload(context.Background())
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), address) || strings.Count(err.Error(), address) > 2 {
		t.Errorf("error is %v", err)
	}
}

// Who gets no answer must not take that for a daemon that did nothing.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	for name, answer := range map[string]http.HandlerFunc{
		"too slow": func(http.ResponseWriter, *http.Request) { <-over },
		"cut":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		server := httptest.NewServer(answer)
		c, err := New(Options{Address: server.URL, Token: secret.New("t"), Timeout: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Reload(context.Background()); !errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: error is %v", name, err)
		}
		t.Cleanup(server.Close)
	}
	close(over)
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080", "localhost:1": "http://localhost:1",
		"https://deliveryd.example/": "https://deliveryd.example", "http://[::1]:8080": "http://[::1]:8080",
	} {
		if c, err := New(Options{Address: address}); err != nil || c.base != want {
			t.Errorf("New(%q) = %+v, %v; want base %s", address, c, err, want)
		}
	}
	for _, bad := range []string{"", "ftp://host", "http://host/path", "http://", "::"} {
		if _, err := New(Options{Address: bad}); err == nil {
			t.Errorf("New took the address %q", bad)
		}
	}
}
