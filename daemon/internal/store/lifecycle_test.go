package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestCancelTakesWhatWaitsAndLogsIt(t *testing.T) {
	t.Parallel()
	f := open(t)
	d1, d2 := f.destination(t, "acme", "one"), f.destination(t, "acme", "two")
	id := f.submit(t, "acme", d1.ID, d2.ID)
	other := f.submit(t, "acme", d1.ID)

	if moved, err := f.Cancel(t.Context(), "umbrella", id, nil, "eve", nil); err != nil || len(moved) != 0 {
		t.Fatalf("another organization cancelled %v, %v", moved, err)
	}
	moved, err := f.Cancel(t.Context(), "acme", id, &d1.ID, "api_key:ops", nil)
	if err != nil || len(moved) != 1 || moved[0].DestinationID != d1.ID {
		t.Fatalf("cancelled %v, %v", moved, err)
	}
	rows, err := f.DeliveryItems(t.Context(), "acme", id)
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d destinations, %v", len(rows), err)
	}
	for _, row := range rows {
		cancelled := row.Log != nil && row.Queue == nil && row.Log.Status == "failed" &&
			strings.Contains(*row.Log.FailureReason, "api_key:ops") && strings.Contains(row.Log.Attempts, `"cancel"`)
		waiting := row.Log == nil && row.Queue != nil && row.Queue.DestinationID == d2.ID
		if !cancelled && !waiting {
			t.Errorf("row %+v %+v", row.Queue, row.Log)
		}
	}
	if items := f.ready(t, d1.ID, 10); len(items) != 1 || items[0].DeliveryID != other {
		t.Errorf("ready = %+v, want the other delivery", items)
	}
}

func TestResultOfACancelledRowChangesNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "one")
	id := f.submit(t, "acme", d.ID)
	item := f.ready(t, d.ID, 1)[0]
	if _, err := f.Cancel(t.Context(), "acme", id, nil, "ops", nil); err != nil {
		t.Fatal(err)
	}
	applied := f.record(t, &Outcomes{Delivered: []Delivered{{ID: item.ID, AttemptCount: item.AttemptCount, Attempt: []byte("[]"), Object: []byte("{}")}}})
	if len(applied.Delivered) != 0 {
		t.Error("a cancelled row was delivered")
	}
	if status := query[string](t, f, "select status from delivery_logs where delivery_id = $1", id); status != "failed" {
		t.Errorf("log says %s", status)
	}
}

func TestReplayKeepsKeyAndHistory(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "one")
	key := "key-1"
	sub := submission(newDeliveryID(), "acme", d.ID)
	sub.Items[0].IdempotencyKey = &key
	f.mustSubmit(t, sub)
	item := f.ready(t, d.ID, 1)[0]
	f.record(t, &Outcomes{Undelivered: []Undelivered{{
		ID: item.ID, AttemptCount: item.AttemptCount, Attempt: []byte(`[{"code":"smtp.550"}]`), Object: []byte("{}"), Resume: []byte("half"), Reason: "half",
	}}})
	item = f.ready(t, d.ID, 1)[0]
	// No attempt, so what the plugin wants back stays.
	f.record(t, &Outcomes{Undelivered: []Undelivered{{ID: item.ID, AttemptCount: item.AttemptCount, Object: []byte("{}"), Dead: true, Reason: "expired"}}})
	if got := f.ready(t, d.ID, 1); len(got) != 0 {
		t.Fatal("a dead letter is ready")
	}
	if moved, err := f.ReplayDelivery(t.Context(), "umbrella", sub.DeliveryID, nil, "eve", time.Hour, nil); err != nil || len(moved) != 0 {
		t.Fatalf("another organization replayed %v, %v", moved, err)
	}
	moved, err := f.ReplayDelivery(t.Context(), "acme", sub.DeliveryID, nil, "ops", time.Hour, nil)
	if err != nil || len(moved) != 1 || moved[0].Due.IsZero() {
		t.Fatalf("replayed %v, %v", moved, err)
	}
	again := f.ready(t, d.ID, 1)
	if len(again) != 1 || *again[0].IdempotencyKey != key || again[0].RetryCount != 0 || again[0].AttemptCount <= item.AttemptCount ||
		string(again[0].Resume) != "half" || !again[0].ExpiresAt.After(time.Now().Add(50*time.Minute)) {
		t.Fatalf("ready = %+v", again)
	}
	// The result of the time before the replay finds its row changed.
	late := f.record(t, &Outcomes{Undelivered: []Undelivered{{ID: item.ID, AttemptCount: item.AttemptCount + 1, Object: []byte("{}"), Dead: true}}})
	if len(late.Undelivered) != 0 {
		t.Error("a late result killed the replayed row")
	}
	rows, err := f.DeliveryItems(t.Context(), "acme", sub.DeliveryID)
	if err != nil || len(rows) != 1 {
		t.Fatalf("%v, %v", rows, err)
	}
	var attempts []map[string]any
	if err := json.Unmarshal([]byte(rows[0].Log.Attempts), &attempts); err != nil {
		t.Fatal(err)
	}
	if len(attempts) != 2 || attempts[0]["code"] != "smtp.550" || attempts[1]["event"] != "replay" || attempts[1]["by"] != "ops" || rows[0].Log.Status != "retrying" {
		t.Errorf("log %s: %v", rows[0].Log.Status, attempts)
	}
	if n := query[int](t, f, "select count(*) from deliveries where delivery_id = $1", sub.DeliveryID); n != 1 {
		t.Errorf("the view shows a replayed delivery %d times", n)
	}
}

