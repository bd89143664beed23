package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// issuer is a token endpoint that numbers its tokens.
type issuer struct {
	issued  atomic.Int32
	answer  atomic.Value // func(http.ResponseWriter), instead of a token
	form    chan url.Values
	release chan struct{} // nil: answer at once
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	if user, password, ok := r.BasicAuth(); ok {
		r.PostForm.Set("basic", user+" "+password)
	}
	select {
	case i.form <- r.PostForm:
	default:
	}
	if i.release != nil {
		<-i.release
	}
	if answer, ok := i.answer.Load().(func(http.ResponseWriter)); ok {
		answer(w)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprintf("token-%d", i.issued.Add(1)), "token_type": "Bearer", "expires_in": 3600})
}

// guarded is a receiver that takes the bearer tokens that valid says.
func guarded(t *testing.T, valid func(token string) bool) string {
	return receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if !valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte("bad " + r.Header.Get("Authorization")))
		}
	}).URL
}

func oauthHook(t *testing.T, i *issuer, target string) *webhook {
	t.Helper()
	i.form = make(chan url.Values, 10)
	endpoint := receiver(t, i.ServeHTTP)
	return opened(t, loopback(t), Config{URL: target, Secret: testSecret, OAuth2: &oauth2.Config{
		TokenURL: endpoint.URL + "/token", ClientID: "id:1", ClientSecret: "secret/1", Scopes: []string{"a", "b"}, Audience: "aud",
	}})
}

func TestTokenIsAskedForOnceByAll(t *testing.T) {
	t.Parallel()
	i := &issuer{release: make(chan struct{})}
	hook := oauthHook(t, i, guarded(t, func(token string) bool { return token == "token-1" }))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := hook.Deliver(t.Context(), event("msg_1")); err != nil {
				t.Error(err)
			}
		})
	}
	form := <-i.form
	close(i.release)
	wg.Wait()
	if n := i.issued.Load(); n != 1 {
		t.Errorf("%d tokens for 20 deliveries at once, want 1", n)
	}
	if form.Get("grant_type") != "client_credentials" || form.Get("scope") != "a b" || form.Get("audience") != "aud" || form.Get("basic") != "id%3A1 secret%2F1" || form.Has("client_secret") {
		t.Errorf("form %v", form)
	}
}

func TestTokenIsRenewedBeforeItsEnd(t *testing.T) {
	t.Parallel()
	i := &issuer{}
	hook := oauthHook(t, i, guarded(t, func(string) bool { return true }))
	now := time.Now()
	hook.tokens = oauth2.New(hook.config.OAuth2, oauth2.Options{Client: hook.client, Now: func() time.Time { return now }})
	issued := now
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "token-1"}, {3569 * time.Second, "token-1"}, {3571 * time.Second, "token-2"}} { // 30 s before its end
		now = issued.Add(step.after)
		if token, err := hook.tokens.Token(t.Context()); err != nil || token != step.want {
			t.Errorf("after %s: %q, %v; want %q", step.after, token, err, step.want)
		}
	}
}

func TestRevokedTokenIsReplacedAndBadCredentialsAreAuth(t *testing.T) {
	t.Parallel()
	var valid atomic.Value
	valid.Store("token-1")
	i := &issuer{}
	hook := oauthHook(t, i, guarded(t, func(token string) bool { return token == valid.Load() }))
	step := func(name string, want transport.Class) {
		t.Helper()
		_, err := hook.Deliver(t.Context(), event("msg_1"))
		if class, _ := classOf(err); class != want {
			t.Errorf("%s: %v: class %s, want %s", name, err, class, want)
		}
	}
	step("good", 0)
	valid.Store("token-2")
	step("revoked: worth another attempt", transport.ClassTransient)
	step("replaced", 0)
	valid.Store("none")
	step("revoked again", transport.ClassTransient)
	step("the new one is refused too", transport.ClassAuth)
	_, err := hook.Deliver(t.Context(), event("msg_1"))
	var e *transport.Error
	if !errors.As(err, &e) || strings.Contains(string(e.Excerpt), "token-") || !strings.Contains(string(e.Excerpt), "[redacted]") {
		t.Errorf("the excerpt must not hold the token: %v", err)
	}
}

func TestTokenEndpointFailures(t *testing.T) {
	t.Parallel()
	status := func(code int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		class  transport.Class
		code   string
	}{
		"refused":    {status(401, `{"error":"invalid_client","leak":"secret/1"}`), transport.ClassAuth, "oauth2.refused"},
		"bad":        {status(400, ``), transport.ClassAuth, "oauth2.refused"},
		"redirect":   {status(302, ``), transport.ClassAuth, "oauth2.refused"},
		"down":       {status(503, ``), transport.ClassUnavailable, "oauth2.unavailable"},
		"busy":       {status(429, ``), transport.ClassUnavailable, "oauth2.unavailable"},
		"no JSON":    {status(200, `secret/1`), transport.ClassAuth, "oauth2.malformed"},
		"no token":   {status(200, `{}`), transport.ClassAuth, "oauth2.malformed"},
		"line break": {status(200, `{"access_token":"a\nb"}`), transport.ClassAuth, "oauth2.malformed"},
		"mac":        {status(200, `{"access_token":"a","token_type":"mac"}`), transport.ClassConfig, "oauth2.type"},
		"endless":    {status(200, `{"access_token":"`+strings.Repeat("a", 1<<20)), transport.ClassAuth, "oauth2.malformed"},
	} {
		i := &issuer{}
		i.answer.Store(c.answer)
		hook := oauthHook(t, i, guarded(t, func(string) bool { t.Errorf("%s: a request was sent without a token", name); return true }))
		_, err := hook.Deliver(t.Context(), event("msg_1"))
		if class, code := classOf(err); class != c.class || code != c.code || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v: %s %s, want %s %s", name, err, class, code, c.class, c.code)
		}
		steps := hook.TestConnection(t.Context(), false)
		if last := steps[len(steps)-1]; last.Name != "auth" || last.Err == nil {
			t.Errorf("%s: TestConnection ends with %+v", name, last)
		}
	}
}

func TestTokenEndpointObeysTheEgressPolicy(t *testing.T) {
	t.Parallel()
	hook := opened(t, loopback(t), Config{URL: "http://127.0.0.1:1", Secret: testSecret, OAuth2: &oauth2.Config{TokenURL: "http://169.254.169.254/token", ClientID: "a", ClientSecret: "b"}})
	_, err := hook.Deliver(t.Context(), event("msg_1"))
	if class, code := classOf(err); class != transport.ClassConfig || code != "egress.blocked" {
		t.Errorf("%v: %s %s", err, class, code)
	}
}
