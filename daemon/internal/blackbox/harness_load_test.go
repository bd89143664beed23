package blackbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// ledger is what producers know: which events were accepted, for which
// destinations.
type ledger struct {
	mu       sync.Mutex
	accepted map[string]bool // event@destination: must arrive
	unsure   map[string]bool // may arrive: the commit's answer was lost
	undone   map[string]bool // must not arrive: rolled back

	refused, unanswered int // submissions that were answered 503, or not at all
	wrong               []string
}

func newLedger() *ledger {
	return &ledger{accepted: map[string]bool{}, unsure: map[string]bool{}, undone: map[string]bool{}}
}

func (l *ledger) add(in map[string]bool, keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		in[key] = true
	}
}

func (l *ledger) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

func (l *ledger) counts() (accepted, refused, unanswered int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted), l.refused, l.unanswered
}

// load is producers at work. Each submission over HTTP is repeated with the same
// idempotency key until it is accepted, as producers are told to.
type load struct {
	f      *fleet
	client *http.Client
	stopCh chan struct{}
	group  sync.WaitGroup
	mu     sync.Mutex
	urls   []string
}

// rates of the load, which a daemon with the race detector can still keep up with.
const (
	httpWorkers = 4
	httpPause   = 15 * time.Millisecond
	sqlPause    = 50 * time.Millisecond
	sqlRows     = 4
)

// startLoad starts producers over HTTP, against the daemons given, and, unless
// httpOnly, over SQL.
func (f *fleet) startLoad(httpOnly bool, daemons ...*daemon) *load {
	l := &load{
		f: f, stopCh: make(chan struct{}),
		client: &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: httpWorkers}},
	}
	l.against(daemons...)
	for worker := range httpWorkers {
		l.group.Go(func() { l.overHTTP(worker) })
	}
	if !httpOnly {
		l.group.Go(l.overSQL)
	}
	f.t.Cleanup(l.stop)
	return l
}

// against changes the daemons that submissions go to.
func (l *load) against(daemons ...*daemon) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.urls = nil
	for _, d := range daemons {
		l.urls = append(l.urls, d.url)
	}
}

func (l *load) url(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.urls[n%len(l.urls)]
}

// stop ends the producers, each when what it submits now is accepted.
func (l *load) stop() {
	select {
	case <-l.stopCh:
	default:
		close(l.stopCh)
	}
	l.group.Wait()
	l.client.CloseIdleConnections()
}

// paced calls do again and again, at most once in a pause.
func (l *load) paced(pause time.Duration, do func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-l.stopCh:
			return
		case <-tick.C:
			do()
		}
	}
}

// overHTTP submits: most events for one destination, every eighth for two.
func (l *load) overHTTP(worker int) {
	n := worker
	l.paced(httpPause, func() {
		n++
		serial := l.f.serial.Add(1)
		// At random: a pattern could leave a destination without work for as long as
		// others are stuck.
		at := rand.IntN(len(l.f.labels))
		labels := []string{l.f.labels[at]}
		if serial%8 == 0 && len(l.f.labels) > 1 {
			labels = append(labels, l.f.labels[(at+1)%len(l.f.labels)])
		}
		l.submit(n, fmt.Sprintf("http-%d", serial), labels)
	})
}

// submit repeats one submission until it is accepted.
func (l *load) submit(n int, event string, labels []string) {
	body, _ := json.Marshal(map[string]any{ // plain values cannot fail
		"destinations": labels, "idempotency_key": event,
		"payload": map[string]any{"type": "test", "data": map[string]string{"event": event}},
	})
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ; ; n++ {
		if l.attempt(l.url(n), body, event) {
			for _, label := range labels {
				l.f.ledger.add(l.f.ledger.accepted, event+"@"+label)
			}
			return
		}
		if time.Now().After(deadline) {
			l.f.ledger.complain("%s was not accepted within %v", event, patience)
			return
		}
		<-tick.C
	}
}

