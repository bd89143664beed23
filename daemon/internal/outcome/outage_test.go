package outcome_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/outcome"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	simConcurrency = 8
	simLatency     = 50 * time.Millisecond
)

// delivery is a queue row of the simulation.
type delivery struct {
	due, expires         time.Time
	retries, rateLimited int
	poisoned             bool
	action               outcome.Action // Delivered or DeadLetter at its end
	reason               string
	ended                time.Time
	busy                 bool
}

type attempt struct {
	of     *delivery
	ticket breaker.Ticket
	ends   time.Time
}

// answer is what the simulated peer says to an attempt.
type answer struct {
	delivered  bool
	class      transportv1.Failure_Class
	retryAfter time.Duration
}

// simulation runs one lane under a clock of its own: the breaker says how many
// attempts may start, the peer answers, the policy decides.
type simulation struct {
	t           *testing.T
	now         time.Time
	peer        func(now time.Time, d *delivery) answer
	breaker     *breaker.Breaker
	queue       []*delivery
	inFlight    []attempt
	rnd         *rand.Rand
	attempts    int
	transitions []breaker.Transition
}

func newSimulation(t *testing.T, rows int, peer func(time.Time, *delivery) answer) *simulation {
	s := &simulation{
		t: t, now: start, peer: peer,
		breaker: breaker.New(breaker.Settings{}.WithDefaults(), simConcurrency, breaker.Snapshot{}, start),
		rnd:     rand.New(rand.NewPCG(1, 2)),
	}
	for range rows {
		s.queue = append(s.queue, &delivery{due: start, expires: start.Add(outcome.DefaultExpiry)})
	}
	return s
}

// run goes on until every delivery has ended or the time is over.
func (s *simulation) run(until time.Time) {
	s.t.Helper()
	for steps := 0; s.now.Before(until); steps++ {
		if steps > 1_000_000 {
			s.t.Fatalf("no end in sight after %v", s.now.Sub(start))
		}
		s.finish()
		s.begin()
		next := s.next(until)
		if next.IsZero() {
			return
		}
		s.now = next
	}
}

func (s *simulation) begin() {
	for range s.breaker.Allow(s.now) {
		d := s.nextDue()
		if d == nil {
			return
		}
		ticket, transition, ok := s.breaker.Start(s.now)
		if !ok {
			s.t.Fatal("Start refused what Allow allowed")
		}
		s.note(transition)
		s.attempts++
		d.busy = true
		s.inFlight = append(s.inFlight, attempt{d, ticket, s.now.Add(simLatency)})
	}
}

// nextDue returns the delivery that has been due for longest, and ends those
// that have expired.
func (s *simulation) nextDue() *delivery {
	var first *delivery
	for _, d := range s.queue {
		if d.busy || d.action != 0 || d.due.After(s.now) {
			continue
		}
		if !s.now.Before(d.expires) {
			s.decide(d, outcome.Input{Class: tooLate})
			continue
		}
		if first == nil || d.due.Before(first.due) {
			first = d
		}
	}
	return first
}

func (s *simulation) finish() {
	var still []attempt
	for _, a := range s.inFlight {
		if a.ends.After(s.now) {
			still = append(still, a)
			continue
		}
		said := s.peer(s.now, a.of)
		a.of.busy = false
		decision := s.decide(a.of, outcome.Input{
			Delivered: said.delivered, Class: said.class, RetryAfter: said.retryAfter,
			Code: "peer." + said.class.String(), Probe: a.ticket.Probe(),
		})
		s.note(s.breaker.Record(s.now, a.ticket, decision.Breaker))
	}
	s.inFlight = still
}

func (s *simulation) decide(d *delivery, in outcome.Input) outcome.Decision {
	in.Now, in.ExpiresAt = s.now, d.expires
	in.Retries, in.MaxRetries, in.RateLimited = d.retries, 5, d.rateLimited
	in.Policy, in.Rand = backoff.Policy{}.WithDefaults(), s.rnd.Float64
	decision := outcome.Decide(&in)
	d.due, d.rateLimited = decision.NextRetryAt, decision.RateLimited
	if decision.BurnsAttempt {
		d.retries++
	}
	if decision.Action == outcome.Delivered || decision.Action == outcome.DeadLetter {
		d.action, d.reason, d.ended = decision.Action, decision.Reason, s.now
	}
	return decision
}

func (s *simulation) note(transition *breaker.Transition) {
	if transition != nil {
		s.transitions = append(s.transitions, *transition)
	}
}

