package engine_test

import (
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
)

// TestRowsCommittedLateAreDelivered: rows of a transaction that was open while rows
// of later transactions were delivered lie behind the lane's reader.
func TestRowsCommittedLateAreDelivered(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		d := f.destination(destination.Settings{})
		const busy = 700 // more than a lane may have had for its start to be searched every time
		late, err := f.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := late.Exec(t.Context(), `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
			values ('late', $1, $2, '{}', now())`, d.OrganizationID, d.ID); err != nil {
			t.Fatal(err)
		}
		f.start(func(o *engine.Options) { o.SearchEvery = time.Hour })
		f.insert(d, busy, "", "")
		f.eventually("700", `select count(*) from delivery_logs where status = 'delivered'`)
		if err := late.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.eventually("delivered", `select status from delivery_logs where delivery_id = 'late'`)
	})
}

// TestRowsDueLongAgoAreDelivered: a producer may say that a row was due before all
// that its lane has delivered.
func TestRowsDueLongAgoAreDelivered(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]int{"idle lane": 20, "busy lane": 700} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, false)
			d := f.destination(destination.Settings{})
			f.start(func(o *engine.Options) {
				if o.SearchEvery = time.Hour; rows > 100 {
					o.SearchEvery = 300 * time.Millisecond
				}
			})
			for _, id := range []string{"first", "second"} { // whatever the search that saw the lane last
				f.insert(d, rows, "", "")
				f.eventually("0", `select count(*) from delivery_queue`)
				if _, err := f.pool.Exec(t.Context(), `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
					values ($1, $2, $3, '{}', now() - interval '1 hour')`, id, d.OrganizationID, d.ID); err != nil {
					t.Fatal(err)
				}
				f.eventually("delivered", `select status from delivery_logs where delivery_id = $1`, id)
			}
		})
	}
}