func TestReplayOfManyGoesInBoundedBatchesAndEnds(t *testing.T) {
	t.Parallel()
	f := open(t)
	d, other := f.destination(t, "acme", "one"), f.destination(t, "acme", "two")
	const n = 25
	for i := range n {
		f.submit(t, "acme", d.ID)
		if i < 3 {
			f.submit(t, "acme", other.ID)
		}
	}
	for i, it := range f.ready(t, d.ID, n) {
		f.kill(t, fmt.Sprintf("HTTP 4%02d refused", i%2), it)
	}
	f.kill(t, "x", f.ready(t, other.ID, 3)...)
	now, err := f.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reason := "http 401"
	filter := DeadLetterFilter{DestinationID: d.ID, To: now.Add(time.Second), Reason: &reason}
	var sizes []int
	for {
		moved, err := f.ReplayDeadLetters(t.Context(), "acme", filter, "ops", time.Hour, 5, nil)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(moved))
		if len(moved) < 5 {
			break
		}
	}
	if fmt.Sprint(sizes) != "[5 5 2]" {
		t.Errorf("batches %v", sizes)
	}
	if left := query[int](t, f, "select count(*) from delivery_queue where status = 'failed'"); left != n-12+3 {
		t.Errorf("%d dead letters left", left)
	}
}

func TestExpireWaitingLeavesWhatHasTimeOrIsInFlight(t *testing.T) {
	t.Parallel()
	f := open(t)
	d := f.destination(t, "acme", "one")
	for range 30 {
		f.submit(t, "acme", d.ID)
	}
	items := f.ready(t, d.ID, 30)
	for i, it := range items {
		if i%3 == 0 {
			f.exec(t, "update delivery_queue set expires_at = now() - interval '1 minute' where id = $1", it.ID)
		}
		if i%3 == 1 {
			f.exec(t, "update delivery_queue set expires_at = null where id = $1", it.ID)
		}
	}
	inFlight := []string{items[0].ID}
	total, from := 0, WalkFromStart()
	for page := 0; ; page++ {
		n, next, done, err := f.ExpireWaiting(t.Context(), d.ID, from, time.Hour, 7, "expired", inFlight)
		if err != nil || page > 10 {
			t.Fatal(page, err)
		}
		total, from = total+n, next
		if done {
			break
		}
	}
	if total != 9 {
		t.Errorf("%d expired, want 9", total)
	}
	if n := query[int](t, f, "select count(*) from delivery_logs where status = 'failed' and failure_reason = 'expired'"); n != 9 {
		t.Errorf("%d log rows", n)
	}
	// Rows without a time of their own end with the destination's.
	n, _, _, err := f.ExpireWaiting(t.Context(), d.ID, WalkFromStart(), time.Nanosecond, 100, "expired", nil)
	if err != nil || n != 11 {
		t.Errorf("%d expired, %v; want the one that was in flight and 10 without a time", n, err)
	}
	_, err = f.DeliveryItems(t.Context(), "acme", "dlv_unknown")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("err = %v", err)
	}
}
