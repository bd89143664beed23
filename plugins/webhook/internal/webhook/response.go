package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	// maxExcerpt is what is kept of an answer.
	maxExcerpt = 4 << 10
	// maxDrain is how much of the rest is read to keep the connection; past
	// that, a new connection is cheaper.
	maxDrain = 64 << 10
	// bodyTimeout bounds reading the answer: the status is known by then, and
	// a peer that drips its body must not hold a slot until the deadline.
	bodyTimeout = 5 * time.Second
	// maxRetryAfter is the contract's bound.
	maxRetryAfter = 24 * time.Hour
)

// answered turns a response into a receipt or a classified error.
func (w *webhook) answered(receipt transport.Receipt, response *http.Response, token string) (transport.Receipt, error) {
	excerpt := w.read(response)
	excerpt = w.redact.clean(excerpt, token, len(excerpt) == maxExcerpt)
	status := response.StatusCode
	if w.tokens != nil && status != http.StatusUnauthorized {
		w.tokens.Confirm(token)
	}
	if status/100 == 2 {
		receipt.Status, receipt.Excerpt = status, excerpt
		receipt.Reference = string(w.redact.clean([]byte(reference(response.Header, excerpt)), token, false))
		return receipt, nil
	}
	err := w.refused(response, excerpt, time.Now())
	if token != "" && status == http.StatusUnauthorized {
		return receipt, w.tokenRefused(err, token)
	}
	return receipt, err
}

// read gives the first part of the body and leaves the connection reusable
// where the rest is short.
func (w *webhook) read(response *http.Response) []byte {
	if response.ContentLength == 0 || response.Body == http.NoBody {
		_ = response.Body.Close()
		return nil
	}
	// Closing from another goroutine breaks a read that hangs.
	guard := time.AfterFunc(w.bodyTimeout, func() { _ = response.Body.Close() })
	defer guard.Stop()
	defer func() { _ = response.Body.Close() }()
	buffer := w.pools.excerpts.Get().(*[maxExcerpt]byte)
	defer w.pools.excerpts.Put(buffer)
	n, err := io.ReadFull(response.Body, buffer[:])
	excerpt := append([]byte(nil), buffer[:n]...)
	if err == nil {
		_, _ = io.CopyN(io.Discard, response.Body, maxDrain)
	}
	return excerpt
}

// refused makes the failure of a status that is not 2xx.
func (w *webhook) refused(response *http.Response, excerpt []byte, now time.Time) error {
	status := response.StatusCode
	class := classOfStatus(status)
	if override, ok := w.overrides[status]; ok {
		class = override
	}
	options := []transport.Option{
		transport.WithCode("http." + strconv.Itoa(status)), transport.WithStatus(status), transport.WithExcerpt(excerpt),
		transport.WithRetryAfter(retryAfter(response.Header.Get("Retry-After"), now)),
	}
	if status == http.StatusGone && class == transport.ClassPermanent {
		options = append(options, transport.WithDisable())
	}
	err := errors.New("the peer answered " + statusText(status))
	if status/100 == 3 {
		err = fmt.Errorf("%w and points to %s; redirects are not followed", err, w.redact.clean([]byte(location(response)), "", false))
	}
	return transport.Classify(class, err, options...)
}

// classOfStatus is the table (DESIGN 5). What would dead-letter a whole queue
// because of one wrong setting, or of one bad deployment, is never PERMANENT.
func classOfStatus(status int) transport.Class {
	switch status {
	case http.StatusMovedPermanently, http.StatusPermanentRedirect, http.StatusMethodNotAllowed:
		return transport.ClassConfig
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return transport.ClassAuth
	case http.StatusTooManyRequests:
		return transport.ClassRateLimited
	case http.StatusPaymentRequired, http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict,
		http.StatusMisdirectedRequest, http.StatusLocked, http.StatusFailedDependency, http.StatusTooEarly:
		return transport.ClassTransient
	}
	if status/100 == 4 {
		return transport.ClassPermanent
	}
	return transport.ClassTransient
}

// tokenRefused forgets a token that may have been revoked before its time; the
// next attempt asks for a new one, and only if that is refused too the
// credentials are to blame.
func (w *webhook) tokenRefused(err error, token string) error {
	if !w.tokens.Forget(token) {
		return err
	}
	return transport.Transient(err, transport.WithCode("oauth2.token_refused"), transport.WithStatus(http.StatusUnauthorized))
}

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return strconv.Itoa(status) + " " + text
	}
	return strconv.Itoa(status)
}

// location names where a redirect leads, without its query: that may hold a token.
func location(response *http.Response) string {
	u, err := url.Parse(response.Header.Get("Location"))
	if err != nil || u.String() == "" {
		return "nowhere"
	}
	if response.Request != nil && response.Request.URL != nil {
		u = response.Request.URL.ResolveReference(u)
	}
	return strconv.Quote((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}

// retryAfter reads both forms of RFC 9110, 10.2.3; 0 where there is none.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter // all digits, so the only error is that they are too many
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// reference finds the peer's own name for what it took.
func reference(header http.Header, body []byte) string {
	for _, name := range [...]string{"X-Request-Id", "X-Correlation-Id", "X-Trace-Id", "Request-Id", "Correlation-Id", "Trace-Id"} {
		if values := header[name]; len(values) > 0 && values[0] != "" {
			return values[0]
		}
	}
	text := bytes.TrimLeft(body, " \t\r\n")
	if len(text) == 0 || text[0] != '{' || len(body) == maxExcerpt || !gjson.ValidBytes(text) {
		return ""
	}
	for _, name := range [...]string{"id", "request_id", "requestId", "message_id", "messageId", "event_id", "eventId", "reference"} {
		if v := gjson.GetBytes(text, name); v.Type == gjson.String || v.Type == gjson.Number {
			return v.String()
		}
	}
	return ""
}
