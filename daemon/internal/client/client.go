// Package client talks to a running daemon over its HTTP API, for the command
// line. It must never retry what may have been done, follow a redirect with a
// token in hand, or print.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// ErrUnreachable is wrapped by errors that say that no daemon answered.
var ErrUnreachable = errors.New("the daemon cannot be reached")

// ErrNoAnswer is wrapped by errors that say that a request was sent, and no answer
// came: what became of it is not known.
var ErrNoAnswer = errors.New("no answer from the daemon")

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Options say how to reach the daemon.
type Options struct {
	// Address is host:port, or a URL with http or https. No default.
	Address string
	// Token is that of an api_key. No default.
	Token secret.Value
	// Organization is the one that a token of all organizations acts for.
	// Defaults to the token's.
	Organization string
	// Timeout bounds a request. Defaults to 60 s.
	Timeout time.Duration
}

// Client is safe for concurrent use.
type Client struct {
	base         string
	token        secret.Value
	organization string
	http         *http.Client
	// uploads has no bound of the whole request: a file takes as long as it takes.
	uploads *http.Client
}

// New returns a client; it connects with the first request.
func New(o Options) (*Client, error) {
	address := o.Address
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || strings.Trim(base.Path, "/") != "" {
		return nil, fmt.Errorf("the address %q must be host:port, http://host:port or https://host", o.Address)
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = o.Timeout
	return &Client{
		base: base.Scheme + "://" + base.Host, token: o.Token, organization: o.Organization,
		http:    &http.Client{Timeout: o.Timeout, CheckRedirect: stay},
		uploads: &http.Client{Transport: transport, CheckRedirect: stay},
	}, nil
}

// Submit submits one delivery.
func (c *Client) Submit(ctx context.Context, s *api.Submission) (*api.Accepted, error) {
	return do[api.Accepted](ctx, c, http.MethodPost, "/v1/deliveries", nil, s)
}

// SubmitBatch submits many deliveries, each accepted or refused by itself.
func (c *Client) SubmitBatch(ctx context.Context, deliveries []api.Submission) (*api.BatchResult, error) {
	return do[api.BatchResult](ctx, c, http.MethodPost, "/v1/deliveries/batch", nil, &api.Batch{Deliveries: deliveries})
}

// Delivery shows one delivery.
func (c *Client) Delivery(ctx context.Context, id string) (*api.Delivery, error) {
	return do[api.Delivery](ctx, c, http.MethodGet, "/v1/deliveries/"+url.PathEscape(id), nil, nil)
}

// Deliveries lists one page of deliveries.
func (c *Client) Deliveries(ctx context.Context, f api.DeliveryFilter) (*api.DeliveryPage, error) {
	query := url.Values{}
	set(query, "status", f.Status)
	set(query, "destination", f.Destination)
	set(query, "correlation_id", f.CorrelationID)
	set(query, "cursor", f.Cursor)
	if f.Undelivered {
		query.Set("undelivered", "true")
	}
	if f.Limit > 0 {
		query.Set("limit", fmt.Sprint(f.Limit))
	}
	if !f.Since.IsZero() {
		query.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		query.Set("until", f.Until.Format(time.RFC3339Nano))
	}
	return do[api.DeliveryPage](ctx, c, http.MethodGet, "/v1/deliveries", query, nil)
}

// Cancel takes what waits of a delivery out of the queue, at one destination or,
// with an empty reference, at all.
func (c *Client) Cancel(ctx context.Context, id, destination string) (*api.Moved, error) {
	return c.move(ctx, id, "/cancel", destination)
}

// Replay makes the dead letters of a delivery wait again, as Cancel chooses them.
func (c *Client) Replay(ctx context.Context, id, destination string) (*api.Moved, error) {
	return c.move(ctx, id, "/replay", destination)
}

func (c *Client) move(ctx context.Context, id, verb, destination string) (*api.Moved, error) {
	query := url.Values{}
	set(query, "destination", destination)
	return do[api.Moved](ctx, c, http.MethodPost, "/v1/deliveries/"+url.PathEscape(id)+verb, query, nil)
}

// ReplayDeadLetters makes dead letters of a destination wait again.
func (c *Client) ReplayDeadLetters(ctx context.Context, f api.DeadLetterFilter) (*api.Moved, error) {
	query := url.Values{}
	set(query, "reason", f.Reason)
	set(query, "type", f.Type)
	if f.Limit > 0 {
		query.Set("limit", fmt.Sprint(f.Limit))
	}
	if !f.Since.IsZero() {
		query.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	return do[api.Moved](ctx, c, http.MethodPost, destinationPath(f.Destination, "/replay"), query, nil)
}

// Destinations lists destinations.
func (c *Client) Destinations(ctx context.Context) ([]api.Destination, error) {
	list, err := do[api.DestinationList](ctx, c, http.MethodGet, "/v1/destinations", nil, nil)
	if err != nil {
		return nil, err
	}
	return list.Destinations, nil
}

// Destination shows one destination.
func (c *Client) Destination(ctx context.Context, ref string) (*api.Destination, error) {
	return do[api.Destination](ctx, c, http.MethodGet, destinationPath(ref, ""), nil, nil)
}

// Pause pauses a destination.
func (c *Client) Pause(ctx context.Context, ref string) (*api.Destination, error) {
	return do[api.Destination](ctx, c, http.MethodPost, destinationPath(ref, "/pause"), nil, nil)
}

// Resume resumes a destination.
func (c *Client) Resume(ctx context.Context, ref string) (*api.Destination, error) {
	return do[api.Destination](ctx, c, http.MethodPost, destinationPath(ref, "/resume"), nil, nil)
}

// OpenBreaker holds the circuit breaker of a destination open.
func (c *Client) OpenBreaker(ctx context.Context, ref, reason string) (*api.Destination, error) {
	query := url.Values{}
	set(query, "reason", reason)
	return do[api.Destination](ctx, c, http.MethodPost, destinationPath(ref, "/circuit-breaker/open"), query, nil)
}

// CloseBreaker closes the circuit breaker of a destination.
func (c *Client) CloseBreaker(ctx context.Context, ref string) (*api.Destination, error) {
	return do[api.Destination](ctx, c, http.MethodPost, destinationPath(ref, "/circuit-breaker/close"), nil, nil)
}

// Alerts lists one page of alerts.
func (c *Client) Alerts(ctx context.Context, f api.AlertFilter) (*api.AlertPage, error) {
	query := url.Values{}
	set(query, "status", f.Status)
	set(query, "destination", f.Destination)
	set(query, "cursor", f.Cursor)
	if f.Limit > 0 {
		query.Set("limit", fmt.Sprint(f.Limit))
	}
	return do[api.AlertPage](ctx, c, http.MethodGet, "/v1/alerts", query, nil)
}

// AcknowledgeAlert says that somebody looks after an alert.
func (c *Client) AcknowledgeAlert(ctx context.Context, id string) (*api.Alert, error) {
	return do[api.Alert](ctx, c, http.MethodPost, "/v1/alerts/"+url.PathEscape(id)+"/acknowledge", nil, nil)
}

// ResolveAlert ends an alert.
func (c *Client) ResolveAlert(ctx context.Context, id string) (*api.Alert, error) {
	return do[api.Alert](ctx, c, http.MethodPost, "/v1/alerts/"+url.PathEscape(id)+"/resolve", nil, nil)
}

// Test tests a destination's connection; with ping it also delivers a signed event.
func (c *Client) Test(ctx context.Context, ref string, ping bool) (*api.TestResult, error) {
	query := url.Values{}
	if ping {
		query.Set("ping", "true")
	}
	return do[api.TestResult](ctx, c, http.MethodPost, destinationPath(ref, "/test"), query, nil)
}

// CreateDestination creates a destination.
func (c *Client) CreateDestination(ctx context.Context, n *api.NewDestination) (*api.Destination, error) {
	return do[api.Destination](ctx, c, http.MethodPost, "/v1/destinations", nil, n)
}

// UpdateDestination changes a destination.
func (c *Client) UpdateDestination(ctx context.Context, ref string, p *api.DestinationPatch) (*api.Destination, error) {
	return do[api.Destination](ctx, c, http.MethodPatch, destinationPath(ref, ""), nil, p)
}

// DeleteDestination deletes a destination; with force also where deliveries wait.
func (c *Client) DeleteDestination(ctx context.Context, ref string, force bool) (*api.DeletedDestination, error) {
	return do[api.DeletedDestination](ctx, c, http.MethodDelete, destinationPath(ref, ""), forced(force), nil)
}

// Enable enables a destination.
func (c *Client) Enable(ctx context.Context, ref string) (*api.Destination, error) {
	return do[api.Destination](ctx, c, http.MethodPost, destinationPath(ref, "/enable"), nil, nil)
}

// Disable disables a destination.
func (c *Client) Disable(ctx context.Context, ref, reason string) (*api.Destination, error) {
	query := url.Values{}
	set(query, "reason", reason)
	return do[api.Destination](ctx, c, http.MethodPost, destinationPath(ref, "/disable"), query, nil)
}

// Secrets lists the signing secrets of a destination.
func (c *Client) Secrets(ctx context.Context, ref string) (*api.SecretList, error) {
	return do[api.SecretList](ctx, c, http.MethodGet, destinationPath(ref, "/secrets"), nil, nil)
}

// CreateSecret adds a signing secret to a destination.
func (c *Client) CreateSecret(ctx context.Context, ref string, s *api.NewSecret) (*api.CreatedSecret, error) {
	return do[api.CreatedSecret](ctx, c, http.MethodPost, destinationPath(ref, "/secrets"), nil, s)
}

// RotateSecret puts a new signing secret in the place of the old.
func (c *Client) RotateSecret(ctx context.Context, ref string, r *api.SecretRotation) (*api.CreatedSecret, error) {
	return do[api.CreatedSecret](ctx, c, http.MethodPost, destinationPath(ref, "/secrets/rotate"), nil, r)
}

// ChangeSecret changes when a signing secret expires, or makes it primary.
func (c *Client) ChangeSecret(ctx context.Context, ref, id string, change *api.SecretChange) (*api.Secret, error) {
	return do[api.Secret](ctx, c, http.MethodPatch, destinationPath(ref, "/secrets/"+url.PathEscape(id)), nil, change)
}

// RevokeSecret revokes a signing secret; with force also the last usable one.
func (c *Client) RevokeSecret(ctx context.Context, ref, id string, force bool) (*api.Secret, error) {
	return do[api.Secret](ctx, c, http.MethodDelete, destinationPath(ref, "/secrets/"+url.PathEscape(id)), forced(force), nil)
}

// Audit lists one page of the audit log.
func (c *Client) Audit(ctx context.Context, f api.AuditFilter, cursor string) (*api.AuditPage, error) {
	query := url.Values{}
	set(query, "actor", f.Actor)
	set(query, "action", f.Action)
	set(query, "target_type", f.TargetType)
	set(query, "target", f.Target)
	set(query, "cursor", cursor)
	if f.Limit > 0 {
		query.Set("limit", fmt.Sprint(f.Limit))
	}
	if !f.Since.IsZero() {
		query.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	return do[api.AuditPage](ctx, c, http.MethodGet, "/v1/audit", query, nil)
}

func forced(force bool) url.Values {
	if !force {
		return nil
	}
	return url.Values{"force": {"true"}}
}

// Plugins says how the plugins of the daemon are.
func (c *Client) Plugins(ctx context.Context) (*api.PluginList, error) {
	return do[api.PluginList](ctx, c, http.MethodGet, "/v1/plugins", nil, nil)
}

// RotateKeys seals all secrets with the current encryption key.
func (c *Client) RotateKeys(ctx context.Context) (*api.KeyRotation, error) {
	return do[api.KeyRotation](ctx, c, http.MethodPost, "/v1/keys/rotate", nil, nil)
}

// Reload makes the daemon read its configuration again. It goes on there when the
// error wraps ErrNoAnswer.
func (c *Client) Reload(ctx context.Context) (*api.ReloadReport, error) {
	return do[api.ReloadReport](ctx, c, http.MethodPost, "/v1/reload", nil, nil)
}

func destinationPath(ref, verb string) string {
	return "/v1/destinations/" + url.PathEscape(ref) + verb
}

func set(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}

// do makes one request. Its error is an *api.Problem where the daemon gave one.
func do[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (*T, error) {
	request, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	return answer[T](c, c.http, request)
}

// answer sends a request and reads its answer.
func answer[T any](c *Client, by *http.Client, request *http.Request) (*T, error) {
	response, err := by.Do(request)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(err)
	}
	if response.StatusCode/100 != 2 {
		return nil, c.refused(response, text)
	}
	answer := new(T)
	if err := json.Unmarshal(text, answer); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", c.base, err)
	}
	return answer, nil
}

// Artifact is what is said of a file that is uploaded.
type Artifact struct {
	Name, ContentType string
	Size              int64 // negative: not known
}

// Upload uploads a file.
func (c *Client) Upload(ctx context.Context, a Artifact, body io.Reader) (*api.Artifact, error) {
	query := url.Values{}
	set(query, "name", a.Name)
	request, err := c.send(ctx, http.MethodPost, "/v1/artifacts", query, io.NopCloser(body))
	if err != nil {
		return nil, err
	}
	request.ContentLength = a.Size
	if a.Size == 0 {
		request.Body = http.NoBody
	}
	request.Header.Set("Content-Type", a.ContentType)
	return answer[api.Artifact](c, c.uploads, request)
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	if body == nil {
		return c.send(ctx, method, path, query, nil)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	request, err := c.send(ctx, method, path, query, bytes.NewReader(text))
	if err == nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, err
}

// send makes a request for the organization that the client acts for.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, content io.Reader) (*http.Request, error) {
	if c.organization != "" && path != "/v1/reload" && path != "/v1/plugins" && path != "/v1/keys/rotate" {
		if query == nil {
			query = url.Values{}
		}
		query.Set("organization", c.organization)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	request.Header.Set("Accept", "application/json")
	return request, nil
}

func (c *Client) unreachable(err error) error {
	// The *url.Error would repeat the whole URL in front of the reason.
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	what := ErrUnreachable
	if cut(err) {
		what = ErrNoAnswer
	}
	return fmt.Errorf("%w at %s: %w", what, c.base, err)
}

// cut reports whether a request was sent whose answer did not come.
func cut(err error) bool {
	var at *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &at) && at.Op == "dial":
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// refused reads a problem; what is not one comes from something else than a daemon.
func (c *Client) refused(response *http.Response, text []byte) error {
	problem := new(api.Problem)
	if json.Unmarshal(text, problem) != nil || problem.Code == "" {
		return fmt.Errorf("%s answered %s, and not as a deliveryd does: is the address right?", c.base, response.Status)
	}
	return problem
}
