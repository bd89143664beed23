package check_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/check"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// world plays store, registry and engine.
type world struct {
	mu      sync.Mutex
	changed chan struct{}
	rows    []store.Check
	mine    []int32
	answers map[int32]error // nil: passes
	said    []string
	running int
	highest int
}

var errRefused = errors.New("refused")

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf(format, args...))
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *world) Checks(_ context.Context, _ time.Duration, f func(store.Check)) error {
	for _, row := range w.rows {
		f(row)
	}
	return nil
}

func (w *world) Checked(_ context.Context, id int32) error {
	w.note("well %d", id)
	return nil
}

func (w *world) Get(_ context.Context, id int32) (*destination.Destination, error) {
	return &destination.Destination{ID: id, Settings: destination.Settings{}.WithDefaults()}, nil
}

func (w *world) Check(_ context.Context, d *destination.Destination) (bool, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running++
	w.highest = max(w.highest, w.running)
	defer func() { w.running-- }()
	err := w.answers[d.ID]
	if errors.Is(err, errRefused) {
		return false, "tcp: refused", nil
	}
	return err == nil, "", err
}

type lanes struct{ *world }

func (l lanes) Mine(_ context.Context, ids []int32) ([]int32, error) {
	return slices.DeleteFunc(ids, func(id int32) bool { return !slices.Contains(l.mine, id) }), nil
}

func (l lanes) Checked(id int32, ok bool, reason string) { l.note("%d %v %s", id, ok, reason) }

func TestChecksWhatIsDueAndItsOwn(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	w := &world{
		changed: make(chan struct{}, 1),
		rows: []store.Check{
			{ID: 1, Settings: "{}", Since: hour},             // idle
			{ID: 2, Settings: "{}", Since: 10 * time.Minute}, // heard of lately
			{ID: 3, Settings: "{}", Bad: true, Since: hour},
			{ID: 4, Settings: "{}", Bad: true, Since: hour}, // another daemon's
			{ID: 5, Settings: `{"interval": "-1ns"}`, Bad: true, Since: hour},
			{ID: 6, Settings: `{"idle": "5m"}`, Since: 10 * time.Minute},
			{ID: 7, Settings: `{"idle"`, Since: hour}, // another program wrote it
			{ID: 8, Settings: "{}", Bad: true, Since: hour},
			{ID: 9, Settings: "{}", Bad: true, Since: hour},
		},
		mine: []int32{1, 2, 3, 5, 6, 7, 8, 9},
		answers: map[int32]error{
			3: nil, 6: errRefused, 8: destination.ErrTransportUnavailable, 9: &destination.ConfigError{Destination: "acme/x", Err: errors.New("no key")},
		},
	}
	c := check.New(check.Options{
		Store: w, Destinations: w, Lanes: lanes{w}, Every: time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		Defaults: func() destination.Settings { return destination.Settings{} },
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	want := []string{"3 true ", "6 false tcp: refused", "9 false the configuration of acme/x cannot be used: no key", "well 1", "well 7"}
	limit := time.After(30 * time.Second)
	for {
		w.mu.Lock()
		got := slices.Sorted(slices.Values(w.said))
		w.mu.Unlock()
		if len(got) >= len(want) {
			if !slices.Equal(got, want) {
				t.Errorf("checks said\n%q, want\n%q", got, want)
			}
			break
		}
		select {
		case <-w.changed:
		case <-limit:
			t.Fatalf("checks said only %q", got)
		}
	}
	stop()
	<-done
}
