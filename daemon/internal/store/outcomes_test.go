package store

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestRecordWritesAllOfABatchOrNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "one")
	f.submit(t, "acme", d.ID)
	item := f.ready(t, d.ID, 1)[0]
	health := HealthRow{DestinationID: d.ID, Status: "healthy", AddDeliveries: 1, BreakerState: "closed", AddUsage: 1}
	bad := &Outcomes{
		Delivered: []Delivered{{ID: item.ID, Attempt: []byte("[]"), Object: []byte("{}")}},
		Health:    []HealthRow{{DestinationID: d.ID, Status: "no such status", BreakerState: "closed"}},
	}
	if _, err := f.Record(t.Context(), bad, false); err == nil {
		t.Fatal("took a status that the table forbids")
	}
	if len(f.ready(t, d.ID, 1)) != 1 || query[int](t, f, "select count(*) from delivery_logs") != 0 {
		t.Fatal("a part of a failed batch was written")
	}
	bad.Health = []HealthRow{health}
	if applied := f.record(t, bad); len(applied.Delivered) != 1 {
		t.Fatalf("applied %+v", applied)
	}
	if applied := f.record(t, &Outcomes{Delivered: bad.Delivered}); len(applied.Delivered) != 0 {
		t.Error("the same outcome was applied twice")
	}
	row, err := f.Destination(t.Context(), d.ID)
	if err != nil || row.CountUsage != 1 || row.LastUsedAt == nil || !row.UpdatedAt.Equal(d.UpdatedAt) {
		t.Errorf("usage %+v, %v; and a use is no change", row, err)
	}
	h, err := f.Health(t.Context(), d.ID)
	if err != nil || h.TotalDeliveries != 1 || h.SuccessRate != "100.00" {
		t.Errorf("health %+v, %v", h, err)
	}
}

// A producer may give a row the id and time of one that was delivered long ago: it
// is delivered as well, and the log shows both.
func TestRecordOfARowThatWasThereBefore(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		f := open(t)
		d := f.destination(t, "acme", "one")
		for range 2 {
			f.exec(t, fmt.Sprintf(`insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, created_at)
				values ('same', 'acme', %d, '{}', now(), date_trunc('day', now()))`, d.ID))
			f.submit(t, "acme", d.ID)
			var o Outcomes
			for _, it := range f.ready(t, d.ID, 2) {
				o.Delivered = append(o.Delivered, Delivered{ID: it.ID, Attempt: []byte(`[{"code":"1"}]`), Object: []byte("{}")})
			}
			if applied, err := f.Record(t.Context(), &o, keep); err != nil || len(applied.Delivered) != 2 {
				t.Fatalf("keep %t: applied %+v, %v", keep, applied, err)
			}
			f.exec(t, "delete from delivery_queue")
		}
		if n := query[int](t, f, "select sum(jsonb_array_length(attempts))::int from delivery_logs where delivery_id = 'same'"); n != 2 {
			t.Errorf("keep %t: %d attempts in the log, want 2", keep, n)
		}
		if n := query[int](t, f, "select count(*)::int from delivery_logs"); n != 3 {
			t.Errorf("keep %t: %d rows in the log, want 3", keep, n)
		}
	}
}

// TestSuccessRate compares the percentage that the database keeps with the
// quotient of its own counters.
func TestSuccessRate(t *testing.T) {
	t.Parallel()
	f := open(t)
	next := 0
	rapid.Check(t, func(rt *rapid.T) {
		next++
		d := f.destination(t, "acme", fmt.Sprint("d", next))
		var deliveries, failures int32
		for range rapid.IntRange(1, 4).Draw(rt, "batches") {
			n := rapid.Int32Range(0, 1000).Draw(rt, "deliveries")
			bad := rapid.Int32Range(0, n).Draw(rt, "failures")
			deliveries, failures = deliveries+n, failures+bad
			f.record(t, &Outcomes{Health: []HealthRow{{DestinationID: d.ID, Status: "healthy", BreakerState: "closed", AddDeliveries: n, AddFailures: bad}}})
		}
		h, err := f.Health(t.Context(), d.ID)
		if err != nil {
			rt.Fatal(err)
		}
		want := "0"
		if deliveries > 0 {
			hundredths := 10_000 * int64(deliveries-failures) / int64(deliveries) // cut off: 100.00 is nothing failed
			want = fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100)
		}
		if h.TotalDeliveries != deliveries || h.TotalFailures != failures || h.SuccessRate != want {
			rt.Fatalf("%d of %d failed: %s, want %s", h.TotalFailures, h.TotalDeliveries, h.SuccessRate, want)
		}
	})
}

// TestWritersOfTheSameRowsDoNotDeadlock has recorders, an operator and a reload
// write the health and usage of the same destinations, each in its own order.
func TestWritersOfTheSameRowsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	f := open(t)
	var all []Destination
	for i := range 12 {
		all = append(all, f.destination(t, "acme", fmt.Sprint("d", i)))
		f.exec(t, "insert into webhook_secrets (id, destination_id, secret_key) values ($1, $2, 'x')", fmt.Sprint("s", 11-i), all[i].ID)
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for round := range 25 {
				o := Outcomes{Daemon: fmt.Sprint("daemon", worker)}
				for i := range all {
					if (i+worker+round)%3 == 0 {
						continue
					}
					o.Health = append(o.Health, HealthRow{DestinationID: all[i].ID, Status: "healthy", BreakerState: "closed", AddDeliveries: 1, AddUsage: 1})
					o.Secrets = append(o.Secrets, SecretUse{ID: fmt.Sprint("s", 11-i), Count: 1})
					o.Counts = append(o.Counts, Count{DestinationID: all[11-i].ID, Deliveries: 1, Usage: 1})
				}
				if worker%2 == 0 {
					slices.Reverse(o.Secrets)
				}
				if _, err := f.Record(t.Context(), &o, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for worker := range 2 {
		wg.Go(func() {
			for range 25 { // no worker has a lease: each folds the counts of all
				if _, _, err := f.FoldCounts(t.Context(), fmt.Sprint("daemon", worker), 0, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for round := range 40 {
			if _, err := f.ResumeDestination(t.Context(), "acme", all[round%len(all)].ID, nil); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for range 15 {
			_, err := f.SyncDestinations(t.Context(), []DestinationKey{{"acme", "d3"}, {"acme", "d9"}, {"acme", "d1"}}, func(current []Destination) ([]DestinationWrite, error) {
				var writes []DestinationWrite
				for i := range current {
					writes = append(writes, DestinationWrite{Row: current[i], ResetHealth: true})
				}
				slices.Reverse(writes)
				return writes, nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	f.fold(t, "daemon0")
	const recorded = 4 * 25 * 12 * 2 / 3
	got := query[string](t, f, `select concat_ws(' ', (select sum(count_usage) from delivery_destinations), (select sum(usage_count) from webhook_secrets))`)
	if want := fmt.Sprint(2*recorded, " ", recorded); got != want {
		t.Errorf("uses of destinations and secrets %s, want %s", got, want)
	}
}
