package engine

import (
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
)

// allowance is what was left of a rate limit at a time. The lane's next owner goes
// on from it: with a full bucket for each, a destination would get a burst more
// from every hand-over and restart than it agreed to.
type allowance struct {
	Tokens float64   `json:"tokens"`
	At     time.Time `json:"at"`
}

func (e *Engine) allowance(l *lane) *allowance {
	if l.limiter == nil {
		return nil
	}
	return &allowance{Tokens: l.limiter.TokensAt(e.now), At: e.now.UTC()}
}

// limiter returns what keeps to a limit. An old one keeps what was used: a reload
// must not refill the bucket.
func (e *Engine) limiter(old *rate.Limiter, limit *destination.RateLimit, left *allowance) *rate.Limiter {
	if limit == nil {
		return nil
	}
	perSecond := rate.Limit(float64(limit.Events) / limit.Per.Std().Seconds())
	if old != nil {
		old.SetLimit(perSecond)
		old.SetBurst(limit.Events)
		return old
	}
	fresh := rate.NewLimiter(perSecond, limit.Events)
	if left != nil {
		since := max(0, e.now.Sub(left.At)) // another host's clock may be ahead
		tokens := left.Tokens + since.Seconds()*float64(perSecond)
		fresh.AllowN(e.now, min(max(0, limit.Events-int(math.Floor(tokens))), limit.Events))
	}
	return fresh
}
