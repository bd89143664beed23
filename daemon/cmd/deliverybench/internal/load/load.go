// Package load makes what is sent: the peer's payload, and a bare loop of signed requests that shows what sender and
// receiver reach with nothing between them.
package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// PayloadBytes is the size of every payload.
const PayloadBytes = 1024

type lineItem struct {
	SKU      string `json:"sku"`
	Name     string `json:"name"`
	Quantity int    `json:"quantity"`
	Cents    int    `json:"price_cents"`
}

// Payload returns the n-th event, byte for byte what the peer's generator makes: 20-odd fields, nested, 1 KB.
func Payload(n int) []byte {
	body := map[string]any{
		"type":       "order.paid",
		"created_at": "2026-01-02T03:04:05Z",
		"data": map[string]any{
			"order_id": fmt.Sprintf("ord_%010d", n), "customer_id": fmt.Sprintf("cus_%08d", n%10000),
			"currency": "EUR", "total_cents": 12345 + n%1000, "status": "paid", "test": false,
			"items": []lineItem{{"SKU-1001", "Blue widget", 2, 1999}, {"SKU-2002", "Red widget", 1, 8347}},
			"shipping": map[string]any{
				"name": "Ada Lovelace", "line1": "12 Analytical Way", "city": "London", "postcode": "N1 7AA", "country": "GB",
			},
		},
		"pad": "",
	}
	pad := make([]byte, PayloadBytes-len(encode(body)))
	for i := range pad {
		pad[i] = 'a' + byte((i*7+n)%26)
	}
	body["pad"] = string(pad)
	return encode(body)
}

// encode cannot fail: the value holds only strings, numbers, maps and slices of them.
func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// Ceiling is what a bare loop reached.
type Ceiling struct {
	// Posts is the number of requests that were answered with success.
	Posts int `json:"posts"`
	// Workers is how many were at work at once.
	Workers int `json:"workers"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
	// Rate is posts per second.
	Rate float64 `json:"rate"`
	// SenderMicros is the sender's CPU time per post, µs.
	SenderMicros float64 `json:"sender_us"`
}

// distinct is how many payloads a bare loop makes ahead; it sends them in turn, under ids of their own.
const distinct = 512

// Post sends n signed payloads to url over keep-alive connections, with workers at once, as the peer's worker sends them
// and with no queue.
func Post(ctx context.Context, url, secret string, n, workers int) (Ceiling, error) {
	key, err := signature.ParseKey(secret)
	if err != nil {
		return Ceiling{}, fmt.Errorf("reading the secret: %w", err)
	}
	payloads := make([][]byte, min(n, distinct))
	for i := range payloads {
		payloads[i] = Payload(i)
	}
	s := &sender{url: url, key: key, payloads: payloads, total: int64(n), client: NewHTTPClient(workers)}
	defer s.client.CloseIdleConnections()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cpu, started := cpuTime(), time.Now()
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			if err := s.run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	work.Wait()
	took := time.Since(started)
	if ctx.Err() != nil {
		return Ceiling{}, fmt.Errorf("posting to %s: %w", url, context.Cause(ctx))
	}
	return Ceiling{
		Posts: n, Workers: workers, Seconds: took.Seconds(), Rate: float64(n) / took.Seconds(),
		SenderMicros: float64((cpuTime() - cpu).Microseconds()) / float64(n),
	}, nil
}

// NewHTTPClient returns a client that keeps a connection for each of its workers.
func NewHTTPClient(workers int) *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			MaxIdleConns: workers, MaxIdleConnsPerHost: workers, IdleConnTimeout: 90 * time.Second,
			DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		},
	}
}

type sender struct {
	url      string
	key      *signature.Key
	payloads [][]byte
	client   *http.Client
	total    int64
	next     atomic.Int64
}

func (s *sender) run(ctx context.Context) error {
	for {
		n := s.next.Add(1) - 1
		if n >= s.total {
			return nil
		}
		if err := s.post(ctx, n); err != nil {
			return err
		}
	}
}

func (s *sender) post(ctx context.Context, n int64) error {
	body, id, now := s.payloads[n%int64(len(s.payloads))], fmt.Sprintf("post_%010d", n), time.Now()
	signatures, err := signature.Sign(id, now, body, s.key)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(signature.HeaderID, id)
	request.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	request.Header.Set(signature.HeaderSignature, signatures)
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	if response.StatusCode/100 != 2 {
		return errors.Join(fmt.Errorf("the receiver answered %s", response.Status), err)
	}
	return err
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
