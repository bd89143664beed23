package load

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
)

// TestPayloadIsThePeers compares with digests of what the peer's own generator printed.
func TestPayloadIsThePeers(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "802d91826f26606e255371b95784e0b058da62126d7298a7b46056b460ec97c5", 1: "68772253cd2b5f08f76640130d9525df56c591c7eccffc35e85ab774a779d703", 49999: "c03501b94c8bc28b916717905f57c811c9a8db410fa8c094fe30d082e02b01ce"} {
		got := Payload(n)
		if len(got) != PayloadBytes || !json.Valid(got) {
			t.Errorf("payload %d has %d bytes, valid JSON: %v", n, len(got), json.Valid(got))
		}
		digest := sha256.Sum256(got)
		if text := hex.EncodeToString(digest[:]); text != want {
			t.Errorf("payload %d is not the peer's: digest %s, want %s\n%s", n, text, want, got)
		}
	}
}

func TestPost(t *testing.T) {
	t.Parallel()
	handler, err := receiver.New(receiver.Secret())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	c := receiver.NewClient(server.URL)
	got, err := Post(t.Context(), c.Hook(), receiver.Secret(), 300, 8)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := c.Stats(t.Context())
	if err != nil || stats.Unique != 300 || stats.Duplicate+stats.Bad != 0 {
		t.Errorf("the receiver counts %+v, %v, want 300 unique ones", stats, err)
	}
	if got.Posts != 300 || got.Rate <= 0 || got.Seconds <= 0 {
		t.Errorf("Post = %+v", got)
	}
	if _, err := Post(t.Context(), c.Hook(), "whsec_"+strings.Repeat("A", 40), 3, 2); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("posting with another secret: %v, want that the receiver answered 400", err)
	}
	refusing := httptest.NewServer(http.NotFoundHandler())
	defer refusing.Close()
	if _, err := Post(t.Context(), refusing.URL, receiver.Secret(), 3, 2); err == nil {
		t.Error("posting to who knows nothing of it: no error")
	}
}
