package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// daemon is the `deliveryd dev` that the demo runs.
type daemon struct {
	url    string
	tokens map[string]string // by organization
	http   *http.Client
	cmd    *exec.Cmd
	log    *tail
	exited chan struct{}
	status error // of the process, when exited is closed
}

const (
	startLimit = 60 * time.Second
	stopLimit  = 20 * time.Second
)

func startDaemon(ctx context.Context, o options, data string, receivers *receivers) (*daemon, error) {
	binary, err := filepath.Abs(filepath.Join(o.bin, "deliveryd"))
	if err != nil {
		return nil, err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		url: "http://" + address, tokens: map[string]string{"acme": "demo-" + rand.Text(), "globex": "demo-" + rand.Text()},
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
		log:  &tail{}, exited: make(chan struct{}),
	}
	//nolint:noctx // stop ends it in order; a context would kill it, or signal it twice
	d.cmd = exec.Command(binary, "dev", "--config", o.config, "--data", data)
	d.cmd.Env = append(os.Environ(),
		"DEMO_ADDRESS="+address, "DEMO_STATE_DIR="+filepath.Join(filepath.Dir(data), "state"),
		"DEMO_ACME_TOKEN="+d.tokens["acme"], "DEMO_GLOBEX_TOKEN="+d.tokens["globex"])
	for _, r := range receivers.list {
		name := "DEMO_" + strings.ToUpper(r.label)
		d.cmd.Env = append(d.cmd.Env, name+"_URL=http://"+r.address+"/", name+"_SECRET="+r.secret)
	}
	d.cmd.Stdout, d.cmd.Stderr = io.Discard, d.log
	if o.verbose {
		d.cmd.Stderr = io.MultiWriter(d.log, os.Stderr)
	}
	// Ctrl-C is for the demo, which stops the daemon in order; if the demo is
	// killed, the daemon must not stay behind.
	d.cmd.SysProcAttr = childAttributes()
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting deliveryd: %w", err)
	}
	go func() {
		d.status = d.cmd.Wait()
		close(d.exited)
	}()
	return d, ctx.Err()
}

// freeAddress finds a port that is free now. Somebody could take it before the
// daemon does; the daemon then says so.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (d *daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		var state struct{ Status string }
		if err := d.call(ctx, "", http.MethodGet, "/readyz", nil, &state); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("deliveryd did not become ready: %w", context.Cause(ctx))
		case <-d.exited:
			return fmt.Errorf("deliveryd ended before it was ready: %w", d.endedWith())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the daemon in order, and shows the end of its log if something failed.
func (d *daemon) stop(failed bool) error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // fails only when it is gone already
	var err error
	select {
	case <-d.exited:
		if d.status != nil {
			err = fmt.Errorf("deliveryd did not stop in order: %w", d.status)
		}
	case <-time.After(stopLimit):
		_ = d.cmd.Process.Kill()
		<-d.exited
		err = fmt.Errorf("deliveryd did not stop within %v", stopLimit)
	}
	if failed || err != nil {
		fmt.Fprintf(os.Stderr, "\nThe end of deliveryd's log:\n%s\n", d.log)
	}
	return err
}

// apiError is an answer that is not a success.
type apiError struct {
	status int
	body   string
}

func (e *apiError) Error() string { return fmt.Sprintf("the API answered %d: %s", e.status, e.body) }

// call makes one request as an organization.
func (d *daemon) call(ctx context.Context, organization, method, path string, body, answer any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.url+path, content)
	if err != nil {
		return err
	}
	if organization != "" {
		req.Header.Set("Authorization", "Bearer "+d.tokens[organization])
	}
	req.Header.Set("Content-Type", "application/json")
	response, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return &apiError{response.StatusCode, strings.TrimSpace(string(text))}
	}
	return json.Unmarshal(text, answer)
}

// item is what the API says of one delivery at one destination.
type item struct {
	Delivery    string            `json:"delivery_id"`
	Destination string            `json:"destination"`
	Status      string            `json:"status"`
	Attempts    []json.RawMessage `json:"attempts"`
}

// items lists the deliveries of an organization, all or of one status, up to limit.
func (d *daemon) items(ctx context.Context, organization, status string, limit int) ([]item, error) {
	query := url.Values{"limit": {"500"}}
	if status != "" {
		query.Set("status", status)
	}
	var all []item
	for len(all) < limit {
		var page struct {
			Items []item `json:"items"`
			Next  string `json:"next_cursor"`
		}
		if err := d.call(ctx, organization, http.MethodGet, "/v1/deliveries?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	return all, nil
}

// awaitRecorded waits until the daemon has recorded all deliveries: what has
// arrived is written down a moment later.
func (d *daemon) awaitRecorded(ctx context.Context, want expected) error {
	for {
		n := 0
		for organization := range d.tokens {
			list, err := d.items(ctx, organization, "delivered", want.total())
			if err != nil {
				return err
			}
			n += len(list)
		}
		if n >= want.total() {
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%d of %d deliveries are recorded as delivered: %w", n, want.total(), context.Cause(ctx))
		}
	}
}

// breakers returns the state of each destination's circuit breaker.
func (d *daemon) breakers(ctx context.Context) (map[string]string, error) {
	states := map[string]string{}
	var errs []error
	for organization := range d.tokens {
		var list struct {
			Destinations []struct {
				Label  string
				Health *struct {
					Breaker string `json:"circuit_breaker_state"`
				}
			}
		}
		errs = append(errs, d.call(ctx, organization, http.MethodGet, "/v1/destinations", nil, &list))
		for _, one := range list.Destinations {
			states[one.Label] = "closed"
			if one.Health != nil {
				states[one.Label] = one.Health.Breaker
			}
		}
	}
	return states, errors.Join(errs...)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 8 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(b), nil
}

// String returns whole lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := string(t.text)
	if len(text) == tailBytes {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

// endedWith says how the process ended; it may have ended well and too soon.
func (d *daemon) endedWith() error {
	if d.status == nil {
		return errors.New("exit status 0")
	}
	return d.status
}