// attempt submits once and reports whether the daemon took the delivery over.
func (l *load) attempt(url string, body []byte, event string) bool {
	ledger := l.f.ledger
	// Without a context of the test's: a load outlives it by its last submission.
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+"/v1/deliveries", bytes.NewReader(body))
	if err != nil {
		ledger.complain("%v", err)
		return true
	}
	req.Header.Set("Authorization", "Bearer "+l.f.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		ledger.mu.Lock()
		ledger.unanswered++
		ledger.mu.Unlock()
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what counts is the status
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted:
		return true
	case http.StatusServiceUnavailable:
		ledger.mu.Lock()
		ledger.refused++
		ledger.mu.Unlock()
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || seconds < 1 {
			ledger.complain("503 with Retry-After %q, want seconds: %s", resp.Header.Get("Retry-After"), text)
		}
		return false
	}
	ledger.complain("submitting %s: %s: %s", event, resp.Status, text)
	return true
}

// overSQL inserts as docs/producers.md shows; every fourth transaction rolls back.
func (l *load) overSQL() {
	const insert = `
insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
select $1, organization_id, id, jsonb_build_object('type', 'test', 'data', jsonb_build_object('event', $1::text)), now()
from delivery_destinations where organization_id = $2 and label = $3`
	round := 0
	l.paced(sqlPause, func() {
		round++
		var keys []string
		rollback := round%4 == 0
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := pgx.BeginFunc(ctx, l.f.db, func(tx pgx.Tx) error {
			for range sqlRows {
				serial := l.f.serial.Add(1)
				event, label := fmt.Sprintf("sql-%d", serial), l.f.labels[rand.IntN(len(l.f.labels))]
				if _, err := tx.Exec(ctx, insert, event, organization, label); err != nil {
					return fmt.Errorf("inserting: %w", err)
				}
				keys = append(keys, event+"@"+label)
			}
			if rollback {
				return errRolledBack
			}
			return nil
		})
		switch {
		case err == nil:
			l.f.ledger.add(l.f.ledger.accepted, keys...)
		case errors.Is(err, errRolledBack):
			l.f.ledger.add(l.f.ledger.undone, keys...)
		default: // the database was killed; whether it had committed is not known
			l.f.ledger.add(l.f.ledger.unsure, keys...)
		}
	})
}

var errRolledBack = errors.New("rolled back on purpose")

// tally is what a test counted.
type tally struct {
	accepted   int
	duplicates map[string]*arrival // by event@destination
}

// settle waits until everything accepted has arrived and is recorded, and checks
// what every test promises: nothing lost, nothing invented, one id each, every
// delivery in the log.
func (f *fleet) settle() tally {
	f.t.Helper()
	accepted, refused, unanswered := f.ledger.counts()
	missing := f.missing
	machine, done := f.meter(f.alive()...), time.Now()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for waiting := true; waiting && len(missing()) > 0; {
		f.receiver.mu.Lock()
		changed := f.receiver.changed
		f.receiver.mu.Unlock()
		if len(missing()) == 0 {
			break
		}
		select {
		case <-changed:
		case <-limit.C:
			waiting = false
		}
	}
	if lost := missing(); len(lost) > 0 {
		f.t.Errorf("lost: %d of %d accepted deliveries did not arrive within %v, for example %v", len(lost), accepted, patience, lost[:min(5, len(lost))])
		f.logStuck()
	} else {
		f.await("the queue to be empty", `select not exists (select 1 from delivery_queue)`)
	}
	took := time.Since(done)
	f.t.Logf("accepted %d, all arrived %v later; submissions answered 503: %d, not answered: %d",
		accepted, took.Round(time.Millisecond), refused, unanswered)
	if took > lease+2*time.Second+machine.slack() {
		f.t.Errorf("the last arrived %v after the last fault and the last submission: something stood still", took.Round(time.Millisecond))
	}
	return f.tally(accepted)
}

// missing lists what was accepted and has not arrived.
func (f *fleet) missing() (lost []string) {
	f.ledger.mu.Lock()
	defer f.ledger.mu.Unlock()
	f.receiver.mu.Lock()
	defer f.receiver.mu.Unlock()
	for key := range f.ledger.accepted {
		if one := f.receiver.arrived[key]; one == nil || len(one.times) == 0 {
			lost = append(lost, key)
		}
	}
	return lost
}

