package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// fold adds what a daemon has counted, and those without a lease.
func (f *fixture) fold(t testing.TB, daemon string) {
	t.Helper()
	if _, _, err := f.FoldCounts(t.Context(), daemon, 0, nil); err != nil {
		t.Fatal(err)
	}
}

// TestCountsAreAddedOnce: whatever is written with the health itself and whatever
// is kept aside, and whoever folds it when, the totals are the sum.
func TestCountsAreAddedOnce(t *testing.T) {
	t.Parallel()
	f := open(t)
	type totals struct{ Deliveries, Failures, Usage, Secret int32 }
	next := 0
	rapid.Check(t, func(rt *rapid.T) {
		next++
		d := f.destination(t, "acme", fmt.Sprint("d", next))
		secret := fmt.Sprint("s", next)
		f.exec(t, "insert into webhook_secrets (id, destination_id, secret_key) values ($1, $2, 'x')", secret, d.ID)
		// The first write of a destination is that of its row.
		f.record(t, &Outcomes{Daemon: "a", Health: []HealthRow{{DestinationID: d.ID, Status: "healthy", BreakerState: "closed"}}})
		var want totals
		folded := map[string]int64{}
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			daemon := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "daemon")
			n := rapid.Int32Range(0, 50).Draw(rt, "deliveries")
			bad := rapid.Int32Range(0, n).Draw(rt, "failures")
			switch rapid.IntRange(0, 2).Draw(rt, "step") {
			case 0:
				f.record(t, &Outcomes{Daemon: daemon, Health: []HealthRow{{
					DestinationID: d.ID, Status: "healthy", BreakerState: "closed", AddDeliveries: n, AddFailures: bad, AddUsage: n - bad,
				}}})
			case 1:
				f.record(t, &Outcomes{
					Daemon: daemon, Secrets: []SecretUse{{ID: secret, Count: n}},
					Counts: []Count{{DestinationID: d.ID, Deliveries: n, Failures: bad, Usage: n - bad}},
				})
				want.Secret += n
			case 2:
				n, bad = 0, 0
				var health []HealthRow
				if rapid.Bool().Draw(rt, "with health") {
					health = []HealthRow{{DestinationID: d.ID, Status: "degraded", BreakerState: "closed"}}
				}
				last, _, err := f.FoldCounts(t.Context(), daemon, folded[daemon], health)
				if err != nil {
					rt.Fatal(err)
				}
				folded[daemon] = last
			}
			want.Deliveries, want.Failures, want.Usage = want.Deliveries+n, want.Failures+bad, want.Usage+n-bad
		}
		f.fold(t, "c")
		h, err := f.Health(t.Context(), d.ID)
		if err != nil {
			rt.Fatal(err)
		}
		row, err := f.Destination(t.Context(), d.ID)
		if err != nil {
			rt.Fatal(err)
		}
		got := totals{h.TotalDeliveries, h.TotalFailures, row.CountUsage, query[int32](t, f, "select usage_count from webhook_secrets where id = $1", secret)}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("totals (-want +got):\n%s", diff)
		}
	})
	if n := query[int](t, f, "select count(*) from outcome_counts"); n != 0 {
		t.Errorf("%d rows of counts are left", n)
	}
}

// TestFoldCountsLeavesOthersAlone: a daemon that lives folds its own.
func TestFoldCountsLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "one")
	if _, err := f.RenewLease(t.Context(), "alive", "host", "1", time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, daemon := range []string{"alive", "dead", "mine"} {
		f.record(t, &Outcomes{Daemon: daemon, Counts: []Count{{DestinationID: d.ID, Usage: 1}}})
	}
	own := query[int64](t, f, "select id from outcome_counts where daemon_id = 'mine'")
	f.record(t, &Outcomes{Daemon: "dead", Counts: []Count{{DestinationID: d.ID, Usage: 1}}}) // with a higher id
	if last, _, err := f.FoldCounts(t.Context(), "mine", 0, nil); err != nil || last != own {
		t.Errorf("folded up to %d, %v; want %d, its own", last, err, own)
	}
	if got := query[string](t, f, "select string_agg(daemon_id, ',') from outcome_counts"); got != "alive" {
		t.Errorf("counts that are left are those of %q, want of the one that lives", got)
	}
}
