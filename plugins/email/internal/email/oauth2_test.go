package email

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/plugins/email/internal/smtp"
	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/plugintest/postfix"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// issuer gives tokens to the plugin and tells Dovecot which of them are valid.
type issuer struct {
	*httptest.Server

	mu       sync.Mutex
	lifetime int // seconds
	calls    int
	valid    map[string]bool
	barren   bool // gives tokens that are not valid
	refresh  []string
	gate     chan struct{} // a token is given when it is closed; nil gives at once
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{lifetime: 3600, valid: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", i.token)
	mux.HandleFunc("POST /introspect", i.introspect)
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	if id, secret, _ := r.BasicAuth(); id != "client" || secret != "secret-of-the-client" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	i.mu.Lock()
	gate := i.gate
	i.mu.Unlock()
	if gate != nil {
		<-gate
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls++
	i.refresh = append(i.refresh, r.PostFormValue("refresh_token"))
	token := "token-" + strconv.Itoa(i.calls)
	i.valid[token] = !i.barren
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": i.lifetime, "refresh_token": "refresh-" + strconv.Itoa(i.calls)})
}

func (i *issuer) introspect(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"active": i.valid[r.PostFormValue("token")], "username": postfix.User})
}

func (i *issuer) change(do func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	do()
}

func (i *issuer) called() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.calls
}

// revoke makes every token of before invalid.
func (i *issuer) revoke() { i.change(func() { clear(i.valid) }) }

// withTokens makes the configuration of a destination that authenticates anew for
// each message.
func withTokens(s *postfix.Server, i *issuer) func(*Config) {
	return at(s, func(c *Config) {
		c.To, c.Mechanism, c.Password, c.MessagesPerConnection = []string{"oauth@acme.example"}, mechanismXOAuth2, "", 1
		c.OAuth2, c.RefreshToken = &oauth2.Config{TokenURL: i.URL + "/token", ClientID: "client", ClientSecret: "secret-of-the-client"}, "refresh-0"
	})
}

// TestOAuth2 authenticates to Postfix with Dovecot's XOAUTH2, which asks the issuer
// of the tokens whether each is valid.
func TestOAuth2(t *testing.T) {
	t.Parallel()
	gateway := newIssuer(t)
	s := postfix.StartWithTokens(t, gateway.URL+"/introspect", "oauth", "dovecot")
	t.Run("token is kept until it is refused", func(t *testing.T) {
		e := opened(t, withTokens(s, gateway))
		before := gateway.called()
		for n := range 3 {
			sent(t, e, event(fmt.Sprint("item_kept_", n)))
		}
		if n := gateway.called() - before; n != 1 {
			t.Errorf("%d tokens for 3 messages", n)
		}
		// Revoked before its time: one attempt fails, and the next has a new token.
		gateway.revoke()
		if class := refusedWith(t, e); class != "transient oauth2.token_refused" {
			t.Errorf("revoked token: %s", class)
		}
		sent(t, e, event("item_renewed"))
		if n := gateway.called() - before; n != 2 {
			t.Errorf("%d tokens, want 2", n)
		}
		// A token that was never taken is not the token's fault.
		gateway.change(func() { gateway.barren = true; clear(gateway.valid) })
		first, second := refusedWith(t, e), refusedWith(t, e)
		if first != "transient oauth2.token_refused" || second != "auth smtp.535" {
			t.Errorf("tokens that are never taken: %s, then %s", first, second)
		}
		if n := gateway.called() - before; n != 3 {
			t.Errorf("%d tokens, want 3", n)
		}
		gateway.change(func() { gateway.barren = false })
		sent(t, e, event("item_mended"))
	})
	t.Run("refresh token", func(t *testing.T) {
		gateway.change(func() { gateway.refresh, gateway.lifetime = nil, 1 })
		e := opened(t, withTokens(s, gateway))
		deadline := time.Now().Add(time.Minute)
		for n := 0; len(gateway.refreshed()) < 2 && time.Now().Before(deadline); n++ {
			sent(t, e, event(fmt.Sprint("item_expiry_", n))) // renewed before it expires: none fails
		}
		gateway.change(func() { gateway.lifetime = 3600 })
		// The issuer replaces the refresh token with each answer.
		if used := gateway.refreshed(); len(used) < 2 || used[0] != "refresh-0" || used[1] == "refresh-0" || used[1] == "" {
			t.Errorf("refresh tokens used: %q", used)
		}
	})
	t.Run("one call however many wait", func(t *testing.T) {
		gate := make(chan struct{})
		before := gateway.called()
		gateway.change(func() { gateway.gate = gate })
		e := opened(t, withTokens(s, gateway))
		failed := make(chan error, 8)
		for n := range cap(failed) {
			go func() {
				_, err := e.Deliver(t.Context(), event(fmt.Sprint("item_many_", n)))
				failed <- err
			}()
		}
		close(gate)
		for range cap(failed) {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		if n := gateway.called() - before; n != 1 {
			t.Errorf("%d tokens for 8 messages at once", n)
		}
	})
	t.Run("issuer refuses or is away", func(t *testing.T) {
		e := opened(t, func(c *Config) {
			withTokens(s, gateway)(c)
			c.OAuth2.ClientSecret = "wrong"
		})
		if class := refusedWith(t, e); class != "auth oauth2.refused" {
			t.Error(class)
		}
		e = opened(t, func(c *Config) {
			withTokens(s, gateway)(c)
			c.OAuth2.TokenURL = "http://127.0.0.1:1/token"
		})
		if class := refusedWith(t, e); class != "unavailable tcp.refused" {
			t.Error(class)
		}
	})
	t.Run("Dovecot's other mechanisms", func(t *testing.T) {
		for _, mechanism := range []string{"auto", "plain", "login", "cram-md5", "scram-sha-256"} {
			e := opened(t, at(s, func(c *Config) { c.Mechanism, c.To = mechanism, []string{"dovecot@acme.example"} }))
			sent(t, e, event("item_dovecot_"+mechanism))
			if mechanism != "plain" && mechanism != "scram-sha-256" {
				continue // Dovecot takes its time to refuse
			}
			e = opened(t, at(s, func(c *Config) { c.Mechanism, c.Password = mechanism, "wrong-password" }))
			if class := refusedWith(t, e); class != "auth smtp.535" {
				t.Errorf("%s with a wrong password: %s", mechanism, class)
			}
		}
	})
}

func (i *issuer) refreshed() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.refresh...)
}

// refusedWith is the class and code of a delivery that fails.
func refusedWith(t *testing.T, e *email) string {
	t.Helper()
	_, err := e.Deliver(t.Context(), event("item_refused"))
	var classified *transport.Error
	if !errors.As(err, &classified) {
		t.Fatalf("error %v", err)
	}
	if refused := (*smtp.Error)(nil); errors.As(err, &refused) && refused.Stage != smtp.StageAuth {
		t.Errorf("refused at stage %s: %v", refused.Stage, err)
	}
	return classified.Class.String() + " " + classified.Code
}
