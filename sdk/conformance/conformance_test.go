package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// The test binary is its own plugin: with this variable set it serves a small
// HTTP transport that has the fault that the variable names.
const faultEnv = "CONFORMANCE_TEST_FAULT"

func TestMain(m *testing.M) {
	if fault := os.Getenv(faultEnv); fault != "" {
		transport.Serve(posterPlugin(fault))
		return
	}
	os.Exit(m.Run())
}

type posterConfig struct {
	URL    string `config:"url,required" doc:"Where to post." format:"url"`
	Secret string `config:"secret,required,secret" doc:"A secret."`
}

// Validate is called on the plugin's side only.
func (c *posterConfig) Validate() transport.Diagnostics {
	if os.Getenv(faultEnv) == "dials-in-validate" {
		if response, err := http.Head(c.URL); err == nil {
			_ = response.Body.Close()
		}
	}
	return nil
}

func posterPlugin(fault string) transport.Plugin[posterConfig] {
	return transport.Plugin[posterConfig]{
		Name: "poster", Version: "1.0.0", Summary: "Posts.", Capabilities: transport.Capabilities{TestConnection: true},
		Open: func(_ context.Context, in transport.Instance, c *posterConfig) (transport.Transport, error) {
			switch fault {
			case "logs-secret":
				in.Logger.Info("opening with " + c.Secret)
			case "writes-to-stdout":
				_, _ = syscall.Write(1, []byte("hello\n"))
			case "dies-on-hangup":
				signal.Reset(syscall.SIGHUP)
			}
			client := &http.Client{Transport: &http.Transport{DialContext: in.Egress.DialContext, MaxIdleConnsPerHost: 64}}
			return &poster{config: c, fault: fault, client: client}, nil
		},
	}
}

type poster struct {
	config *posterConfig
	fault  string
	client *http.Client
	serial sync.Mutex
	kept   [][]byte
}

func (p *poster) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	switch p.fault {
	case "one-at-a-time":
		p.serial.Lock()
		defer p.serial.Unlock()
	case "ignores-context":
		ctx = context.WithoutCancel(ctx)
	case "leaks":
		p.serial.Lock()
		p.kept = append(p.kept, bytes.Repeat([]byte("x"), 8<<10))
		p.serial.Unlock()
	case "sends-nothing":
		return transport.Receipt{}, nil
	case "refuses-large":
		if len(d.Data) > 1<<20 {
			return transport.Receipt{}, transport.Permanent(errors.New("too large"))
		}
	}
	err := p.post(ctx, d.Data)
	if err != nil && p.fault == "retries" {
		err = p.post(ctx, d.Data)
	}
	return transport.Receipt{}, err
}

func (p *poster) post(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.config.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := p.client.Do(r)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	refused := fmt.Errorf("status %d", response.StatusCode)
	switch {
	case response.StatusCode == http.StatusOK:
		return nil
	case p.fault == "does-not-classify":
		return refused
	case response.StatusCode == http.StatusTooManyRequests:
		return transport.RetryAfter(refused, 7*time.Second)
	case response.StatusCode == http.StatusUnauthorized:
		return transport.Auth(refused)
	case response.StatusCode == http.StatusGone:
		return transport.Permanent(refused)
	default:
		return refused
	}
}

func (p *poster) TestConnection(ctx context.Context, _ bool) []transport.Step {
	var steps transport.Steps
	steps.Run("http", func() (string, error) {
		if p.fault == "delivers-in-test" {
			return "", p.post(ctx, []byte("test"))
		}
		response, err := p.client.Head(p.config.URL)
		if err == nil {
			_ = response.Body.Close()
		}
		return "", err
	})
	return steps.All()
}

// Health reports what it was told to.
func (p *poster) Health() (transport.HealthState, string) {
	if p.fault == "sick" {
		return transport.HealthFailed, "told so"
	}
	return transport.HealthOK, ""
}

func target(fault string) conformance.Target {
	return conformance.Target{
		Command: []string{os.Args[0]}, Environment: []string{faultEnv + "=" + fault},
		Config: `{"url":"{{peer}}","secret":"never-to-be-seen"}`, Peer: conformance.NewHTTPPeer,
	}
}

// Every fault must be found by the case that is there for it: a kit that cannot
// fail proves nothing.
func TestKitFindsFaults(t *testing.T) {
	t.Parallel()
	for fault, caught := range map[string][]string{
		"none":              nil,
		"dials-in-validate": {"validate-offline"},
		"logs-secret":       {"one-result-each", "generations"},
		"writes-to-stdout":  {"one-result-each", "lifeline"},
		"dies-on-hangup":    {"signals"},
		"one-at-a-time":     {"slow-item"},
		"ignores-context":   {"cancel"},
		"leaks":             {"memory"},
		"sends-nothing":     {"deadline", "classes"},
		"refuses-large":     {"largest-item"},
		"retries":           {"classes"},
		"does-not-classify": {"classes"},
		"delivers-in-test":  {"test-connection"},
		"sick":              {"health"},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cases, err := conformance.CasesFor(t.Context(), target(fault))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				// All cases for the healthy plugin; for the others those that must fail.
				// The long memory case is run against healthy plugins by their own tests.
				if expected := slices.Contains(caught, c.Name); expected || fault == "none" && c.Name != "memory" {
					if result := c.Check(t.Context(), target(fault)); (result.Err != nil) != expected {
						t.Errorf("%s: error %v, want one: %t", c.Name, result.Err, expected)
					}
				}
			}
		})
	}
}

func TestWhatIsNoPlugin(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"/bin/true": "the process ended", "/nonexistent": "no such file", "/bin/echo": "want 1|1|unix|<socket>|grpc",
	} {
		err := conformance.Check(t.Context(), conformance.Target{Command: []string{command, "hello"}, Config: `{}`}, func(conformance.Result) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", command, err, want)
		}
	}
}
