// Package oauth2 gets access tokens for transports (RFC 6749): by client
// credentials, or with a refresh token that a person once granted.
//
// It caches the token of one destination and renews it before it expires, with
// one call at a time however many deliveries wait. Its errors never hold a
// secret, a token, or an answer of the endpoint.
package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
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

// Config is a block of a destination's configuration.
type Config struct {
	TokenURL     string   `config:"token_url,required" format:"url" pattern:"https?://.+" doc:"Token endpoint; it obeys the egress policy."`
	ClientID     string   `config:"client_id,required" doc:"Client id."`
	ClientSecret string   `config:"client_secret,required,secret" doc:"Client secret."`
	Scopes       []string `config:"scopes" max:"50" doc:"Scopes to ask for."`
	Audience     string   `config:"audience" doc:"Audience to ask for, where the server wants one."`
	AuthStyle    string   `config:"auth_style" enum:"header,body" default:"header" doc:"Where the client's credentials go: the Authorization header or the form."`
}

// Options are what a Source needs beside its Config.
type Options struct {
	// Client calls the endpoint; it must dial within the egress policy. Required.
	Client http.RoundTripper
	// UserAgent of the calls. Defaults to none.
	UserAgent string
	// RefreshToken is exchanged for access tokens. Defaults to none: the
	// client's own credentials are.
	RefreshToken string
	// Check is asked before each call whether the endpoint's host may be
	// called, where Client goes through a proxy. Defaults to no check.
	Check func(ctx context.Context, host string) error
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Source caches the token of one destination and renews it, one call at a time
// however many deliveries wait.
type Source struct {
	config *Config
	o      Options

	mu      sync.Mutex
	token   string
	worked  bool // the peer has taken token
	renewAt time.Time
	flight  *tokenFlight // nil: nobody asks
	// refresh is the refresh token; a server may replace it with each answer.
	refresh string
}

// tokenFlight is one call of the endpoint; done is closed when the rest is set.
type tokenFlight struct {
	done  chan struct{}
	token string
	err   error
}

// New makes a Source; it asks for no token yet.
func New(c *Config, o Options) *Source {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Source{config: c, o: o, refresh: o.RefreshToken}
}

// Token gives the current token, or waits for a new one. Its errors are
// classified: Auth where the endpoint refuses, Unavailable where it is away.
func (s *Source) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	if s.token != "" && s.o.Now().Before(s.renewAt) {
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

// Confirm notes that the peer took token.
func (s *Source) Confirm(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worked = s.worked || s.token == token
}

// Forget drops a token that the peer refused, unless it has been replaced
// already, and says whether there is hope that the next one will be taken.
func (s *Source) Forget(token string) (hope bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != token {
		return true
	}
	s.token = ""
	return s.worked
}

func (s *Source) fly(ctx context.Context, flight *tokenFlight) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	token, lifetime, err := s.fetch(ctx)
	flight.token, flight.err = token, err
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if err == nil {
		s.token, s.worked, s.renewAt = token, false, s.o.Now().Add(lifetime-min(renewBefore, lifetime/10))
	}
	close(flight.done)
}

// fetch asks the endpoint. Its errors hold neither the secret nor the answer,
// which may hold a token.
func (s *Source) fetch(ctx context.Context) (string, time.Duration, error) {
	r, err := s.request(ctx)
	if err != nil {
		return "", 0, transport.ConfigError(errors.New("the token URL cannot be used"), transport.WithCode("oauth2.config"))
	}
	if s.o.Check != nil {
		if err := s.o.Check(ctx, r.URL.Hostname()); err != nil {
			return "", 0, err
		}
	}
	response, err := s.o.Client.RoundTrip(r)
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
	token, err := readToken(response.StatusCode, answer)
	if err != nil {
		return "", 0, err
	}
	if token.RefreshToken != "" {
		s.mu.Lock()
		s.refresh = token.RefreshToken
		s.mu.Unlock()
	}
	return token.AccessToken, token.lifetime(), nil
}

func (s *Source) request(ctx context.Context) (*http.Request, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	s.mu.Lock()
	if s.refresh != "" {
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.refresh}}
	}
	s.mu.Unlock()
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
	r.Header.Set("User-Agent", s.o.UserAgent)
	if s.config.AuthStyle != "body" {
		// Escaped before they are joined: RFC 6749, 2.3.1.
		r.SetBasicAuth(url.QueryEscape(s.config.ClientID), url.QueryEscape(s.config.ClientSecret))
	}
	return r, nil
}

// answer is what the endpoint says.
type answer struct {
	AccessToken  string      `json:"access_token"`
	TokenType    string      `json:"token_type"`
	ExpiresIn    json.Number `json:"expires_in"`
	RefreshToken string      `json:"refresh_token"`
}

func (a *answer) lifetime() time.Duration {
	seconds, err := a.ExpiresIn.Int64()
	if err != nil || seconds <= 0 || seconds > 365*24*3600 {
		return defaultLifetime
	}
	return time.Duration(seconds) * time.Second
}

func readToken(status int, text []byte) (*answer, error) {
	refused := fmt.Errorf("the OAuth 2.0 token endpoint answered %s", statusText(status))
	switch {
	case status == http.StatusTooManyRequests || status/100 == 5:
		return nil, transport.Unavailable(refused, transport.WithCode("oauth2.unavailable"), transport.WithStatus(status))
	case status != http.StatusOK:
		return nil, transport.Auth(refused, transport.WithCode("oauth2.refused"), transport.WithStatus(status))
	}
	var token answer
	if err := json.Unmarshal(text, &token); err != nil || token.AccessToken == "" || strings.ContainsAny(token.AccessToken, "\r\n\x00 ") {
		return nil, transport.Auth(errors.New("the OAuth 2.0 token endpoint answered without a usable token"), transport.WithCode("oauth2.malformed"))
	}
	if token.TokenType != "" && !strings.EqualFold(token.TokenType, "bearer") {
		return nil, transport.ConfigError(fmt.Errorf("the OAuth 2.0 token is of type %.20q: want bearer", token.TokenType), transport.WithCode("oauth2.type"))
	}
	return &token, nil
}

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return strconv.Itoa(status) + " " + text
	}
	return strconv.Itoa(status)
}

// withoutURL strips a *url.Error, whose text holds the URL.
func withoutURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
