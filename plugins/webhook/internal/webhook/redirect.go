package webhook

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/deliveryd/deliveryd/plugins/webhook/internal/direct"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// redirect gives where to go on, or nil where response is the answer. 301, 302
// and 303 are answers: clients follow them with an empty GET, which the target
// may well answer with 200, a success that never was.
func (w *webhook) redirect(response *http.Response, from *url.URL, hop int) (*url.URL, error) {
	status := response.StatusCode
	if w.config.Redirects == 0 || (status != http.StatusTemporaryRedirect && status != http.StatusPermanentRedirect) {
		return nil, nil
	}
	_ = w.read(response) // leaves the connection usable
	if hop >= w.config.Redirects {
		return nil, transport.ConfigError(fmt.Errorf("more than %d redirects", w.config.Redirects), transport.WithCode("http.redirects"), transport.WithStatus(status))
	}
	next, err := w.hopTarget(response, from)
	if err != nil {
		return nil, transport.ConfigError(err, transport.WithCode("http.redirect_refused"), transport.WithStatus(status))
	}
	return next, nil
}

// hopTarget checks where a redirect leads; the address behind it is for the
// egress guard to judge.
func (w *webhook) hopTarget(response *http.Response, from *url.URL) (*url.URL, error) {
	location := response.Header.Get("Location")
	if location == "" {
		return nil, errors.New("a redirect without a location")
	}
	next, err := from.Parse(location)
	switch {
	case err != nil:
		return nil, errors.New("a redirect to what is no URL")
	case next.Scheme != "http" && next.Scheme != "https":
		return nil, fmt.Errorf("a redirect to the scheme %q", next.Scheme)
	case from.Scheme == "https" && next.Scheme != "https":
		return nil, errors.New("a redirect from https to http")
	case next.Host == "":
		return nil, errors.New("a redirect without a host")
	case len(w.client.TLSClientConfig.Certificates) > 0 && !sameHost(w.url, next):
		// The connection would offer the client certificate to whoever asks.
		return nil, fmt.Errorf("a redirect to another host, %s, with a client certificate", next.Host)
	}
	next.User, next.Fragment = nil, ""
	return next, nil
}

func sameHost(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// forHop gives what to send to the target of a redirect. Credentials are removed
// for a hop to another host, for good: a redirect back must not bring them out again.
func (w *webhook) forHop(t *direct.Template, fields []direct.Field, next *url.URL) (*direct.Template, []direct.Field) {
	r := *t.Request
	r.URL, r.Host = next, next.Host
	if !sameHost(w.url, next) {
		r.Header = maps.Clone(r.Header)
		for _, name := range w.credentials {
			delete(r.Header, name)
		}
		fields = slices.DeleteFunc(fields, func(f direct.Field) bool { return slices.Contains(w.credentials, f.Name) })
	}
	return direct.NewTemplate(&r), fields
}
