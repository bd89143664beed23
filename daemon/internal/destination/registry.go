package destination

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jellydator/ttlcache/v3"
	"golang.org/x/sync/singleflight"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// unconfirmedFor is how long a cached value is used when nothing says that it
	// has not changed since.
	unconfirmedFor = 5 * time.Second
	// cachedFor bounds a cached value even while Watch sees no change: a program
	// that writes rows without touching updated_at is seen after it.
	cachedFor = time.Minute
	// cacheSize bounds each cache; a destination takes about 2 KiB.
	cacheSize = 20_000
	// MaxDefaults bounds the default destinations of an organization: a delivery
	// has no more destinations.
	MaxDefaults = 1000
	// maxPage bounds a page of List.
	maxPage = 1000
)

// Transports is what the registry needs of the plugin host.
type Transports interface {
	Describe(transport string) (*transportv1.DescribeResponse, error)
	Validate(ctx context.Context, transport string, configJSON []byte) ([]*transportv1.Diagnostic, error)
	Open(ctx context.Context, transport string, req *transportv1.OpenRequest) error
	Close(ctx context.Context, transport string, ref *transportv1.InstanceRef) error
	TestConnection(ctx context.Context, transport string, ref *transportv1.InstanceRef, ping bool) (*transportv1.TestConnectionResponse, error)
}

// Options of a Registry.
type Options struct {
	// Store is required.
	Store *store.Store
	// Transports is required.
	Transports Transports
	// Box opens and seals the secrets of configurations. Required.
	Box *secret.Box
	// Defaults are what settings start from. Defaults to those of Settings.
	Defaults Settings
	// Announce tells other daemons that a destination changed; it must not wait.
	// Defaults to nothing: they find it by polling.
	Announce func(id int32)
	// Know keeps secrets out of the log and of what plugins say until forget is
	// called. Defaults to nothing.
	Know func(secrets ...string) (forget func())
	// Logger is required.
	Logger *slog.Logger
}

// Registry is safe for concurrent use.
type Registry struct {
	store      *store.Store
	transports Transports
	box        *secret.Box
	log        *slog.Logger
	announce   func(int32)
	know       func(...string) func()
	settings   atomic.Pointer[Settings]
	onChange   atomic.Pointer[func(int32)]
	lines      atomic.Pointer[map[store.DestinationKey]place]

	byID     *ttlcache.Cache[int32, entry[*Destination]]
	byLabel  *ttlcache.Cache[store.DestinationKey, entry[int32]]
	missing  *ttlcache.Cache[store.DestinationKey, entry[struct{}]] // labels that are not there: a reference may be an id
	ofOrg    *ttlcache.Cache[string, entry[[]int32]]                // default destinations
	loads    singleflight.Group
	changes  atomic.Int64 // counts invalidations: what was read before one is not kept
	watched  atomic.Int64 // until when Watch vouches for the caches, Unix nanoseconds
	kick     chan struct{}
	instance instances
	closing  sync.WaitGroup
}

// entry is a cached value and when it was read.
type entry[T any] struct {
	value T
	at    time.Time
}

// NewRegistry returns a registry with empty caches. Run Watch beside it: without
// it nothing is cached for longer than 5 seconds.
func NewRegistry(o Options) *Registry {
	r := &Registry{
		store: o.Store, transports: o.Transports, box: o.Box, log: o.Logger, announce: o.Announce, know: o.Know,
		byID: newCache[int32, *Destination](), byLabel: newCache[store.DestinationKey, int32](), missing: newCache[store.DestinationKey, struct{}](), ofOrg: newCache[string, []int32](),
		kick: make(chan struct{}, 1), instance: instances{open: map[instanceKey]*instance{}},
	}
	if r.announce == nil {
		r.announce = func(int32) {}
	}
	if r.know == nil {
		r.know = func(...string) func() { return func() {} }
	}
	r.settings.Store(&o.Defaults)
	r.OnChange(func(int32) {})
	return r
}

// newCache makes a bounded cache whose values do not live longer by being used:
// else a busy destination's would never be read again.
func newCache[K comparable, V any]() *ttlcache.Cache[K, entry[V]] {
	return ttlcache.New(ttlcache.WithTTL[K, entry[V]](cachedFor), ttlcache.WithCapacity[K, entry[V]](cacheSize),
		ttlcache.WithDisableTouchOnHit[K, entry[V]]())
}