// next returns the next time at which anything can happen, zero for never.
func (s *simulation) next(until time.Time) time.Time {
	var next time.Time
	consider := func(t time.Time) {
		if t.After(s.now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	open := false
	for _, d := range s.queue {
		if d.action == 0 {
			open = true
			consider(d.due)
		}
	}
	if !open {
		return time.Time{}
	}
	for _, a := range s.inFlight {
		consider(a.ends)
	}
	consider(s.breaker.NextChange(s.now))
	consider(until)
	return next
}

func (s *simulation) count(action outcome.Action) int {
	n := 0
	for _, d := range s.queue {
		if d.action == action {
			n++
		}
	}
	return n
}

func (s *simulation) wantAllDelivered() {
	s.t.Helper()
	for i, d := range s.queue {
		if d.action != outcome.Delivered {
			s.t.Fatalf("delivery %d of %d: %v, %d retries, due %v, because %q", i, len(s.queue), d.action, d.retries, d.due, d.reason)
		}
	}
}

func downUntil(end time.Time, class transportv1.Failure_Class) func(time.Time, *delivery) answer {
	return func(now time.Time, _ *delivery) answer {
		return answer{delivered: !now.Before(end), class: class}
	}
}

func TestOutageOfHoursEndsNoDelivery(t *testing.T) {
	t.Parallel()
	for _, class := range []transportv1.Failure_Class{transient, unavailable, unknown} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			end := start.Add(60 * time.Hour)
			s := newSimulation(t, 200, downUntil(end, class))
			s.run(end)
			if s.count(0) != 200 {
				t.Fatalf("%d deliveries ended while the peer was down", 200-s.count(0))
			}
			// 8 at once before it opens, then a probe per 1, 2, 4, 8, 10, 10, ... minutes.
			if s.attempts < 300 || s.attempts > 400 {
				t.Errorf("%d attempts during the outage, want a probe per 10 minutes", s.attempts)
			}
			s.run(end.Add(11 * time.Minute))
			s.wantAllDelivered()
		})
	}
}

func TestOutageBeyondExpiryEndsEveryDeliveryAtItsExpiry(t *testing.T) {
	t.Parallel()
	s := newSimulation(t, 50, downUntil(start.Add(1000*time.Hour), unavailable))
	s.run(start.Add(80 * time.Hour))
	for i, d := range s.queue {
		late := d.ended.Sub(d.expires)
		if d.action != outcome.DeadLetter || late < 0 || late > 11*time.Minute || !strings.HasPrefix(d.reason, "expired at ") {
			t.Errorf("delivery %d: %v %v after its expiry, because %q", i, d.action, late, d.reason)
		}
	}
}

func TestHoursOfRateLimitingEndNoDelivery(t *testing.T) {
	t.Parallel()
	for _, retryAfter := range []time.Duration{0, time.Second, 10 * time.Minute, 1000 * time.Hour} {
		t.Run(retryAfter.String(), func(t *testing.T) {
			t.Parallel()
			end := start.Add(6 * time.Hour)
			s := newSimulation(t, 100, func(now time.Time, _ *delivery) answer {
				return answer{delivered: now.After(end), class: rateLimited, retryAfter: retryAfter}
			})
			s.run(end.Add(30 * time.Hour))
			s.wantAllDelivered()
			if len(s.transitions) > 0 {
				t.Errorf("rate-limiting moved the breaker: %+v", s.transitions)
			}
		})
	}
}

func TestHoldBurnsNothing(t *testing.T) {
	t.Parallel()
	for _, class := range []transportv1.Failure_Class{auth, config} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			cured := start.Add(48 * time.Hour)
			s := newSimulation(t, 100, downUntil(cured, class))
			s.run(cured)
			if s.attempts > simConcurrency {
				t.Errorf("%d attempts on a held lane, want at most the %d that were at work", s.attempts, simConcurrency)
			}
			s.note(s.breaker.Release(s.now, "configuration changed"))
			s.run(cured.Add(time.Minute))
			s.wantAllDelivered()
			for _, d := range s.queue {
				if d.retries > 0 {
					t.Fatalf("a hold burnt %d attempts", d.retries)
				}
			}
		})
	}
}

// One payload that always fails must neither keep the others from arriving
// nor live for ever itself.
func TestPoisonedPayload(t *testing.T) {
	t.Parallel()
	s := newSimulation(t, 100, func(now time.Time, d *delivery) answer {
		up := now.After(start.Add(time.Hour))
		return answer{delivered: up && !d.poisoned, class: transient}
	})
	poisoned := s.queue[0]
	poisoned.poisoned = true
	s.run(start.Add(72 * time.Hour))
	if poisoned.action != outcome.DeadLetter || !strings.Contains(poisoned.reason, "used up") {
		t.Errorf("the poisoned delivery: %v, because %q", poisoned.action, poisoned.reason)
	}
	for i, d := range s.queue[1:] {
		if d.action != outcome.Delivered || d.ended.After(start.Add(2*time.Hour)) {
			t.Errorf("delivery %d: %v at %v, because %q", i+1, d.action, d.ended.Sub(start), d.reason)
		}
	}
}
