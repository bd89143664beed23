package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// patience bounds every wait: a machine that is busy with other tests is slow.
const patience = time.Minute

// fixture is an engine's surroundings: a real database, destinations in it, and a
// plugin that the test plays.
type fixture struct {
	t     *testing.T
	db    *pgtest.Database
	pool  *pgxpool.Pool
	store *store.Store
	fake  *fakeTransport
	dests *fakeDestinations
}

// eachWay runs a test over a direct connection and through PgBouncer in transaction
// mode. Neither has LISTEN: nobody tells the engine of rows that were inserted by
// SQL, so polling is all that these tests have.
func eachWay(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Parallel()
	for name, pooler := range map[string]bool{"direct": false, "pgbouncer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newFixture(t, pooler))
		})
	}
}

func newFixture(t *testing.T, pooler bool) *fixture {
	t.Helper()
	db := pgtest.New(t)
	o := store.Options{URL: db.URL}
	if pooler {
		o = store.Options{URL: pgtest.PgBouncer(t, db.TCPURL), Pooler: true}
	}
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &fixture{
		t: t, db: db, pool: db.Pool(t), store: s,
		fake:  &fakeTransport{attempts: map[string]int{}, gates: map[string]chan struct{}{}},
		dests: &fakeDestinations{byID: map[int32]*destination.Destination{}},
	}
}

// destination inserts a destination; its id is the next serial.
func (f *fixture) destination(s destination.Settings) *destination.Destination {
	f.t.Helper()
	d := &destination.Destination{OrganizationID: "acme", Label: uuid.NewString(), Type: "fake", Generation: 1, Settings: s.WithDefaults()}
	err := f.pool.QueryRow(f.t.Context(), `insert into delivery_destinations (organization_id, type, label, config)
		values ($1, $2, $3, '{}') returning id`, d.OrganizationID, d.Type, d.Label).Scan(&d.ID)
	if err != nil {
		f.t.Fatal(err)
	}
	f.dests.put(d)
	return d
}

// start runs an engine until the test ends.
func (f *fixture) start(change ...func(*engine.Options)) *engine.Engine {
	f.t.Helper()
	e, stop := f.startOne(change...)
	f.t.Cleanup(stop)
	return e
}

func (f *fixture) startOne(change ...func(*engine.Options)) (*engine.Engine, func()) {
	f.t.Helper()
	o := engine.Options{DaemonID: uuid.NewString(), Host: "test", Version: "test", Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil))}
	for _, c := range change {
		c(&o)
	}
	e := engine.New(o, f.store, f.dests, f.fake)
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background()) }()
	return e, sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			f.t.Errorf("stopping the engine: %v", err)
		}
		if err := <-done; err != nil {
			f.t.Errorf("engine: %v", err)
		}
	})
}

// insert queues rows as a producer with nothing but SQL would.
func (f *fixture) insert(d *destination.Destination, n int, columns string, values string) []string {
	f.t.Helper()
	prefix := uuid.NewString()[:8]
	if columns != "" {
		columns, values = ", "+columns, ", "+values
	}
	sql := fmt.Sprintf(`insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at%s)
		select $1 || '-' || lpad(i::text, 6, '0'), $2, $3, jsonb_build_object('type', 'test.event', 'data', jsonb_build_object('n', i)), now()%s
		from generate_series(1, $4) i`, columns, values)
	if _, err := f.pool.Exec(f.t.Context(), sql, prefix, d.OrganizationID, d.ID, n); err != nil {
		f.t.Fatal(err)
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%06d", prefix, i+1)
	}
	return ids
}

