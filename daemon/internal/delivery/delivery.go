// Package delivery does what an API caller asks for: it checks and queues
// deliveries, shows what became of them, and cancels and replays them.
//
// It must never queue a part of a request, say that something is accepted before
// it is on disk, or answer about another organization's things. What happens to a
// queued row is not its business.
package delivery

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// Caller is who asks, as an API key says it.
type Caller struct {
	// Organization is whose things the request is about.
	Organization string
	// Actor names the caller in logs, for example "api_key:ops".
	Actor string
	// RequestID names the request in the audit log; it may be empty.
	RequestID string
}

// Payload is what is delivered.
type Payload struct {
	// Type is the kind of event, 1 to 255 characters.
	Type string
	// Data is any JSON value. Empty where Artifact is set.
	Data json.RawMessage
	// Artifact is the id of an artifact of the organization, which is delivered in
	// place of data. Empty where Data is set.
	Artifact string
	// Metadata is a JSON object for templates and headers, or empty.
	Metadata json.RawMessage
}

// Request asks for one payload to be delivered to one or more destinations.
type Request struct {
	// Destinations are labels or decimal ids. Empty where Default is set.
	Destinations []string
	// Default asks for the organization's default destinations.
	Default bool
	Payload Payload
	// Priority is 0 to 10; 10 goes first.
	Priority int
	// ScheduledAt is the time before which nothing is sent. Nil: now.
	ScheduledAt *time.Time
	// ExpiresAt is the time after which it becomes a dead letter. Nil: each
	// destination's expiry.
	ExpiresAt *time.Time
	// IdempotencyKey makes a repeated request return the first result. At most 255
	// characters; empty: none.
	IdempotencyKey string
	// CorrelationID goes into every log, at most 255 characters; empty: none.
	CorrelationID string
}

// Result is what Submit has durably queued.
type Result struct {
	ID           string
	Destinations []Target
	// Duplicate says that this is the result of an earlier request with the same
	// idempotency key; nothing was queued now.
	Duplicate bool
}

// Target is one destination of a delivery.
type Target struct {
	ID     int32
	Label  string
	ItemID string // names the queue row
}

// Waker is told of rows that are durably queued. It must not wait.
type Waker interface{ Wake(hints []engine.Hint) }

// Limits bound what a caller may ask for and what may be under way.
type Limits struct {
	// MaxPayload is the most bytes of a payload: type, data and metadata. Defaults
	// to 10 MiB.
	MaxPayload int
	// MaxDestinations is the most destinations of one delivery. Defaults to 50.
	MaxDestinations int
	// MaxSchedule is how far ahead a delivery may be scheduled. Defaults to 366 days.
	MaxSchedule time.Duration
	// MaxExpiry is how long after its scheduled time a delivery may expire at the
	// latest. Defaults to 365 days.
	MaxExpiry time.Duration
	// MaxQueued is how many deliveries may wait to be written before new ones are
	// refused with ErrOverloaded. Defaults to 20,000.
	MaxQueued int
	// MaxQueuedBytes bounds their payloads. Defaults to 256 MiB.
	MaxQueuedBytes int
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.MaxPayload, 10<<20)
	set(&l.MaxDestinations, 50)
	set(&l.MaxQueued, 20_000)
	set(&l.MaxQueuedBytes, 256<<20)
	if l.MaxSchedule <= 0 {
		l.MaxSchedule = 366 * 24 * time.Hour
	}
	if l.MaxExpiry <= 0 {
		l.MaxExpiry = destination.MaxExpiry
	}
	return l
}

// Destinations is what the service needs of the registry.
type Destinations interface {
	Get(ctx context.Context, id int32) (*destination.Destination, error)
	ByRef(ctx context.Context, organization, ref string) (*destination.Destination, error)
	Defaults(ctx context.Context, organization string) ([]*destination.Destination, error)
}

// Options of a Service.
type Options struct {
	// Store is required.
	Store *store.Store
	// Destinations is required.
	Destinations Destinations
	// Waker is required.
	Waker Waker
	// Announce tells other daemons that there are new rows; it must not wait.
	// Defaults to nothing: they find them by polling.
	Announce func()
	// Changed tells whoever owns a destination's lane that rows of it were taken
	// away. Defaults to nothing.
	Changed func(destination int32)
	// Limits default field by field.
	Limits Limits
	// Logger is required.
	Logger *slog.Logger
}

// Service is safe for concurrent use.
type Service struct {
	store        *store.Store
	destinations Destinations
	waker        Waker
	announce     func()
	changed      func(int32)
	limits       atomic.Pointer[Limits]
	log          *slog.Logger
	coalescer    *coalescer
}

// NewService returns a service that takes submissions until Stop.
func NewService(o Options) *Service {
	s := &Service{
		store: o.Store, destinations: o.Destinations, waker: o.Waker, announce: o.Announce, changed: o.Changed,
		log: o.Logger,
	}
	s.SetLimits(o.Limits)
	if s.announce == nil {
		s.announce = func() {}
	}
	if s.changed == nil {
		s.changed = func(int32) {}
	}
	limits := s.limits.Load()
	s.coalescer = newCoalescer(o.Store, s.queued, limits.MaxQueued, limits.MaxQueuedBytes)
	return s
}

// SetLimits replaces what bounds a request from now on; MaxQueued and
// MaxQueuedBytes stay as they were at the start.
func (s *Service) SetLimits(l Limits) {
	l = l.withDefaults()
	s.limits.Store(&l)
}

// Stop refuses new submissions and returns when those that were taken are written
// or have failed.
func (s *Service) Stop() { s.coalescer.stop() }
