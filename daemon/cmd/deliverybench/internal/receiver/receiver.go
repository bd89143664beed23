// Package receiver is the HTTP endpoint that measured senders deliver to: it verifies every signature, remembers which
// message arrived when, and counts repetitions and forgeries.
//
// Its endpoints and their JSON are those that the peer (riverpeer) expects of its own sink, so that both senders face
// the same receiver. It must never answer with success what it did not verify, and never listen beyond loopback.
package receiver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// peerKey is the secret in the peer's source, which signs with the text itself, prefix and all.
const peerKey = "whsec_c2VjcmV0LWZvci1iZW5jaG1hcms"

// Secret returns the signing secret in the Standard Webhooks form. It stands for the same key bytes that the peer uses,
// so that one verifier with one key checks both.
func Secret() string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(peerKey))
}

// maxBody bounds a message, bytes.
const maxBody = 16 << 20

// Stats are the counters since the last reset.
type Stats struct {
	// Unique is the number of messages with a valid signature, by their webhook-id.
	Unique int `json:"unique"`
	// Duplicate counts valid messages whose webhook-id had been seen.
	Duplicate int `json:"dup"`
	// Bad counts messages without a valid signature.
	Bad int `json:"bad"`
	// First and Last are when the first and the last new message arrived, ns since 1970; 0 for none.
	First int64 `json:"first"`
	Last  int64 `json:"last"`
	// CPUMillis is the CPU time of the receiver's process since its start.
	CPUMillis int64 `json:"cpu_ms"`
}

// Receiver is an http.Handler with these endpoints:
//
//	POST /hook      a webhook: 204 when its signature is valid, else 400
//	POST /reset     forget everything; with ?ids=hash remember hashes of ids only, for runs of millions
//	POST /failing   a webhook: 500
//	POST /hanging   a webhook: no answer before /release, then 503
//	POST /release   let go of what hangs, and of what comes up to the next reset
//	GET  /stats     Stats
//	GET  /receipts  an object: webhook-id to ns since 1970 of its first arrival
//	POST /file/NAME a signed file of any length, which is not kept
//	GET  /files     an object: NAME to File
//
// It is safe for concurrent use.
type Receiver struct {
	mux      *http.ServeMux
	verifier *signature.Verifier
	buffers  sync.Pool
	seed     maphash.Seed

	mu       sync.Mutex
	hashOnly bool
	receipts map[string]int64
	hashes   map[uint64]struct{}
	stats    Stats
	released chan struct{} // closed by release: the hanging hook answers
	release  func()
	files    map[string]File
	key      *signature.Key
}

// New returns a receiver that accepts messages signed with secret.
func New(secret string) (*Receiver, error) {
	verifier, err := signature.NewVerifier([]string{secret})
	if err != nil {
		return nil, fmt.Errorf("making the receiver: %w", err)
	}
	key, err := signature.ParseKey(secret)
	if err != nil {
		return nil, fmt.Errorf("making the receiver: %w", err)
	}
	r := &Receiver{
		mux: http.NewServeMux(), verifier: verifier, key: key, seed: maphash.MakeSeed(),
		buffers: sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
	r.forget(false)
	r.mux.HandleFunc("POST /hook", r.hook)
	r.mux.HandleFunc("POST /failing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	r.mux.HandleFunc("POST /hanging", r.hang)
	r.mux.HandleFunc("POST /release", func(http.ResponseWriter, *http.Request) { r.letGo() })
	r.mux.HandleFunc("POST /reset", r.reset)
	r.mux.HandleFunc("GET /stats", r.writeStats)
	r.mux.HandleFunc("GET /receipts", r.writeReceipts)
	r.mux.HandleFunc("POST /file/{name}", r.file)
	r.mux.HandleFunc("GET /files", r.writeFiles)
	return r, nil
}

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.mux.ServeHTTP(w, req) }

func (r *Receiver) hook(w http.ResponseWriter, req *http.Request) {
	body := r.buffers.Get().(*bytes.Buffer)
	defer r.buffers.Put(body)
	body.Reset()
	n, err := body.ReadFrom(io.LimitReader(req.Body, maxBody+1))
	now := time.Now().UnixNano()
	if err != nil || n > maxBody || r.verifier.Verify(req.Header, body.Bytes()) != nil {
		r.mu.Lock()
		r.stats.Bad++
		r.mu.Unlock()
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.record(req.Header.Get(signature.HeaderID), now)
	w.WriteHeader(http.StatusNoContent)
}

// hang takes a message and waits. The sender's end is only seen by who has read all of what it sent.
func (r *Receiver) hang(w http.ResponseWriter, req *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(req.Body, maxBody))
	r.mu.Lock()
	released := r.released
	r.mu.Unlock()
	select {
	case <-released:
	case <-req.Context().Done():
	}
	w.WriteHeader(http.StatusServiceUnavailable)
}

func (r *Receiver) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release()
}

func (r *Receiver) record(id string, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen(id, now) {
		r.stats.Duplicate++
		return
	}
	r.stats.Unique++
	if r.stats.First == 0 {
		r.stats.First = now
	}
	// Two requests can take the lock in the other order than they took the time.
	r.stats.Last = max(r.stats.Last, now)
}

// seen remembers an id. With hashes of 64 bits, 10 million ids hold a pair that collides with a probability of 3 in a
// million.
func (r *Receiver) seen(id string, now int64) bool {
	if r.hashOnly {
		hash := maphash.String(r.seed, id)
		_, seen := r.hashes[hash]
		r.hashes[hash] = struct{}{}
		return seen
	}
	if _, seen := r.receipts[id]; seen {
		return true
	}
	r.receipts[id] = now
	return false
}

func (r *Receiver) reset(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(req.URL.Query().Get("ids") == "hash")
	w.WriteHeader(http.StatusOK)
}

func (r *Receiver) forget(hashOnly bool) {
	r.hashOnly, r.stats = hashOnly, Stats{}
	if r.release != nil {
		r.release()
	}
	released := make(chan struct{})
	r.released, r.release = released, sync.OnceFunc(func() { close(released) })
	r.receipts, r.hashes, r.files = map[string]int64{}, map[uint64]struct{}{}, map[string]File{}
	if !hashOnly {
		// Growing the map under the lock would show up as latency of the sender.
		r.receipts = make(map[string]int64, 100_000)
	}
}

func (r *Receiver) writeStats(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	stats := r.stats
	r.mu.Unlock()
	stats.CPUMillis = cpuMillis()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(stats)
}

func (r *Receiver) writeReceipts(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(r.receipts)
}

func cpuMillis() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return (usage.Utime.Nano() + usage.Stime.Nano()) / int64(time.Millisecond)
}

// Serve listens on a loopback address, such as 127.0.0.1:0, calls listening with the address that it got, and serves
// until ctx ends.
func Serve(ctx context.Context, address string, listening func(net.Addr)) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("reading the address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("the address %q is not on loopback: want 127.0.0.1:port or [::1]:port", address)
	}
	handler, err := New(Secret())
	if err != nil {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", address, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	listening(listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", address, err)
	}
	return nil
}