// eventually waits until the query's one value is want.
func (f *fixture) eventually(want string, query string, args ...any) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	var got string
	for {
		if err := f.pool.QueryRow(f.t.Context(), "select coalesce(("+query+")::text, 'null')", args...).Scan(&got); err != nil {
			f.t.Fatal(err)
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%s: got %s, want %s", query, got, want)
		}
		select {
		case <-f.t.Context().Done():
			f.t.Fatal(f.t.Context().Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (f *fixture) one(query string, args ...any) string {
	f.t.Helper()
	var got string
	if err := f.pool.QueryRow(f.t.Context(), "select coalesce(("+query+")::text, 'null')", args...).Scan(&got); err != nil {
		f.t.Fatal(err)
	}
	return got
}

// fakeDestinations serves destinations from memory and opens them at once.
type fakeDestinations struct {
	mu       sync.Mutex
	byID     map[int32]*destination.Destination
	disabled []string
	released []string
	openErr  error
}

func (d *fakeDestinations) put(dest *destination.Destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byID[dest.ID] = dest
}

func (d *fakeDestinations) Get(_ context.Context, id int32) (*destination.Destination, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if dest, ok := d.byID[id]; ok {
		return dest, nil
	}
	return nil, store.ErrNotFound
}

func (d *fakeDestinations) Open(_ context.Context, dest *destination.Destination) (*transportv1.InstanceRef, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.openErr != nil {
		return nil, d.openErr
	}
	return &transportv1.InstanceRef{Id: fmt.Sprint(dest.ID), Generation: uint64(dest.Generation)}, nil
}

func (d *fakeDestinations) Release(_ string, ref *transportv1.InstanceRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.released = append(d.released, fmt.Sprintf("%s/%d", ref.GetId(), ref.GetGeneration()))
}

func (d *fakeDestinations) Disable(_ context.Context, id int32, reason string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disabled = append(d.disabled, fmt.Sprintf("%d: %s", id, reason))
	return nil
}

// fakeTransport is a plugin that the test plays: answer decides on each item.
type fakeTransport struct {
	mu       sync.Mutex
	answer   func(item *transportv1.Item, instance *transportv1.InstanceRef) *transportv1.Result
	attempts map[string]int
	order    []string
	gates    map[string]chan struct{}
	running  map[string]int // by instance
	highest  map[string]int
	uploaded map[string]upload
	// halfUpload answers an upload whose body has broken off. Defaults to an error.
	halfUpload func(*transportv1.Item) *transportv1.Result
	// capabilities of the plugin. Defaults to batches of 32 and no uploads.
	capabilities *transportv1.Capabilities
	lost         int // so many items get no result
}

func (f *fakeTransport) Describe(string) (*transportv1.DescribeResponse, error) {
	capabilities := f.capabilities
	if capabilities == nil {
		capabilities = &transportv1.Capabilities{MaxBatch: 32}
	}
	return &transportv1.DescribeResponse{Name: "fake", Capabilities: capabilities}, nil
}

func (f *fakeTransport) Deliver(ctx context.Context, _ string, req *transportv1.DeliverRequest, results func([]*transportv1.Result)) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var missing []string
	for _, item := range req.GetItems() {
		if f.lose() {
			missing = append(missing, item.GetId())
			continue
		}
		ref := req.GetInstances()[item.GetInstance()]
		wg.Go(func() {
			r := f.attempt(ctx, item, ref)
			mu.Lock()
			defer mu.Unlock()
			results([]*transportv1.Result{r})
		})
	}
	wg.Wait()
	if len(missing) > 0 {
		return &pluginhost.IncompleteError{Transport: "fake", Missing: missing, Err: errors.New("as the test says")}
	}
	return nil
}

// lose reports whether an item is to get no result.
func (f *fakeTransport) lose() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost == 0 {
		return false
	}
	f.lost--
	return true
}

func (f *fakeTransport) attempt(ctx context.Context, item *transportv1.Item, ref *transportv1.InstanceRef) *transportv1.Result {
	f.mu.Lock()
	if f.running == nil {
		f.running, f.highest = map[string]int{}, map[string]int{}
	}
	f.attempts[item.GetId()]++
	f.order = append(f.order, item.GetId())
	f.running[ref.GetId()]++
	f.highest[ref.GetId()] = max(f.highest[ref.GetId()], f.running[ref.GetId()])
	gate := f.gates[ref.GetId()]
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	f.mu.Lock()
	answer := f.answer // as it is when the attempt ends
	f.mu.Unlock()
	result := success(item.GetId())
	if answer != nil {
		result = answer(item, ref)
	}
	f.mu.Lock()
	f.running[ref.GetId()]--
	f.mu.Unlock()
	return result
}

// begun is the number of attempts that have come here, which may be fewer than the
// engine has begun.
func (f *fakeTransport) begun() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.order)
}

func (f *fakeTransport) count(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.attempts[id]
}

func success(id string) *transportv1.Result {
	return &transportv1.Result{Id: id, Outcome: &transportv1.Result_Success{Success: &transportv1.Success{Status: 200, Reference: "ref-" + id}}}
}

func failure(id string, class transportv1.Failure_Class, code string) *transportv1.Result {
	return &transportv1.Result{Id: id, Outcome: &transportv1.Result_Failure{Failure: &transportv1.Failure{
		Class: class, Code: code, Message: "as the test says", Excerpt: []byte("answer of " + strings.ToLower(code)),
	}}}
}

// Upload takes the body of an item whole.
func (f *fakeTransport) Upload(ctx context.Context, _ string, header *transportv1.UploadHeader, body io.Reader) (*transportv1.Result, error) {
	content, err := io.ReadAll(body)
	if err != nil && f.halfUpload != nil {
		return f.halfUpload(header.GetItem()), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	f.mu.Lock()
	if f.uploaded == nil {
		f.uploaded = map[string]upload{}
	}
	f.uploaded[header.GetItem().GetId()] = upload{header.GetItem(), header.GetDigestChecked(), content}
	f.mu.Unlock()
	return f.attempt(ctx, header.GetItem(), header.GetInstance()), nil
}

// upload is what came by one.
type upload struct {
	item    *transportv1.Item
	checked bool // its digest, by the daemon
	body    []byte
}