// logStuck says what the tables say about what did not arrive.
func (f *fleet) logStuck() {
	for _, sql := range []string{
		`select coalesce(string_agg(distinct destination_id || ' ' || id || ' ' || status || ' attempts ' || attempt_count || ' marks ' || mark_count || ' retries ' || retry_count || ' due ' || coalesce(next_retry_at, scheduled_at) || ' ' || coalesce(failure_reason, ''), '; '), 'no rows') from delivery_queue`,
		`select coalesce(string_agg(destination_id || ' ' || coalesce(daemon_id, 'nobody') || ' unclean ' || unclean, '; '), 'no lanes') from delivery_lanes`,
		`select coalesce(string_agg(id || ' until ' || lease_expires_at, '; '), 'no daemons') || ' now ' || now() from delivery_daemons`,
		`select coalesce(string_agg(destination_id || ' ' || circuit_breaker_state || ' ' || coalesce(hold_reason, ''), '; '), 'no health') from destination_health`,
	} {
		text, err := f.look(sql)
		f.t.Logf("%.2000s %v", text, err)
	}
}

func (f *fleet) tally(accepted int) tally {
	f.t.Helper()
	f.ledger.mu.Lock()
	defer f.ledger.mu.Unlock()
	f.receiver.mu.Lock()
	defer f.receiver.mu.Unlock()
	result := tally{accepted: accepted, duplicates: map[string]*arrival{}}
	wrong := append(append([]string(nil), f.ledger.wrong...), f.receiver.wrong...)
	for key, one := range f.receiver.arrived {
		switch {
		case f.ledger.undone[key]:
			wrong = append(wrong, key+" was rolled back and arrived")
		case !f.ledger.accepted[key] && !f.ledger.unsure[key]:
			wrong = append(wrong, key+" arrived and was never accepted")
		}
		if len(one.times) > 1 {
			result.duplicates[key] = one
		}
	}
	f.checkLog(&wrong)
	for _, one := range wrong[:min(len(wrong), 10)] {
		f.t.Errorf("wrong (1 of %d): %s", len(wrong), one)
	}
	return result
}

// checkLog checks that the log shows every delivery as delivered, once; the
// ledger is locked.
func (f *fleet) checkLog(wrong *[]string) {
	logged := f.texts(`select delivery_id || '@' || destination_id from deliveries where status = 'delivered'`)
	all, err := f.look(`select count(*) from delivery_logs`)
	if err != nil {
		*wrong = append(*wrong, err.Error())
	}
	if n := strconv.Itoa(len(logged)); n != all {
		*wrong = append(*wrong, fmt.Sprintf("%s log rows for %s deliveries that are delivered", all, n))
	}
	if n := len(f.receiver.arrived); len(logged) != n {
		*wrong = append(*wrong, fmt.Sprintf("%d deliveries are logged as delivered, %d arrived", len(logged), n))
	}
}

// underWay is what a fault may have caught in the middle: what had not been
// recorded right after it. Only that may come twice.
type underWay struct {
	victim  *daemon
	at      time.Time
	until   time.Time       // what the victim had in hand arrives before
	waiting map[string]bool // webhook ids
}

// caught returns what is under way now, just after a fault.
func (f *fleet) caught(victim *daemon) underWay {
	f.t.Helper()
	// What was on its way to the receiver when the daemon died may be read by it a
	// moment later, never as late as another daemon may begin.
	now := time.Now()
	return underWay{victim, now, now.Add(lease / 2), f.waiting()}
}

// excusable checks that duplicates come from what faults caught: the delivery was
// not recorded at one of them, and arrived before and after it. What arrived before
// may be read later, by a receiver that stood still; then nobody has recorded it.
func (f *fleet) excusable(result tally, faults ...underWay) {
	f.t.Helper()
	lapses := f.lapses(faults...)
	for key, one := range result.duplicates {
		excused := lapses.around(one)
		for _, fault := range faults {
			first, last := one.times[0], one.times[len(one.times)-1]
			if fault.waiting[one.id] && last.After(fault.at) && (first.Before(fault.until) || f.recorded(one.id) < len(one.times)) {
				excused++
			}
		}
		if len(one.times)-1 > excused {
			f.t.Errorf("%s (%s) arrived %d times, and %d faults can be the reason: %v", key, one.id, len(one.times), excused, one.times)
			for _, fault := range faults {
				f.t.Logf("fault at %v until %v, the row was waiting: %t", fault.at, fault.until, fault.waiting[one.id])
			}
		}
	}
}
