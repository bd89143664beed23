package webhook

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// TestConnection tries dns, tcp, tls and http. Without ping it sends a HEAD
// request, which carries nothing; with ping, a signed event that says so.
func (w *webhook) TestConnection(ctx context.Context, ping bool) []transport.Step {
	var steps transport.Steps
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	if w.client.Proxy == nil {
		if !w.tryDirectly(ctx, &steps, &conn) {
			return steps.All()
		}
	} else if !steps.Run("proxy", func() (detail string, err error) {
		conn, detail, err = w.tryProxy(ctx)
		return detail, err
	}) {
		return steps.All()
	}
	if w.tokens != nil && !steps.Run("auth", func() (string, error) {
		_, err := w.tokens.Token(ctx)
		return "the token endpoint issued a token", err
	}) {
		return steps.All()
	}
	steps.Run("http", func() (string, error) { return w.tryHTTP(ctx, ping) })
	return steps.All()
}

// tryDirectly tries what is below HTTP.
func (w *webhook) tryDirectly(ctx context.Context, steps *transport.Steps, conn *net.Conn) bool {
	ok := steps.Run("dns", func() (string, error) { return transport.TestResolve(ctx, w.egress, w.url.Hostname()) }) &&
		steps.Run("tcp", func() (detail string, err error) {
			*conn, detail, err = w.dial(ctx, w.url)
			return detail, err
		})
	if ok && w.url.Scheme == "https" {
		ok = steps.Run("tls", func() (string, error) { return w.tryTLS(ctx, *conn) })
	}
	return ok
}

// tryProxy connects to the proxy and checks the target behind it.
func (w *webhook) tryProxy(ctx context.Context) (net.Conn, string, error) {
	if err := checkTarget(ctx, w.egress, w.url.Hostname()); err != nil {
		return nil, "", err
	}
	proxy, err := w.client.Proxy(nil)
	if err != nil {
		return nil, "", transport.ConfigError(err)
	}
	return w.dial(ctx, proxy)
}

func (w *webhook) dial(ctx context.Context, target *url.URL) (net.Conn, string, error) {
	port := target.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[target.Scheme]
	}
	conn, err := w.egress.DialContext(ctx, "tcp", net.JoinHostPort(target.Hostname(), port))
	if err != nil {
		return nil, "", transport.Network(err)
	}
	return conn, "connected to " + conn.RemoteAddr().String(), nil
}

func (w *webhook) tryTLS(ctx context.Context, conn net.Conn) (string, error) {
	config := w.client.TLSClientConfig.Clone()
	if config.ServerName == "" {
		config.ServerName = w.url.Hostname()
	}
	asked := false
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		if len(config.Certificates) > 0 {
			return &config.Certificates[0], nil
		}
		return &tls.Certificate{}, nil
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		if e := (*transport.Error)(nil); errors.As(transport.Network(err), &e) {
			return "", transport.Network(err)
		}
		return "", transport.Unavailable(err, transport.WithCode("tls.failed"))
	}
	detail := tlsconfig.Describe(secured.ConnectionState(), time.Now())
	if asked && len(config.Certificates) == 0 {
		detail = "WARNING: the server asks for a client certificate and none is configured. " + detail
	}
	return detail, nil
}

func (w *webhook) tryHTTP(ctx context.Context, ping bool) (string, error) {
	if ping {
		receipt, err := w.Deliver(ctx, pingDelivery())
		return fmt.Sprintf("the signed ping was answered with %s", statusText(receipt.Status)), err
	}
	r := w.template.Request.WithContext(ctx)
	r.Method, r.Header = http.MethodHead, http.Header{"User-Agent": {userAgent}} // and no credentials
	response, err := w.client.RoundTrip(r)
	if err != nil {
		return "", failed(err, false, ctx.Err() != nil)
	}
	_ = response.Body.Close()
	if response.StatusCode/100 == 5 {
		return "", w.refused(response, nil, time.Now())
	}
	return "HEAD was answered with " + statusText(response.StatusCode), nil
}

func pingDelivery() *transport.Delivery {
	return &transport.Delivery{
		ID: "ping_" + rand.Text(), Attempt: 1, Type: "deliveryd.ping", CreatedAt: time.Now(),
		ContentType: "application/json", Data: []byte(`{"ping":true}`),
	}
}
