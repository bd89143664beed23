package store

import (
	"fmt"
	"testing"
	"time"
)

// TestAlertFiguresCountInTurns: every destination is in each answer, and what
// takes long is counted at each of them in one of the turns.
func TestAlertFiguresCountInTurns(t *testing.T) {
	t.Parallel()
	f := open(t)
	const destinations, parts = 7, 3
	for i := range destinations {
		d := f.destination(t, "acme", fmt.Sprint(i))
		f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, status)
			select $1 || s, 'acme', $2, '{}', now() - interval '1 minute', s from unnest(array['pending', 'failed']) s`, fmt.Sprint(d.ID), d.ID)
	}
	f.destination(t, "other", "theirs")
	counted := map[int32]int{}
	for part := range parts {
		list, err := f.AlertFigures(t.Context(), []AlertScope{{Organization: "acme", DeadWindow: time.Hour, DeadLimit: 10, BacklogFrom: 1, BacklogLimit: 10}}, part, parts)
		if err != nil || len(list) != destinations {
			t.Fatalf("%d destinations, %v", len(list), err)
		}
		for _, one := range list {
			if one.Counted {
				counted[one.DestinationID]++
			}
			if seen := one.Waiting == 1 && one.DeadLetters == 1 && one.OldestSeconds > 50; seen != one.Counted {
				t.Errorf("part %d: %+v", part, one)
			}
		}
	}
	if len(counted) != destinations {
		t.Errorf("counted at %v in all turns, want once at each of %d", counted, destinations)
	}
}

// What is due is counted from where it matters on; how long the oldest has been due
// is always told.
func TestAlertFiguresCountABacklog(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "billing")
	// Five are due for 10 to 14 minutes, four are due in an hour.
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, priority)
		select 'q' || i, 'acme', $1, '{}', now() + case when i > 4 then interval '1 hour' else (10 + i) * interval '-1 minute' end, i from generate_series(0, 8) i`, d.ID)
	for _, test := range []struct{ from, limit, want int }{
		{5, 100, 5}, {5, 3, 3}, {6, 100, 5}, {9, 100, 5}, {10, 100, 0}, {0, 0, 0},
	} {
		list, err := f.AlertFigures(t.Context(), []AlertScope{{Organization: "acme", BacklogFrom: test.from, BacklogLimit: test.limit}}, 0, 1)
		if err != nil || len(list) != 1 {
			t.Fatalf("%d destinations, %v", len(list), err)
		}
		if got := list[0]; int(got.Waiting) != test.want || got.OldestSeconds < 14*60 || got.OldestSeconds > 15*60 {
			t.Errorf("from %d up to %d: %d wait, the oldest for %.0f s; want %d, and 14 minutes", test.from, test.limit, got.Waiting, got.OldestSeconds, test.want)
		}
	}
}

func TestAlertsArePaged(t *testing.T) {
	t.Parallel()
	f := open(t)
	// Three were seen at the same moment.
	f.exec(t, `insert into alerts (id, organization_id, event, label, status, severity, message, first_seen_at, last_seen_at)
		select 'alr_' || i, case when i = 9 then 'other' else 'acme' end, 'hold' || i, 'x', 'open', 'high', 'm', now(), date_trunc('minute', now()) - i / 3 * interval '1 minute'
		from generate_series(0, 9) i`)
	var got []string
	var at Position
	for {
		page, err := f.ListAlerts(t.Context(), "acme", []string{"open"}, nil, at, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page {
			got = append(got, a.ID)
		}
		if len(page) < 2 {
			break
		}
		at = Position{At: page[1].LastSeenAt, ID: page[1].ID}
	}
	if want := "[alr_2 alr_1 alr_0 alr_5 alr_4 alr_3 alr_8 alr_7 alr_6]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
}
