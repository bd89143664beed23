package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// gate is the real store behind a door: it counts statements, and lets the test
// hold them up.
type gate struct {
	store  *store.Store
	closed chan struct{} // if set, a statement waits for it
	began  chan int      // gets the rows of each statement

	mu         sync.Mutex
	statements int
	queued     map[string]bool // delivery ids that the service was told of
}

func (g *gate) Submit(ctx context.Context, subs []store.Submission) (store.Submitted, error) {
	rows := 0
	for i := range subs {
		rows += len(subs[i].Items)
	}
	g.mu.Lock()
	g.statements++
	g.mu.Unlock()
	g.began <- rows
	if g.closed != nil {
		<-g.closed
	}
	return g.store.Submit(ctx, subs)
}

func (g *gate) written(subs []store.Submission, done store.Submitted) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range subs {
		if !done.Taken[subs[i].DeliveryID] {
			g.queued[subs[i].DeliveryID] = true
		}
	}
}

func newGate(t *testing.T, closed chan struct{}) (*gate, func(query string) int) {
	t.Helper()
	db := pgtest.New(t)
	s, err := store.Open(t.Context(), store.Options{URL: db.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	pool := db.Pool(t)
	g := &gate{store: s, closed: closed, began: make(chan int, 10_000), queued: map[string]bool{}}
	return g, func(query string) (n int) {
		if err := pool.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func submissionOf(t *testing.T, rows int, payload string) store.Submission {
	t.Helper()
	id, err := newID()
	if err != nil {
		t.Fatal(err)
	}
	sub := store.Submission{DeliveryID: id}
	for i := range rows {
		sub.Items = append(sub.Items, store.NewItem{
			ID: itemID(id, int32(i)), DeliveryID: id, OrganizationID: "acme", DestinationID: int32(i), Payload: payload, Metadata: "{}", ExpiresAfter: time.Hour,
		})
	}
	return sub
}

const (
	goodPayload = `{"type":"t","data":1}`
	badPayload  = `{"type":"t","data":"\u0000"}` // what checkJSON keeps out
)

// TestOnlyTheBadOnesOfABatchFail queues a thousand submissions while both writers
// are held up, three of which the database refuses.
func TestOnlyTheBadOnesOfABatchFail(t *testing.T) {
	t.Parallel()
	door := make(chan struct{})
	g, count := newGate(t, door)
	c := newCoalescer(g, g.written, 20_000, 256<<20)
	const all = 1000
	bad := map[int]bool{3: true, 400: true, 401: true}
	outcomes, ids := make([]outcome, all), make([]string, all)
	var wg sync.WaitGroup
	for i := range all {
		payload := goodPayload
		if bad[i] {
			payload = badPayload
		}
		sub := submissionOf(t, 1, payload)
		ids[i] = sub.DeliveryID
		wg.Go(func() { outcomes[i] = c.submit(t.Context(), sub)[0] })
	}
	close(door)
	wg.Wait()
	c.stop()
	for i, o := range outcomes {
		if bad[i] != errors.Is(o.err, store.ErrBadData) || !bad[i] && o.err != nil {
			t.Errorf("submission %d: %v", i, o.err)
		}
		if g.queued[ids[i]] == bad[i] {
			t.Errorf("submission %d: the service was told %v", i, g.queued[ids[i]])
		}
	}
	if n := count("select count(*) from delivery_queue"); n != all-len(bad) {
		t.Errorf("%d rows, want %d", n, all-len(bad))
	}
}

// TestABadOneCostsFewStatements has one bad submission among 500: halving finds it
// in twice the logarithm, where trying each alone would take 500.
func TestABadOneCostsFewStatements(t *testing.T) {
	t.Parallel()
	g, count := newGate(t, nil)
	c := newCoalescer(g, g.written, 20_000, 256<<20)
	defer c.stop()
	subs := make([]store.Submission, maxRows)
	for i := range subs {
		subs[i] = submissionOf(t, 1, goodPayload)
	}
	subs[123] = submissionOf(t, 1, badPayload)
	for i, o := range c.submit(t.Context(), subs...) {
		if (o.err != nil) != (i == 123) {
			t.Errorf("submission %d: %v", i, o.err)
		}
	}
	if g.statements > 19 {
		t.Errorf("%d statements", g.statements)
	}
	if n := count("select count(*) from delivery_queue"); n != maxRows-1 {
		t.Errorf("%d rows", n)
	}
}

func TestStatementsAreBounded(t *testing.T) {
	t.Parallel()
	door := make(chan struct{})
	g, _ := newGate(t, door)
	c := newCoalescer(g, g.written, 20_000, 256<<20)
	large := `{"data":"` + fill(1<<20) + `"}`
	var wg sync.WaitGroup
	enqueue := func(sub store.Submission) { wg.Go(func() { _ = c.submit(t.Context(), sub) }) }
	for range 60 {
		enqueue(submissionOf(t, 40, goodPayload))
	}
	for range 12 {
		enqueue(submissionOf(t, 1, large))
	}
	enqueue(submissionOf(t, maxRows+100, goodPayload)) // alone it may be larger
	close(door)
	wg.Wait()
	c.stop()
	close(g.began)
	total := 0
	for rows := range g.began {
		if rows > maxRows && rows != maxRows+100 {
			t.Errorf("a statement of %d rows", rows)
		}
		total += rows
	}
	if want := 60*40 + 12 + maxRows + 100; total != want {
		t.Errorf("%d rows in all, want %d", total, want)
	}
}

func fill(n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = 'a' + byte(i%26)
	}
	return string(text)
}

func TestOverloadRefusesAndRecovers(t *testing.T) {
	t.Parallel()
	door := make(chan struct{})
	g, count := newGate(t, door)
	c := newCoalescer(g, g.written, 5, 256<<20)
	var wg sync.WaitGroup
	results := make(chan error, 20)
	submit := func() { wg.Go(func() { results <- c.submit(t.Context(), submissionOf(t, 1, goodPayload))[0].err }) }
	for range writers { // both are held up, with one each
		submit()
		<-g.began
	}
	for range 10 {
		submit()
	}
	// Five fit in the queue; the others are refused at once.
	for range 5 {
		if err := <-results; !errors.Is(err, ErrOverloaded) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("err = %v, want ErrOverloaded", err)
		}
	}
	close(door)
	wg.Wait()
	close(results)
	for err := range results {
		if err != nil {
			t.Error(err)
		}
	}
	if o := c.submit(t.Context(), submissionOf(t, 1, goodPayload))[0]; o.err != nil {
		t.Errorf("after the overload: %v", o.err)
	}
	c.stop()
	if n := count("select count(*) from delivery_queue"); n != writers+5+1 {
		t.Errorf("%d rows", n)
	}
	if o := c.submit(t.Context(), submissionOf(t, 1, goodPayload))[0]; !errors.Is(o.err, ErrUnavailable) {
		t.Errorf("after stop: %v", o.err)
	}
}

// TestWhoGivesUpInTimeQueuesNothing cancels callers before and after a writer took
// what they submitted.
func TestWhoGivesUpInTimeQueuesNothing(t *testing.T) {
	t.Parallel()
	door := make(chan struct{})
	g, count := newGate(t, door)
	c := newCoalescer(g, g.written, 100, 256<<20)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := fmt.Errorf("the client went away")
	taken, waiting := make(chan error, writers), make(chan error, 1)
	for range writers {
		go func() { taken <- c.submit(ctx, submissionOf(t, 1, goodPayload))[0].err }()
		<-g.began
	}
	go func() { waiting <- c.submit(ctx, submissionOf(t, 1, goodPayload))[0].err }()
	for queued := 0; queued == 0; {
		c.mu.Lock()
		queued = len(c.queue)
		c.mu.Unlock()
	}
	cancel(cause)
	for range writers {
		if err := <-taken; !errors.Is(err, cause) {
			t.Errorf("err = %v", err)
		}
	}
	if err := <-waiting; !errors.Is(err, cause) {
		t.Errorf("err = %v", err)
	}
	close(door)
	c.stop()
	// What was under way could not be called back; what waited was not begun.
	if n := count("select count(*) from delivery_queue"); n != writers {
		t.Errorf("%d rows, want %d", n, writers)
	}
}
