package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDeliveryItemsJoinsQueueAndLog(t *testing.T) {
	t.Parallel()
	f := open(t)
	var ids []int32
	for i := range 4 {
		ids = append(ids, f.destination(t, "acme", fmt.Sprint("d", i)).ID)
	}
	id := f.submit(t, "acme", ids...)
	// Neighbours in the order of ids, which the range must leave out.
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at) values ($1, 'acme', 1, '{}', now()), ($2, 'acme', 1, '{}', now())`,
		id+"0-1", id+".1")
	delivered, dead, retried := f.ready(t, ids[0], 1)[0], f.ready(t, ids[1], 1)[0], f.ready(t, ids[2], 1)[0]
	f.record(t, &Outcomes{
		Delivered:   []Delivered{{ID: delivered.ID, Attempt: []byte(`[{"n":1}]`), Object: []byte("{}")}},
		Undelivered: []Undelivered{{ID: retried.ID, Attempt: []byte(`[{"n":1}]`), Object: []byte("{}"), Reason: "busy", Burn: 1, After: time.Minute}},
	})
	f.kill(t, "gone", dead)

	rows, err := f.DeliveryItems(t.Context(), "acme", id)
	if err != nil {
		t.Fatal(err)
	}
	got := map[int32]string{}
	for _, row := range rows {
		switch {
		case row.Queue == nil:
			got[row.Log.DestinationID] = "log " + row.Log.Status
		case row.Log == nil:
			got[row.Queue.DestinationID] = "queue " + row.Queue.Status
		default:
			got[row.Queue.DestinationID] = row.Queue.Status + " " + row.Log.Status
		}
	}
	want := map[int32]string{ids[0]: "log delivered", ids[1]: "failed failed", ids[2]: "pending retrying", ids[3]: "queue pending"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, miss := range []struct{ organization, id string }{{"umbrella", id}, {"acme", "dlv_x"}, {"acme", ""}, {"acme", "a\x00b"}, {"acme", "\xff"}} {
		if _, err := f.DeliveryItems(t.Context(), miss.organization, miss.id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q of %s: %v, want ErrNotFound", miss.id, miss.organization, err)
		}
	}
	// A SQL producer's row is a delivery of its own, by its id.
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at) values ('order-7', 'acme', $1, '{}', now())`, ids[0])
	if rows, err := f.DeliveryItems(t.Context(), "acme", "order-7"); err != nil || len(rows) != 1 || rows[0].Queue.DeliveryID != "order-7" {
		t.Errorf("a producer's row: %v, %v", rows, err)
	}
}

func TestDeliveryItemsLooksFurtherThanTheIdSays(t *testing.T) {
	t.Parallel()
	f := open(t)
	id := newDeliveryID()
	// Logged by a database whose clock is three days off.
	f.exec(t, `insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, created_at)
		values ($1, 1, 'acme', '{}', 'delivered', now() - interval '3 days')`, id)
	if rows, err := f.DeliveryItems(t.Context(), "acme", id); err != nil || len(rows) != 1 {
		t.Errorf("%v, %v", rows, err)
	}
}

func TestMadeAtReadsOnlyOurIds(t *testing.T) {
	t.Parallel()
	id := newDeliveryID()
	if at, ok := madeAt(id); !ok || time.Since(at).Abs() > time.Minute {
		t.Errorf("%s was made at %v", id, at)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`(dlv_)?[0-9a-z]{0,40}`).Draw(t, "id")
		if _, ok := madeAt(text); ok && (len(text) != len(id) || text[len(DeliveryPrefix)+12] != '7') {
			t.Fatalf("%q passes for an id of ours", text)
		}
	})
}

