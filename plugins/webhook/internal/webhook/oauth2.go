package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	// tokenTimeout bounds one call of the token endpoint.
	tokenTimeout = 10 * time.Second
	// maxTokenAnswer bounds its answer.
	maxTokenAnswer = 64 << 10
	// defaultLifetime is for servers that do not say how long a token lives.
	defaultLifetime = 5 * time.Minute
	// renewBefore is how long before its end a token is renewed, unless that
	// is more than a tenth of its life.
	renewBefore = 30 * time.Second
)

// tokenSource caches the token of one destination and renews it, one call at a
// time however many deliveries wait.
type tokenSource struct {
	config *OAuth2
	client http.RoundTripper
	egress dialer
	now    func() time.Time

	mu      sync.Mutex
	token   string
	worked  bool // the peer has taken token
	renewAt time.Time
	flight  *tokenFlight // nil: nobody asks
}

// tokenFlight is one call of the endpoint; done is closed when the rest is set.
type tokenFlight struct {
	done  chan struct{}
	token string
	err   error
}

func newTokenSource(c *OAuth2, client http.RoundTripper, egress dialer) *tokenSource {
	return &tokenSource{config: c, client: client, egress: egress, now: time.Now}
}

// token gives the bearer token, or "" without OAuth 2.0.
func (w *webhook) token(ctx context.Context) (string, error) {
	if w.tokens == nil {
		return "", nil
	}
	return w.tokens.get(ctx)
}

func (s *tokenSource) get(ctx context.Context) (string, error) {
	s.mu.Lock()
	if s.token != "" && s.now().Before(s.renewAt) {
		defer s.mu.Unlock()
		return s.token, nil
	}
	flight := s.flight
	if flight == nil {
		flight = &tokenFlight{done: make(chan struct{})}
		s.flight = flight
		// Not bound to this delivery: others wait for the same answer.
		go s.fly(context.WithoutCancel(ctx), flight)
	}
	s.mu.Unlock()
	select {
	case <-flight.done:
		return flight.token, flight.err
	case <-ctx.Done():
		return "", transport.Unavailable(fmt.Errorf("waiting for an OAuth 2.0 token: %w", ctx.Err()), transport.WithCode("oauth2.timeout"))
	}
}

// confirm notes that the peer took token.
func (s *tokenSource) confirm(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worked = s.worked || s.token == token
}

// forget drops a token that the peer refused, unless it has been replaced
// already, and says whether there is hope that the next one will be taken.
func (s *tokenSource) forget(token string) (hope bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != token {
		return true
	}
	s.token = ""
	return s.worked
}

func (s *tokenSource) fly(ctx context.Context, flight *tokenFlight) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	token, lifetime, err := s.fetch(ctx)
	flight.token, flight.err = token, err
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if err == nil {
		s.token, s.worked, s.renewAt = token, false, s.now().Add(lifetime-min(renewBefore, lifetime/10))
	}
	close(flight.done)
}

// fetch asks the endpoint. Its errors hold neither the secret nor the answer,
// which may hold a token.
func (s *tokenSource) fetch(ctx context.Context) (string, time.Duration, error) {
	r, err := s.request(ctx)
	if err != nil {
		return "", 0, transport.ConfigError(errors.New("the token URL cannot be used"), transport.WithCode("oauth2.config"))
	}
	if t, ok := s.client.(*http.Transport); ok && t.Proxy != nil {
		if err := checkTarget(ctx, s.egress, r.URL.Hostname()); err != nil {
			return "", 0, err
		}
	}
	response, err := s.client.RoundTrip(r)
	if err != nil {
		classified := transport.Network(withoutURL(err))
		if e := (*transport.Error)(nil); errors.As(classified, &e) {
			return "", 0, fmt.Errorf("asking for an OAuth 2.0 token: %w", classified)
		}
		return "", 0, transport.Unavailable(fmt.Errorf("asking for an OAuth 2.0 token: %w", withoutURL(err)), transport.WithCode("oauth2.unavailable"))
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxTokenAnswer))
	if err != nil {
		return "", 0, transport.Unavailable(fmt.Errorf("reading the OAuth 2.0 answer: %w", err), transport.WithCode("oauth2.unavailable"))
	}
	return readToken(response.StatusCode, answer)
}

func (s *tokenSource) request(ctx context.Context) (*http.Request, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(s.config.Scopes) > 0 {
		form.Set("scope", strings.Join(s.config.Scopes, " "))
	}
	if s.config.Audience != "" {
		form.Set("audience", s.config.Audience)
	}
	if s.config.AuthStyle == "body" {
		form.Set("client_id", s.config.ClientID)
		form.Set("client_secret", s.config.ClientSecret)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.config.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", userAgent)
	if s.config.AuthStyle != "body" {
		// Escaped before they are joined: RFC 6749, 2.3.1.
		r.SetBasicAuth(url.QueryEscape(s.config.ClientID), url.QueryEscape(s.config.ClientSecret))
	}
	return r, nil
}

func readToken(status int, answer []byte) (string, time.Duration, error) {
	refused := fmt.Errorf("the OAuth 2.0 token endpoint answered %s", statusText(status))
	switch {
	case status == http.StatusTooManyRequests || status/100 == 5:
		return "", 0, transport.Unavailable(refused, transport.WithCode("oauth2.unavailable"), transport.WithStatus(status))
	case status != http.StatusOK:
		return "", 0, transport.Auth(refused, transport.WithCode("oauth2.refused"), transport.WithStatus(status))
	}
	var token struct {
		AccessToken string      `json:"access_token"`
		TokenType   string      `json:"token_type"`
		ExpiresIn   json.Number `json:"expires_in"`
	}
	if err := json.Unmarshal(answer, &token); err != nil || token.AccessToken == "" || strings.ContainsAny(token.AccessToken, "\r\n\x00 ") {
		return "", 0, transport.Auth(errors.New("the OAuth 2.0 token endpoint answered without a usable token"), transport.WithCode("oauth2.malformed"))
	}
	if token.TokenType != "" && !strings.EqualFold(token.TokenType, "bearer") {
		return "", 0, transport.ConfigError(fmt.Errorf("the OAuth 2.0 token is of type %.20q: want bearer", token.TokenType), transport.WithCode("oauth2.type"))
	}
	seconds, err := token.ExpiresIn.Int64()
	lifetime := time.Duration(seconds) * time.Second
	if err != nil || seconds <= 0 || seconds > 365*24*3600 {
		lifetime = defaultLifetime
	}
	return token.AccessToken, lifetime, nil
}
