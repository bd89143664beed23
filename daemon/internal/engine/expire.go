package engine

import (
	"maps"
	"slices"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// expireEvery is how often lanes that do not move are searched for rows past
	// their time; a lane that moves finds them when it comes to them.
	expireEvery = 30 * time.Second
	// expirePage bounds one statement of such a search.
	expirePage = 1000
)

// stuck is a lane that is to be searched.
type stuck struct {
	id     int32
	expiry time.Duration
	busy   []string // rows that are under way and stay
}

// expireStuck makes dead letters of what expires in lanes that do not move: an
// outage, a hold or a pause bounds a delivery's life no less than a retry does.
func (e *Engine) expireStuck() {
	if e.expiring || e.stopping {
		return
	}
	var lanes []stuck
	for _, l := range e.lanes {
		if l.dest == nil || !e.machine.Owns(e.now, l.id) || l.block == "" && !e.shut(l) {
			continue
		}
		lanes = append(lanes, stuck{id: l.id, expiry: l.dest.Settings.Expiry.Std(), busy: slices.Collect(maps.Keys(l.known))})
	}
	if len(lanes) == 0 {
		return
	}
	e.expiring = true
	go func() {
		for _, l := range lanes {
			e.expireLane(l)
		}
		e.post(func() { e.expiring = false })
	}()
}

func (e *Engine) expireLane(l stuck) {
	at := store.WalkFromStart()
	for done := false; !done && e.ctx.Err() == nil; {
		var expired int
		var err error
		expired, at, done, err = e.queue.ExpireWaiting(e.ctx, l.id, at, l.expiry, expirePage, "expired before it was delivered", l.busy)
		if err != nil {
			e.log.Warn("looking for expired deliveries failed, trying again later", "destination_id", l.id, "error", err)
			return
		}
		if expired > 0 {
			e.log.Info("deliveries expired while their destination was not served", "destination_id", l.id, "deliveries", expired)
		}
	}
}
