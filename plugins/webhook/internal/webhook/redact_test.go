package webhook

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// echo answers with what it was sent, as debugging endpoints do.
func echo(t *testing.T, answer func(http.ResponseWriter, *http.Request)) string {
	return receiver(t, answer).URL
}

func TestExcerptIsBinarySafe(t *testing.T) {
	t.Parallel()
	url := echo(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("\xff\x00\xfe you sent " + testSecret + "!"))
	})
	receipt, err := opened(t, loopback(t), Config{URL: url, Secret: testSecret}).Deliver(t.Context(), event("msg_1"))
	if want := "\xff\x00\xfe you sent [redacted]!"; err != nil || string(receipt.Excerpt) != want {
		t.Errorf("excerpt %q, error %v; want %q", receipt.Excerpt, err, want)
	}
}

// TestWhatIsEchoedIsRedacted: every credential that a request carries, in the
// forms in which it comes back, from every part of an answer that is kept.
func TestWhatIsEchoedIsRedacted(t *testing.T) {
	t.Parallel()
	const secret = `top/secret+"value"`
	headers := func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(r.Header) }
	php := func(w http.ResponseWriter, r *http.Request) {
		quoted, _ := json.Marshal(r.Header)
		_, _ = w.Write([]byte(strings.ReplaceAll(string(quoted), "/", `\/`)))
	}
	for name, c := range map[string]struct {
		config Config
		answer func(http.ResponseWriter, *http.Request)
	}{
		"secret header": {Config{SecretHeaders: map[string]string{"X-Token": secret}}, headers},
		"escaped slash": {Config{SecretHeaders: map[string]string{"X-Token": secret}}, php},
		"bearer":        {Config{Bearer: &Bearer{secret}}, headers},
		"API key":       {Config{APIKey: &APIKey{"X-Api-Key", secret}}, headers},
		"basic":         {Config{Basic: &Basic{"user", secret}}, headers},
		"basic, decoded": {Config{Basic: &Basic{"user", secret}}, func(w http.ResponseWriter, r *http.Request) {
			_, password, _ := r.BasicAuth()
			_, _ = w.Write([]byte("your password is " + password))
		}},
		"reference": {Config{Bearer: &Bearer{secret}}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", r.Header.Get("Authorization"))
		}},
		"location": {Config{Bearer: &Bearer{"top-secret-token"}}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/to/"+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), http.StatusFound)
		}},
		"cut off": {Config{Bearer: &Bearer{secret}}, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Repeat("x", maxExcerpt-len(secret)+1) + secret))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.URL, c.config.Secret = echo(t, c.answer), testSecret
			receipt, err := opened(t, loopback(t), c.config).Deliver(t.Context(), event("msg_1"))
			kept := string(receipt.Excerpt) + receipt.Reference
			if err != nil {
				kept += err.Error()
			}
			for _, form := range []string{"top/secret", `top\/secret`, "top-secret", basicCredentials(&Basic{"user", secret})} {
				if strings.Contains(kept, form) {
					t.Errorf("%q is in what is kept: %s", form, kept)
				}
			}
			if !strings.Contains(kept, redacted) {
				t.Errorf("nothing stands in its place: %.300s", kept)
			}
		})
	}
}
