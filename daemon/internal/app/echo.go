package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/sdk/signature"
)

// echo is a receiver of webhooks that prints what arrives: the destination of a
// trial without a configuration.
type echo struct {
	server   *http.Server
	listener net.Listener
	verifier *signature.Verifier
	key      string

	mu  sync.Mutex
	out io.Writer
}

// maxEcho bounds what is read and what is printed of a delivery.
const (
	maxEcho  = 16 << 20
	maxShown = 200
)

// trial is the configuration of a trial: one organization with one destination,
// which is this process.
func (d *Dev) trial(ctx context.Context, options config.Options) (*config.Config, config.Diagnostics, error) {
	if d.echo == nil {
		if err := d.startEcho(ctx); err != nil {
			return nil, nil, err
		}
	}
	return d.echo.config(options)
}

func (d *Dev) startEcho(ctx context.Context) error {
	key, err := signature.GenerateSecret(24)
	if err != nil {
		return fmt.Errorf("making a signing secret: %w", err)
	}
	verifier, err := signature.NewVerifier([]string{key})
	if err != nil {
		return fmt.Errorf("making a signing secret: %w", err)
	}
	socket, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for the trial's deliveries: %w", err)
	}
	d.echo = &echo{listener: socket, verifier: verifier, key: key, out: io.Discard}
	d.echo.server = &http.Server{Handler: d.echo, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute}
	return nil
}

// config is written as a user would write it: there is no second way to declare
// a destination.
func (e *echo) config(options config.Options) (*config.Config, config.Diagnostics, error) {
	text := fmt.Sprintf(`
egress {
  allow = ["127.0.0.0/8"]
}
destination "trial" "here" {
  type        = "webhook"
  default     = true
  description = "prints what arrives where deliveryd dev runs"
  config {
    url    = "http://%s/"
    secret = %q
  }
}
`, e.listener.Addr(), e.key)
	cfg, found := config.Parse([]config.Source{{Name: "trial.hcl", Bytes: []byte(text)}}, options)
	return cfg, found, nil
}

func (e *echo) serve(out io.Writer) {
	e.mu.Lock()
	e.out = out
	e.mu.Unlock()
	go func() { _ = e.server.Serve(e.listener) }() // ends with close
}

func (e *echo) close(ctx context.Context) error { return e.server.Shutdown(ctx) }

// ServeHTTP prints a delivery and says thanks.
func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxEcho))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if err := e.verifier.Verify(r.Header, body); err != nil {
		e.print("refused a request: %v", err)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var envelope struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	e.print("arrived, signature valid: %q %s", envelope.Type, visible(string(envelope.Data)))
	w.WriteHeader(http.StatusNoContent)
}

// visible makes text fit for one line of a terminal, which obeys escape sequences.
func visible(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return text
}

func (e *echo) print(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, _ = fmt.Fprintf(e.out, format+"\n", args...)
}