// OnChange sets what is called, without waiting, when a destination has changed
// or is gone. Call it before Watch.
func (r *Registry) OnChange(f func(id int32)) { r.onChange.Store(&f) }

// SetDefaults replaces what settings start from, as a reload does.
func (r *Registry) SetDefaults(s Settings) {
	r.settings.Store(&s)
	r.forgetAll()
}

func (r *Registry) defaults() Settings { return *r.settings.Load() }

// fresh reports whether something read at a time is known to be good still.
func (r *Registry) fresh(at time.Time) bool {
	now := time.Now()
	return now.Sub(at) < unconfirmedFor || now.UnixNano() < r.watched.Load()
}

// Get returns a destination of any organization. Errors wrap store.ErrNotFound
// where it is not there, or store.ErrUnavailable.
func (r *Registry) Get(ctx context.Context, id int32) (*Destination, error) {
	if item := r.byID.Get(id); item != nil && r.fresh(item.Value().at) {
		return item.Value().value, nil
	}
	return load(ctx, r, "id/"+strconv.Itoa(int(id)), func(ctx context.Context) (*Destination, error) {
		began := r.changes.Load()
		row, err := r.store.Destination(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("destination %d: %w", id, err)
		}
		return r.keep(&row, began), nil
	})
}

// keep makes a snapshot of a row and caches it, unless something has changed
// since before it was read.
func (r *Registry) keep(row *store.Destination, began int64) *Destination {
	d := r.fromRow(row)
	if r.changes.Load() == began {
		r.byID.Set(d.ID, entry[*Destination]{d, time.Now()}, ttlcache.DefaultTTL)
		r.byLabel.Set(store.DestinationKey{OrganizationID: d.OrganizationID, Label: d.Label}, entry[int32]{d.ID, time.Now()}, ttlcache.DefaultTTL)
		if r.changes.Load() != began {
			r.forget(d.ID) // it changed between the look and the deed
		}
	}
	return d
}

// load lets one of several callers read what all of them want. The reader goes
// on for the others when its own caller gives up.
func load[T any](ctx context.Context, r *Registry, key string, read func(context.Context) (T, error)) (T, error) {
	// What changes from here on must not be answered by a read that began before.
	key += "@" + strconv.FormatInt(r.changes.Load(), 10)
	answer := r.loads.DoChan(key, func() (any, error) { return read(context.WithoutCancel(ctx)) })
	var none T
	select {
	case <-ctx.Done():
		return none, fmt.Errorf("reading a destination: %w", context.Cause(ctx))
	case got := <-answer:
		if got.Err != nil {
			return none, got.Err
		}
		return got.Val.(T), nil
	}
}

// ByRef returns an organization's destination by its label, or by its decimal id
// where it has none of that label. The error wraps store.ErrNotFound also where
// another organization has it.
func (r *Registry) ByRef(ctx context.Context, organization, ref string) (*Destination, error) {
	d, err := r.byLabelOf(ctx, organization, ref)
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return d, err
	}
	id, notNumber := strconv.ParseInt(ref, 10, 32)
	if notNumber != nil || id <= 0 {
		return nil, err
	}
	d, byID := r.Get(ctx, int32(id))
	if byID != nil && !errors.Is(byID, store.ErrNotFound) {
		return nil, byID
	}
	if byID != nil || d.OrganizationID != organization {
		return nil, err
	}
	return d, nil
}

