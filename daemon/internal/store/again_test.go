package store

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// outcomesOfThree returns outcomes of one delivery that arrived, one that waits
// for its retry and one that is a dead letter, with the totals that they add.
func (f *fixture) outcomesOfThree(t *testing.T) (*Outcomes, Destination) {
	t.Helper()
	d := f.destination(t, "acme", "one")
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key) values ('s', $1, 'k')`, d.ID)
	for range 3 {
		f.submit(t, "acme", d.ID)
	}
	items := f.ready(t, d.ID, 3)
	at := func(it Item) LogKey { return LogKey{it.DeliveryID, it.DestinationID, it.CreatedAt} }
	attempt := []byte(`[{"at": "2026-01-01T00:00:00Z", "daemon": "d"}]`)
	undelivered := func(it Item, dead bool) Undelivered {
		return Undelivered{ID: it.ID, Log: at(it), AttemptCount: it.AttemptCount, Attempt: attempt, Object: []byte("{}"), Dead: dead, Burn: 1, After: time.Hour, Reason: "no"}
	}
	return &Outcomes{
		Daemon:      "d",
		Delivered:   []Delivered{{ID: items[0].ID, Log: at(items[0]), AttemptCount: items[0].AttemptCount, Attempt: attempt, Object: []byte("{}")}},
		Undelivered: []Undelivered{undelivered(items[1], false), undelivered(items[2], true)},
		Health:      []HealthRow{{DestinationID: d.ID, Status: "degraded", BreakerState: "closed", AddDeliveries: 2, AddFailures: 1}},
		Counts:      []Count{{DestinationID: d.ID, Deliveries: 1, Failures: 1, Usage: 1}},
		Secrets:     []SecretUse{{ID: "s", Count: 3}},
	}, d
}

// checkCountedOnce checks what the outcomes of outcomesOfThree leave behind.
func (f *fixture) checkCountedOnce(t *testing.T, applied Applied, o *Outcomes, d Destination) {
	t.Helper()
	if len(applied.Delivered) != 1 || len(applied.Undelivered) != 2 {
		t.Errorf("applied %+v, want all three", applied)
	}
	if due := applied.Undelivered[o.Undelivered[0].ID]; time.Until(due) < 50*time.Minute {
		t.Errorf("the retry is due at %v, want in an hour", due)
	}
	f.fold(t, "d")
	h, err := f.Health(t.Context(), d.ID)
	if err != nil || h.TotalDeliveries != 3 || h.TotalFailures != 2 || h.Status != "degraded" {
		t.Errorf("health %+v, %v", h, err)
	}
	got := query[string](t, f, `select concat_ws(' ', (select count_usage from delivery_destinations where id = $1),
		(select usage_count from webhook_secrets where id = 's'),
		(select string_agg(status || jsonb_array_length(attempts), ',' order by status) from delivery_logs))`, d.ID)
	if diff := cmp.Diff("1 3 delivered1,failed1,retrying1", got); diff != "" {
		t.Errorf("uses of the destination, uses of the secret, log (-want +got):\n%s", diff)
	}
}

func TestRecordAgainAfterALostAnswer(t *testing.T) {
	t.Parallel()
	f := open(t)
	o, d := f.outcomesOfThree(t)
	f.record(t, o) // and nobody heard of it
	o.Again = true
	f.checkCountedOnce(t, f.record(t, o), o, d)
}

func TestRecordAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	f := open(t)
	o, d := f.outcomesOfThree(t)
	o.Again = true
	f.checkCountedOnce(t, f.record(t, o), o, d)
}

// TestRecordAgainWhileTheFirstTryIsCommitted: the connection was cut, and the
// server has not noticed.
func TestRecordAgainWhileTheFirstTryIsCommitted(t *testing.T) {
	t.Parallel()
	f := open(t)
	o, d := f.outcomesOfThree(t)
	first, err := f.sql.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Rollback(background(t))
	batch, applied := outcomesBatch(o, false, false)
	if err := first.SendBatch(t.Context(), batch).Close(); err != nil || len(applied.Delivered) != 1 {
		t.Fatal(applied, err)
	}
	type answer struct {
		applied Applied
		err     error
	}
	again := make(chan answer, 1)
	second := *o
	second.Again = true
	go func() {
		applied, err := f.Record(t.Context(), &second, false)
		again <- answer{applied, err}
	}()
	f.awaitLockWaiters(t, 1)
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := <-again
	if got.err != nil {
		t.Fatal(got.err)
	}
	f.checkCountedOnce(t, got.applied, o, d)
}

// TestRecordAgainOfFencedRows counts their attempts: nothing was committed before.
func TestRecordAgainOfFencedRows(t *testing.T) {
	t.Parallel()
	f := open(t)
	o, d := f.outcomesOfThree(t)
	f.exec(t, `delete from delivery_queue`)
	o.Again = true
	if applied := f.record(t, o); len(applied.Delivered)+len(applied.Undelivered) != 0 {
		t.Errorf("applied %+v, want nothing", applied)
	}
	f.fold(t, "d")
	if h, err := f.Health(t.Context(), d.ID); err != nil || h.TotalDeliveries != 3 {
		t.Errorf("health %+v, %v", h, err)
	}
}
