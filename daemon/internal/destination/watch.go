package destination

import (
	"context"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// watchEvery is how often Watch looks for changes.
	watchEvery = time.Second
	// watchSlack is how far Watch looks back each time: a transaction that began
	// before the last look may have committed after it.
	watchSlack = time.Minute
	// watchPage bounds one look.
	watchPage = 1000
	// goneEvery is how many looks pass between two searches for deleted destinations.
	goneEvery = 5
)

// Watch keeps the caches true until ctx ends: it looks for destinations that
// somebody else changed, and calls OnChange for each. It goes on after errors,
// during which cached values are used for 5 seconds and no longer.
func (r *Registry) Watch(ctx context.Context) error {
	w := watcher{registry: r, seen: map[int32]time.Time{}}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	failing := false
	for {
		err := w.look(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !failing {
			r.log.Warn("changes of destinations cannot be watched", "error", err)
		} else if err == nil && failing {
			r.log.Info("changes of destinations are watched again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		case <-r.kick:
		}
	}
}

// Changed says that a destination may have changed elsewhere, as a notification does.
func (r *Registry) Changed(id int32) {
	r.forget(id)
	r.tell(id)
}

// LookNow makes Watch look at once: notifications may have been missed.
func (r *Registry) LookNow() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// changedHere is Changed for what this process changed itself.
func (r *Registry) changedHere(id int32) {
	r.Changed(id)
	r.announce(id)
}

func (r *Registry) tell(id int32) { (*r.onChange.Load())(id) }

// forget drops what is cached of a destination.
func (r *Registry) forget(id int32) {
	r.changes.Add(1)
	item := r.byID.Get(id)
	r.byID.Delete(id)
	// It may have become a default of its organization, or have ceased to be one,
	// and which organization that is only the row could tell.
	r.ofOrg.DeleteAll()
	r.missing.DeleteAll()
	if item != nil {
		d := item.Value().value
		r.byLabel.Delete(store.DestinationKey{OrganizationID: d.OrganizationID, Label: d.Label})
	}
}

func (r *Registry) forgetAll() {
	r.changes.Add(1)
	r.byID.DeleteAll()
	r.byLabel.DeleteAll()
	r.missing.DeleteAll()
	r.ofOrg.DeleteAll()
}

// watcher is what Watch remembers between two looks.
type watcher struct {
	registry *Registry
	since    time.Time           // newest change seen
	seen     map[int32]time.Time // changes within the slack before since
	looks    int
}

func (w *watcher) look(ctx context.Context) error {
	began := time.Now()
	if w.since.IsZero() {
		now, err := w.registry.store.Now(ctx)
		if err != nil {
			return err
		}
		// What was cached before the first look is not vouched for.
		w.since = now
		w.registry.forgetAll()
	}
	if err := w.changed(ctx); err != nil {
		return err
	}
	if w.looks++; w.looks%goneEvery == 0 {
		if err := w.gone(ctx); err != nil {
			return err
		}
	}
	// Good until the next looks have failed for as long as anything may be unconfirmed.
	w.registry.watched.Store(began.Add(unconfirmedFor).UnixNano())
	return nil
}

// changed handles the changes since the last look, page by page.
func (w *watcher) changed(ctx context.Context) error {
	from := store.Changed{At: w.since.Add(-watchSlack)}
	for {
		page, err := w.registry.store.ChangedDestinations(ctx, from, watchPage)
		if err != nil {
			return err
		}
		for _, c := range page {
			if !w.seen[c.ID].Equal(c.At) {
				w.seen[c.ID] = c.At
				w.registry.Changed(c.ID)
			}
			if c.At.After(w.since) {
				w.since = c.At
			}
			from = c
		}
		if len(page) < watchPage {
			break
		}
	}
	for id, at := range w.seen {
		if at.Before(w.since.Add(-2 * watchSlack)) {
			delete(w.seen, id)
		}
	}
	return nil
}

// gone handles deletions, which leave no trace to look for.
func (w *watcher) gone(ctx context.Context) error {
	gone, err := w.registry.store.GoneDestinations(ctx, w.registry.byID.Keys())
	if err != nil {
		return err
	}
	for _, id := range gone {
		w.registry.Changed(id)
	}
	return nil
}