func (r *Registry) byLabelOf(ctx context.Context, organization, label string) (*Destination, error) {
	key := store.DestinationKey{OrganizationID: organization, Label: label}
	if item := r.byLabel.Get(key); item != nil && r.fresh(item.Value().at) {
		d, err := r.Get(ctx, item.Value().value)
		if err == nil && d.OrganizationID == organization && d.Label == label {
			return d, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		r.byLabel.Delete(key) // renamed or deleted
	}
	if item := r.missing.Get(key); item != nil && r.fresh(item.Value().at) {
		return nil, fmt.Errorf("destination %q: %w", label, store.ErrNotFound)
	}
	return load(ctx, r, "label/"+organization+"\x00"+label, func(ctx context.Context) (*Destination, error) {
		began := r.changes.Load()
		row, err := r.store.DestinationByLabel(ctx, organization, label)
		if errors.Is(err, store.ErrNotFound) && r.changes.Load() == began {
			r.missing.Set(key, entry[struct{}]{at: time.Now()}, ttlcache.DefaultTTL)
			if r.changes.Load() != began {
				r.missing.Delete(key)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("destination %q: %w", label, err)
		}
		return r.keep(&row, began), nil
	})
}

// Defaults returns the default destinations of an organization, by label; none is
// no error.
func (r *Registry) Defaults(ctx context.Context, organization string) ([]*Destination, error) {
	if item := r.ofOrg.Get(organization); item != nil && r.fresh(item.Value().at) {
		return r.getAll(ctx, organization, item.Value().value)
	}
	return load(ctx, r, "default/"+organization, func(ctx context.Context) ([]*Destination, error) {
		began := r.changes.Load()
		rows, err := r.store.DefaultDestinations(ctx, organization, MaxDefaults)
		if err != nil {
			return nil, fmt.Errorf("default destinations of the organization: %w", err)
		}
		all, ids := make([]*Destination, len(rows)), make([]int32, len(rows))
		for i := range rows {
			all[i], ids[i] = r.keep(&rows[i], began), rows[i].ID
		}
		if r.changes.Load() == began {
			r.ofOrg.Set(organization, entry[[]int32]{ids, time.Now()}, ttlcache.DefaultTTL)
			if r.changes.Load() != began {
				r.ofOrg.Delete(organization)
			}
		}
		return all, nil
	})
}

func (r *Registry) getAll(ctx context.Context, organization string, ids []int32) ([]*Destination, error) {
	all := make([]*Destination, 0, len(ids))
	for _, id := range ids {
		d, err := r.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if d.Default && d.OrganizationID == organization {
			all = append(all, d)
		}
	}
	return all, nil
}

// Filter chooses destinations. Zero fields choose all.
type Filter struct {
	Type string
	// After is the label behind which the page begins.
	After string
	// Limit is the most on a page, 1 to 1,000. Defaults to 1,000.
	Limit int
}

// List returns a page of an organization's destinations by label, read from the
// database. The next page begins after the last label, if more is true.
func (r *Registry) List(ctx context.Context, organization string, f Filter) (all []*Destination, more bool, err error) {
	if f.Limit <= 0 || f.Limit > maxPage {
		f.Limit = maxPage
	}
	rows, err := r.store.ListDestinations(ctx, organization, f.Type, f.After, f.Limit+1)
	if err != nil {
		return nil, false, err
	}
	more = len(rows) > f.Limit
	for i := range rows[:min(len(rows), f.Limit)] {
		all = append(all, r.fromRow(&rows[i]))
	}
	return all, more, nil
}

// redact hides what the schema calls secret and whatever is sealed. Where the
// schema is not known, nothing tells what else is secret.
func (r *Registry) redact(d *Destination) (json.RawMessage, error) {
	paths := []string{"/*"}
	described, err := r.transports.Describe(d.Type)
	switch {
	case err == nil:
		paths = SecretPaths(described.GetSchema())
	case d.ManagedBy == store.ManagedByConfig:
		paths = nil // all of them were sealed when it was stored
	}
	shown, err := secret.RedactPaths(d.sealed, paths, r.box, d.place())
	if err != nil {
		return nil, fmt.Errorf("the configuration of %s: %w", d.key(), err)
	}
	return shown, nil
}

// SecretPaths returns the JSON Pointers of a schema's secret attributes, as
// package secret takes them.
func SecretPaths(s *transportv1.ConfigSchema) []string { return secretPathsBelow(s, "") }

func secretPathsBelow(s *transportv1.ConfigSchema, at string) []string {
	var paths []string
	for _, a := range s.GetAttributes() {
		if a.GetSecret() {
			paths = append(paths, at+secret.Pointer(a.GetName()))
		}
	}
	for _, b := range s.GetBlocks() {
		below := at + secret.Pointer(b.GetType())
		if b.GetMax() > 1 {
			below += "/*"
		}
		paths = append(paths, secretPathsBelow(b.GetBody(), below)...)
	}
	return paths
}
