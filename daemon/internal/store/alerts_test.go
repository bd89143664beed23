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
		list, err := f.AlertFigures(t.Context(), []AlertScope{{Organization: "acme", DeadWindow: time.Hour, DeadLimit: 10, BacklogLimit: 10}}, part, parts)
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
