package receiver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

func start(t *testing.T) (*Client, *signature.Key) {
	t.Helper()
	r, err := New(Secret())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	key, err := signature.ParseKey(Secret())
	if err != nil {
		t.Fatal(err)
	}
	return NewClient(server.URL), key
}

func post(t *testing.T, c *Client, id, signatures, body string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.Hook(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(signature.HeaderID, id)
	request.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(time.Now().Unix(), 10))
	request.Header.Set(signature.HeaderSignature, signatures)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func signed(t *testing.T, key *signature.Key, id, body string) string {
	t.Helper()
	header, err := signature.Sign(id, time.Now(), []byte(body), key)
	if err != nil {
		t.Fatal(err)
	}
	return header
}

func TestCounts(t *testing.T) {
	t.Parallel()
	for _, hashOnly := range []bool{false, true} {
		t.Run(fmt.Sprintf("hash only %v", hashOnly), func(t *testing.T) {
			t.Parallel()
			c, key := start(t)
			if err := c.Reset(t.Context(), hashOnly); err != nil {
				t.Fatal(err)
			}
			before := time.Now().UnixNano()
			for _, send := range []struct {
				id, signatures, body string
				want                 int
			}{
				{"a", signed(t, key, "a", "one"), "one", http.StatusNoContent},
				{"b", signed(t, key, "b", "two"), "two", http.StatusNoContent},
				{"a", signed(t, key, "a", "one"), "one", http.StatusNoContent},
				{"c", signed(t, key, "c", "one"), "two", http.StatusBadRequest},
				{"d", "", "one", http.StatusBadRequest},
			} {
				if got := post(t, c, send.id, send.signatures, send.body); got != send.want {
					t.Errorf("posting %s: status %d, want %d", send.id, got, send.want)
				}
			}
			got, err := c.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.First < before || got.Last < got.First || got.Last > time.Now().UnixNano() {
				t.Errorf("first %d and last %d are not between start and now", got.First, got.Last)
			}
			got.First, got.Last, got.CPUMillis = 0, 0, 0
			if diff := cmp.Diff(Stats{Unique: 2, Duplicate: 1, Bad: 2}, got); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
			receipts, err := c.Receipts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := map[bool]int{false: 2, true: 0}[hashOnly]
			if len(receipts) != want {
				t.Errorf("%d receipts, want %d", len(receipts), want)
			}
			if err := c.Reset(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if got, err = c.Stats(t.Context()); err != nil || got.Unique+got.Duplicate+got.Bad != 0 {
				t.Errorf("after a reset: %+v, %v, want zeros", got, err)
			}
		})
	}
}

// TestPeerIsUnderstood signs as the peer's source does and reads the statistics by the names that it reads.
func TestPeerIsUnderstood(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	mac := hmac.New(sha256.New, []byte(peerKey))
	fmt.Fprintf(mac, "evt_0000000001.%d.{}", time.Now().Unix())
	signatures := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if got := post(t, c, "evt_0000000001", signatures, "{}"); got != http.StatusNoContent {
		t.Fatalf("posting as the peer does: status %d, want 204", got)
	}
	response, err := http.Get(c.Base() + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var stats map[string]json.Number
	if err := json.NewDecoder(response.Body).Decode(&stats); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"unique", "dup", "bad", "first", "last", "cpu_ms"} {
		if _, ok := stats[name]; !ok {
			t.Errorf("the statistics have no %q", name)
		}
	}
	receipts, err := c.Receipts(t.Context())
	if err != nil || receipts["evt_0000000001"] == 0 {
		t.Errorf("receipts = %v, %v, want one of evt_0000000001", receipts, err)
	}
}

// TestDown looks at the hooks that do not work.
func TestDown(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	post := func(ctx context.Context, url string) (int, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	if got, err := post(t.Context(), c.Failing()); got != http.StatusInternalServerError || err != nil {
		t.Errorf("the failing hook: %d, %v, want 500", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := post(ctx, c.Hanging()); err == nil {
		t.Errorf("the hanging hook answers %d, want nothing", got)
	}
	answers := make(chan int)
	go func() {
		got, _ := post(t.Context(), c.Hanging())
		answers <- got
	}()
	if err := c.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got != http.StatusServiceUnavailable {
		t.Errorf("released: %d, want 503", got)
	}
	if err := c.Reset(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	again, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := post(again, c.Hanging()); err == nil {
		t.Errorf("after a reset the hanging hook answers %d, want nothing", got)
	}
}

func TestOversizedBodyIsRefused(t *testing.T) {
	t.Parallel()
	c, key := start(t)
	body := string(bytes.Repeat([]byte("x"), maxBody+1))
	if got := post(t, c, "a", signed(t, key, "a", body), body); got != http.StatusBadRequest {
		t.Errorf("a body of %d bytes: status %d, want 400", len(body), got)
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", "192.0.2.1:80", "localhost", "example.com:80"} {
		if err := Serve(t.Context(), address, func(net.Addr) { t.Errorf("it listens on %s", address) }); err == nil {
			t.Errorf("Serve(%s): no error, want one", address)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	addresses, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() { ended <- Serve(ctx, "127.0.0.1:0", func(a net.Addr) { addresses <- a }) }()
	c := NewClient("http://" + (<-addresses).String())
	if _, err := c.Stats(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve after its context ended: %v, want nil", err)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	c, key := start(t)
	for _, body := range []string{"first", "a file that is longer"} {
		for _, signatures := range []string{signed(t, key, "msg_1", body), signed(t, key, "msg_1", "another")} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.FileURL("d1"), strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set(signature.HeaderID, "msg_1")
			request.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(time.Now().Unix(), 10))
			request.Header.Set(signature.HeaderSignature, signatures)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
		}
	}
	files, err := c.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]File{"d1": {Size: 21, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte("a file that is longer"))), Times: 2, Last: files["d1"].Last}}
	if diff := cmp.Diff(want, files); diff != "" || files["d1"].Last == 0 {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if stats, err := c.Stats(t.Context()); err != nil || stats.Bad != 2 || stats.Unique != 0 {
		t.Errorf("%+v, %v: want two that are bad", stats, err)
	}
}
