package receiver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Client controls a receiver. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client of the receiver at base, such as http://127.0.0.1:55480.
func NewClient(base string) *Client {
	return &Client{base: base, http: &http.Client{Timeout: 30 * time.Second}}
}

// Base returns the receiver's base URL.
func (c *Client) Base() string { return c.base }

// Hook returns the URL that webhooks go to.
func (c *Client) Hook() string { return c.base + "/hook" }

// Failing returns the URL of a hook that answers every message with status 500.
func (c *Client) Failing() string { return c.base + "/failing" }

// Hanging returns the URL of a hook that takes every message and does not answer, until Release.
func (c *Client) Hanging() string { return c.base + "/hanging" }

// Release answers whatever hangs, with status 503, and what comes to the hanging hook up to the next reset.
func (c *Client) Release(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/release", nil)
}

// Reset makes the receiver forget everything. With hashOnly it remembers only hashes of ids from now on, and Receipts
// is empty.
func (c *Client) Reset(ctx context.Context, hashOnly bool) error {
	path := "/reset"
	if hashOnly {
		path += "?ids=hash"
	}
	return c.do(ctx, http.MethodPost, path, nil)
}

// Stats returns the counters.
func (c *Client) Stats(ctx context.Context) (stats Stats, err error) {
	return stats, c.do(ctx, http.MethodGet, "/stats", &stats)
}

// Receipts returns when each message arrived first, ns since 1970, by its webhook-id.
func (c *Client) Receipts(ctx context.Context) (receipts map[string]int64, err error) {
	return receipts, c.do(ctx, http.MethodGet, "/receipts", &receipts)
}

// FileURL is where a file of that name goes.
func (c *Client) FileURL(name string) string { return c.base + "/file/" + name }

// Files returns what came, by name.
func (c *Client) Files(ctx context.Context) (files map[string]File, err error) {
	return files, c.do(ctx, http.MethodGet, "/files", &files)
}

func (c *Client) do(ctx context.Context, method, path string, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return fmt.Errorf("asking the receiver: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("asking the receiver: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the receiver: %s %s: %s", method, path, response.Status)
	}
	if answer == nil {
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("reading the receiver's answer to %s %s: %w", method, path, err)
	}
	return nil
}