// TestListsPageThroughEverythingOnce pages through each list with pages of all
// sizes: every row of the organization must come once, in order.
func TestListsPageThroughEverythingOnce(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) select 'acme', 'webhook', 'd' || i, '{}' from generate_series(1, 3) i`)
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) values ('umbrella', 'webhook', 'x', '{}')`)
	// Many rows share a time, which only the id can part.
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, priority, scheduled_at, status, updated_at)
		select 'r' || i, case when i % 10 = 0 then 'umbrella' else 'acme' end, case when i % 10 = 0 then 4 else 1 + i % 3 end, '{}', i % 11,
		  timestamptz '2026-01-01' + (i % 7) * interval '1 hour', case when i % 2 = 0 then 'pending' else 'failed' end,
		  timestamptz '2026-01-01' + (i % 5) * interval '1 hour' from generate_series(1, 200) i`)
	f.exec(t, `insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, created_at)
		select 'l' || i, 1 + i % 3, case when i % 10 = 0 then 'umbrella' else 'acme' end, '{}', case when i % 2 = 0 then 'delivered' else 'failed' end,
		  now() + (i % 7) * interval '1 second' from generate_series(1, 100) i`)
	type entry struct {
		key string
		at  time.Time
	}
	type page func(behind Position, limit int) ([]entry, Position)
	queue := func(rows []QueueRow, at func(*QueueRow) time.Time) (list []entry, last Position) {
		for i := range rows {
			list = append(list, entry{rows[i].ID, at(&rows[i])})
			last = Position{At: at(&rows[i]), ID: rows[i].ID}
		}
		return list, last
	}
	lists := map[string]struct {
		want int
		next page
	}{
		"waiting": {80, func(behind Position, limit int) ([]entry, Position) {
			rows, err := f.ListWaiting(t.Context(), "acme", ListFilter{}, behind, limit)
			if err != nil {
				t.Fatal(err)
			}
			return queue(rows, (*QueueRow).Due)
		}},
		"dead letters": {100, func(behind Position, limit int) ([]entry, Position) {
			rows, err := f.DeadLetters(t.Context(), "acme", nil, behind, limit)
			if err != nil {
				t.Fatal(err)
			}
			return queue(rows, func(r *QueueRow) time.Time { return r.UpdatedAt })
		}},
		"logs": {90, func(behind Position, limit int) (list []entry, last Position) {
			rows, err := f.ListLogs(t.Context(), "acme", ListFilter{Statuses: []string{"delivered", "failed"}}, behind, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				list = append(list, entry{row.DeliveryID, row.CreatedAt})
				last = Position{At: row.CreatedAt, Last: row.ID}
			}
			return list, last
		}},
	}
	for name, list := range lists {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{1, 7, 500} {
				var all []entry
				for behind := (Position{}); ; {
					rows, last := list.next(behind, limit)
					if len(rows) > limit {
						t.Fatalf("%d rows on a page of %d", len(rows), limit)
					}
					all = append(all, rows...)
					if len(rows) < limit {
						break
					}
					behind = last
				}
				seen := map[string]bool{}
				for _, e := range all {
					seen[e.key] = true
				}
				if len(all) != list.want || len(seen) != list.want {
					t.Errorf("pages of %d: %d rows, %d different, want %d", limit, len(all), len(seen), list.want)
				}
				if !slices.IsSortedFunc(all, func(a, b entry) int { return b.at.Compare(a.at) }) {
					t.Errorf("pages of %d are out of order", limit)
				}
			}
		})
	}
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	f := open(t)
	d, other := f.destination(t, "acme", "one"), f.destination(t, "acme", "two")
	first, second := submission(newDeliveryID(), "acme", d.ID, other.ID), submission(newDeliveryID(), "acme", d.ID)
	mark := "corr-1"
	second.Items[0].CorrelationID = &mark
	f.mustSubmit(t, first)
	between, err := f.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.mustSubmit(t, second)
	f.record(t, &Outcomes{Undelivered: []Undelivered{{ID: second.Items[0].ID, Attempt: []byte("[]"), Object: []byte("{}"), After: time.Hour}}})
	nul := "a\x00"
	for name, test := range map[string]struct {
		filter ListFilter
		want   int
	}{
		"all":                {ListFilter{}, 3},
		"one destination":    {ListFilter{DestinationID: &d.ID}, 2},
		"correlation":        {ListFilter{CorrelationID: &mark}, 1},
		"impossible":         {ListFilter{CorrelationID: &nul}, 0},
		"never attempted":    {ListFilter{Statuses: []string{"pending"}}, 2},
		"attempted":          {ListFilter{Statuses: []string{"retrying"}}, 1},
		"since":              {ListFilter{Since: between}, 1},
		"until":              {ListFilter{Until: between}, 2},
		"nothing in between": {ListFilter{Since: between, Until: between}, 0},
	} {
		rows, err := f.ListWaiting(t.Context(), "acme", test.filter, Position{}, 100)
		if err != nil || len(rows) != test.want {
			t.Errorf("%s: %d rows, %v; want %d", name, len(rows), err, test.want)
		}
		test.filter.Statuses = []string{"delivered", "failed", "retrying"}
		if _, err := f.ListLogs(t.Context(), "acme", test.filter, Position{}, 100); err != nil {
			t.Errorf("%s, of the log: %v", name, err)
		}
	}
}

// TestSecretsAreBoundedEach: what another program wrote to one destination neither
// comes in whole nor takes the place of another's.
func TestSecretsAreBoundedEach(t *testing.T) {
	t.Parallel()
	f := open(t)
	many, few := f.destination(t, "acme", "many"), f.destination(t, "acme", "few")
	f.exec(t, `insert into webhook_secrets (id, destination_id, secret_key, is_primary, expires_at)
		select 's' || to_char(i, 'FM000'), $1, 'x', (i = 30)::text, case when i < 5 then now() - interval '1 hour' end from generate_series(1, 40) i`, many.ID)
	f.exec(t, "insert into webhook_secrets (id, destination_id, secret_key) values ('own', $1, 'x')", few.ID)
	of, err := f.SecretsOf(t.Context(), []int32{many.ID, few.ID})
	if err != nil {
		t.Fatal(err)
	}
	if got := of[many.ID]; len(got) != MaxSecrets || got[0].ID != "s030" || got[1].ID != "s005" {
		t.Errorf("%d secrets, the first are %s and %s; want %d, primary first, none that has ended", len(got), got[0].ID, got[1].ID, MaxSecrets)
	}
	if got := of[few.ID]; len(got) != 1 || got[0].ID != "own" {
		t.Errorf("the other has %d secrets", len(got))
	}
}

// TestLimitsReachTheDatabase holds every statement that has a limit to it: jet
// leaves out a LIMIT that it thinks is none.
func TestLimitsReachTheDatabase(t *testing.T) {
	t.Parallel()
	s := buildStatements()
	for name, st := range map[string]statement{
		"defaults": s.destination.defaults, "list": s.destination.list, "changed": s.destination.changed,
		"items": s.delivery.items, "logs": s.delivery.logs, "logs within": s.delivery.logsWithin, "list of logs": s.delivery.listLogs,
	} {
		if !strings.Contains(st.sql, "LIMIT $") {
			t.Errorf("%s has no LIMIT:\n%s", name, st.sql)
		}
	}
}
