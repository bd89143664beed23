package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"
)

func (f *fixture) logRow(t *testing.T, id string, age time.Duration) {
	t.Helper()
	f.exec(t, `insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, created_at)
		values ($1, 1, 'acme', '{}', 'delivered', now() - $2 * interval '1 second')`, id, age.Seconds())
}

func (f *fixture) writeLog(ctx context.Context, id string) error {
	_, err := f.sql.Exec(ctx, `insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status)
		values ($1, 1, 'acme', '{}', 'delivered')`, id)
	return wrap("writing a log row", err)
}

func (f *fixture) partitions(t *testing.T) int {
	t.Helper()
	return query[int](t, f, `select count(*) from pg_inherits where inhparent = 'delivery_logs'::regclass`)
}

func TestPartitionsAreMadeAheadAndDropped(t *testing.T) {
	t.Parallel()
	f := open(t)
	for i := range 10 {
		f.logRow(t, fmt.Sprint("old", i), time.Duration(i)*day)
	}
	before := f.partitions(t)
	made, err := f.EnsureLogPartitions(t.Context(), 3*day, 30*day)
	if err != nil {
		t.Fatal(err)
	}
	// Today and three days ahead, and the nine days before of which rows were there.
	if made != 13 || f.partitions(t) != before+13 {
		t.Errorf("%d partitions made, %d there", made, f.partitions(t)-before)
	}
	if stray := query[int](t, f, "select count(*) from delivery_logs_default"); stray != 0 {
		t.Errorf("%d rows stay in the default partition", stray)
	}
	if all := query[int](t, f, "select count(*) from delivery_logs"); all != 10 {
		t.Errorf("%d rows after the move, want 10", all)
	}
	if again, err := f.EnsureLogPartitions(t.Context(), 3*day, 30*day); err != nil || again != 0 {
		t.Errorf("the second time made %d, %v", again, err)
	}
	if n := query[int](t, f, `select count(*) from pg_inherits i
		join pg_attribute a on a.attrelid = i.inhrelid join pg_attribute p on p.attrelid = i.inhparent and p.attname = a.attname
		where i.inhparent = 'delivery_logs'::regclass and a.attnum > 0 and a.attstattarget <> p.attstattarget`); n != 0 {
		t.Errorf("%d columns of partitions have another statistics target than those of delivery_logs", n)
	}
	// The conflict target of outcomes works across the attached partitions.
	f.exec(t, `insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status)
		values ('x', 1, 'acme', '{}', 'retrying')`)
	f.exec(t, `insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status, created_at)
		select delivery_id, destination_id, organization_id, object_details, 'delivered', created_at from delivery_logs where delivery_id = 'x'
		on conflict (delivery_id, destination_id, created_at) do update set status = excluded.status`)

	f.logRow(t, "ancient", 400*day)
	dropped, err := f.DropLogPartitions(t.Context(), 5*day)
	if err != nil {
		t.Fatal(err)
	}
	// The day on which the retention ends stays whole.
	if left := query[int](t, f, "select count(*) from delivery_logs where delivery_id like 'old%'"); dropped != 4 || left != 6 {
		t.Errorf("%d partitions dropped, %d rows left", dropped, left)
	}
	if n := query[int](t, f, "select count(*) from delivery_logs where delivery_id = 'ancient'"); n != 0 {
		t.Error("an old row of the default partition is still there")
	}
}

func TestPartitionsByManyDaemonsUnderLoad(t *testing.T) {
	t.Parallel()
	f := open(t)
	for i := range 5 {
		f.logRow(t, fmt.Sprint("old", i), time.Duration(i)*day)
	}
	stop := make(chan struct{})
	var load, daemons sync.WaitGroup
	written := 0
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				err := f.writeLog(t.Context(), fmt.Sprint("new", written))
				if err == nil {
					written++
				} else if !errors.Is(err, ErrUnavailable) {
					t.Errorf("a writer that nobody would let try again: %v", err)
				}
			}
		}
	})
	for range 3 {
		daemons.Go(func() {
			for _, err := f.EnsureLogPartitions(t.Context(), 5*day, 30*day); err != nil; _, err = f.EnsureLogPartitions(t.Context(), 5*day, 30*day) {
				if !isLockTimeout(err) {
					t.Error(err)
					return
				}
			}
		})
	}
	daemons.Wait()
	close(stop)
	load.Wait()
	if n := query[int](t, f, "select count(*) from delivery_logs"); n != written+5 {
		t.Errorf("%d log rows, want %d", n, written+5)
	}
}

// TestPartitionsDoNotQueueBehindAReader holds a reader's lock, behind which every
// writer of the log would have to wait for as long as we waited.
func TestPartitionsDoNotQueueBehindAReader(t *testing.T) {
	t.Parallel()
	f := open(t)
	reader, err := f.sql.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(background(t))
	if _, err := reader.Exec(t.Context(), "select count(*) from delivery_logs"); err != nil {
		t.Fatal(err)
	}
	_, err = f.EnsureLogPartitions(t.Context(), day, day)
	if !isLockTimeout(err) || !errors.Is(err, ErrUnavailable) {
		t.Fatalf("err = %v, want a lock timeout that may be tried again", err)
	}
	f.logRow(t, "x", 0)
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.EnsureLogPartitions(t.Context(), day, day); err != nil {
		t.Error(err)
	}
}

func TestSweepsTakeOnlyWhatHadItsTime(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.exec(t, `insert into idempotency_keys (organization_id, idempotency_key, delivery_id, request_hash, created_at)
		select 'acme', 'k' || i, 'd', '\x00', now() - i * interval '1 hour' from generate_series(0, 4999) i`)
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, status, updated_at)
		select s || i, 'acme', i % 7, '{}', now(), s, now() - i * interval '1 hour'
		from generate_series(0, 2999) i, unnest(array['pending', 'processing', 'completed', 'failed']) s`)
	f.exec(t, `insert into audit_log (at, organization_id, actor, action, target_type, target)
		select now() - i * interval '1 hour', 'acme', 'ops', 'destination.pause', 'destination', 'billing' from generate_series(2999, 0, -1) i`)
	for _, sweep := range []struct {
		name string
		run  func(context.Context, time.Duration) (int64, error)
		want int64
	}{{"keys", f.SweepKeys, 4976}, {"dead letters", f.SweepDeadLetters, 2976}, {"completed", f.SweepCompleted, 2976}, {"audit", f.SweepAudit, 2976}} {
		// Half an hour more, so that no row stands on the edge.
		n, err := sweep.run(t.Context(), 23*time.Hour+30*time.Minute)
		if err != nil || n != sweep.want {
			t.Errorf("%s: %d, %v; want %d", sweep.name, n, err, sweep.want)
		}
	}
	for status, want := range map[string]int{"pending": 3000, "processing": 3000, "completed": 24, "failed": 24} {
		if n := query[int](t, f, "select count(*) from delivery_queue where status = $1", status); n != want {
			t.Errorf("%d rows %s, want %d", n, status, want)
		}
	}
}

func TestRunHousekeepingWorksAtOnceAndEnds(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	before := f.partitions(t)
	go func() {
		defer close(ended)
		f.RunHousekeeping(ctx, func() Retention { return Retention{} }, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	limit := background(t)
	for f.partitions(t) < before+8 {
		if limit.Err() != nil {
			t.Fatal("no partitions were made")
		}
	}
	cancel()
	<-ended
}
