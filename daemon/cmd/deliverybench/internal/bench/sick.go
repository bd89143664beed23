package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/figures"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/table"
)

// SickRun is full load at those destinations that are well, while what is queued for the others is not due (the side
// without failures), or is due and the others are down.
type SickRun struct {
	Round int `json:"round"`
	// Down says that what is queued for the others is due.
	Down         bool `json:"down"`
	Destinations int  `json:"destinations"`
	Sick         int  `json:"sick"`
	// Rate is deliveries per second at those that are well, from the moment on at which the others go down.
	Rate    float64   `json:"rate"`
	Windows []float64 `json:"windows"`
	// Arrived is of those that are well.
	Arrived Arrived `json:"arrived"`
	// Queued were for those that are down, and Waiting of them wait at the end: all, or some were lost.
	Queued  int `json:"queued_for_sick"`
	Waiting int `json:"waiting_for_sick"`
	// Attempts at those that are down, as their health says, and how many of their circuit breakers are not closed.
	Attempts int `json:"attempts_at_sick"`
	Broken   int `json:"breakers_not_closed"`
	// Cost is all that is used, by delivery at those that are well: where others use the machine as well, it says more
	// than the rate.
	Cost   Cost   `json:"cost"`
	Others Others `json:"others"`
	// Statements took the most time.
	Statements []Statement `json:"statements,omitempty"`
}

const (
	// sickShare: one destination in five is down.
	sickShare = 5
	// sickWindows is into how many parts a run is divided. The first ones count the most: the longest timeout has not
	// passed yet.
	sickWindows = 8
	// sickFirst and sickMore are what is queued for each that is down: at once, and in each window again.
	sickFirst, sickMore = 100, 10
)

// sick measures both sides in turn, the other one first in every second round.
func (h *harness) sick(ctx context.Context) error {
	refusing, release, err := refusingAddress()
	if err != nil {
		return err
	}
	defer release()
	hook := func(i int) string {
		// The kinds in turn: a refused connection, an answer that is an error, and no answer at all.
		switch {
		case i >= h.SickDestinations/sickShare:
			return h.sink.Hook()
		case i%3 == 0:
			return "http://" + refusing + "/hook"
		case i%3 == 1:
			return h.sink.Failing()
		}
		return h.sink.Hanging()
	}
	for round := 1; round <= h.Rounds; round++ {
		for i := range 2 {
			run := SickRun{Round: round, Down: (i+round)%2 == 0, Destinations: h.SickDestinations, Sick: h.SickDestinations / sickShare}
			with := h.uniform(webhook, Shape{Destinations: h.SickDestinations, Concurrency: sickConcurrency})
			uniform := with.configure
			with.configure = func(c *daemonConfig) {
				uniform(c)
				c.hooks = hook
			}
			err := h.withSetup(ctx, with, func(ctx context.Context, d *daemon) error { return h.sickRun(ctx, d, &run) })
			h.result.Sick = append(h.result.Sick, run)
			h.Log.Info("sick", "round", round, "down", run.Down, "rate", int(run.Rate), "windows", fmt.Sprintf("%.0f", run.Windows),
				"attempts_at_sick", run.Attempts, "breakers_not_closed", run.Broken)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sickConcurrency is what a destination has that says nothing about it.
const sickConcurrency = 32

// refusingAddress returns a loopback address whose port is taken and which refuses every connection.
func refusingAddress() (address string, release func(), err error) {
	fail := func(err error) (string, func(), error) { return "", nil, fmt.Errorf("taking a port: %w", err) }
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return fail(err)
	}
	release = func() { _ = syscall.Close(socket) }
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		release()
		return fail(err)
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		release()
		return fail(err)
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(name.(*syscall.SockaddrInet4).Port)), release, nil
}

func (h *harness) sickRun(ctx context.Context, d *daemon, run *SickRun) error {
	down := d.destinations[:run.Sick]
	d.destinations = d.destinations[run.Sick:]
	s, err := h.startSteady(ctx, d, 0)
	if err != nil {
		return err
	}
	if err := h.sickWindows(ctx, s, down, run); err != nil {
		return errors.Join(err, s.stop())
	}
	if err := s.stop(); err != nil {
		return fmt.Errorf("feeding the queue: %w", err)
	}
	fed := int(s.feeder.fed.Load())
	if _, err := h.awaitReceived(ctx, fed); err != nil && !errors.Is(err, errStalled) {
		return err
	}
	if err := d.awaitLogged(ctx, fed); err != nil {
		return err
	}
	if run.Arrived, err = h.arrived(ctx, d, fed); err != nil {
		return err
	}
	if err := d.lookAtSick(ctx, down, run); err != nil {
		return err
	}
	if run.Statements, err = h.pg.top(ctx, d.database); err != nil {
		return err
	}
	// What hangs would have to end before the daemon does.
	return h.sink.Release(ctx)
}

func (h *harness) sickWindows(ctx context.Context, s *steady, down []int32, run *SickRun) (err error) {
	if _, err = s.watch(ctx, h.WarmUp, h.WarmUp, nil); err != nil {
		return err
	}
	// Queueing costs the same on both sides; without failures, what is queued is not due.
	due := time.Now().Add(24 * time.Hour)
	if run.Down {
		due = time.Now()
	}
	queue := func(each int) error {
		run.Queued += each * len(down)
		return h.insert(ctx, s.d.conn, down, 0, each*len(down), due)
	}
	if err := queue(sickFirst); err != nil {
		return err
	}
	from, err := h.sample(ctx, s.d.database, s.d)
	if err != nil {
		return err
	}
	before, err := s.poll(ctx)
	if err != nil {
		return err
	}
	run.Windows, err = s.watch(ctx, h.Sick, h.Sick/sickWindows, func() error { return queue(sickMore) })
	if err != nil {
		return err
	}
	to, err := h.sample(ctx, s.d.database, s.d)
	if err != nil {
		return err
	}
	after, err := s.poll(ctx)
	run.Rate, run.Others, run.Cost = mean(run.Windows), others(from, to, 0), cost(from, to, int(max(after-before, 1)))
	return err
}

// awaitLogged waits until the log has n deliveries that arrived, or nothing comes any more.
func (d *daemon) awaitLogged(ctx context.Context, n int) error {
	seen, changed := -1, time.Now()
	return every(ctx, pollReceiver, func() (bool, error) {
		logged, err := d.logged(ctx)
		if logged != seen {
			seen, changed = logged, time.Now()
		}
		return logged >= n || time.Since(changed) > stallTimeout, err
	})
}

const sickSQL = ownMark + `
select (select count(*) from delivery_queue where destination_id = any($1) and status in ('pending', 'processing')),
  coalesce(sum(total_deliveries), 0), count(*) filter (where circuit_breaker_state <> 'closed')
from destination_health where destination_id = any($1)`

func (d *daemon) lookAtSick(ctx context.Context, down []int32, run *SickRun) error {
	if err := d.conn.QueryRow(ctx, sickSQL, down).Scan(&run.Waiting, &run.Attempts, &run.Broken); err != nil {
		return fmt.Errorf("looking at those that are down: %w", err)
	}
	return nil
}

// sickRatios are, by round, the rate while destinations are down against that without, the same of the worst window, and
// the CPU of a delivery without against that while they are down, which others on the machine do not change as much.
func (r *Result) sickRatios() (rates, worst, cpu []float64) {
	well := map[int]SickRun{}
	for _, run := range r.Sick {
		if !run.Down {
			well[run.Round] = run
		}
	}
	for _, run := range r.Sick {
		if base := well[run.Round]; run.Down && base.Rate > 0 {
			rates = append(rates, run.Rate/base.Rate)
			worst = append(worst, figures.Percentile(run.Windows, 0)/base.Rate)
			cpu = append(cpu, base.Cost.Total()/max(run.Cost.Total(), 1e-9))
		}
	}
	return rates, worst, cpu
}

func (r *Result) judgeSick() {
	rates, _, _ := r.sickRatios()
	if len(rates) == 0 {
		return
	}
	one := r.Sick[0]
	r.Goals = append(r.Goals, atLeast(fmt.Sprintf("%d of %d destinations down: rate of the others against no failures", one.Sick, one.Destinations),
		figures.Median(rates), 0.9, "times"))
}

func (r *Result) sickTable() *table.Table {
	if len(r.Sick) == 0 {
		return nil
	}
	one := r.Sick[0]
	t := table.New(fmt.Sprintf("Full load at %d destinations for %.0f s while %d others are idle or down", one.Destinations-one.Sick, r.Options.SickS, one.Sick),
		"the others", "rate/s", "lost", "dup", "attempts at them", "breakers not closed", "of queued", "waiting", "daemon", "plugin", "PostgreSQL µs", "others cores", "rate by window")
	for _, run := range r.Sick {
		name, windows := map[bool]string{false: "idle", true: "down"}[run.Down], ""
		for _, rate := range run.Windows {
			windows += " " + thousands(rate)
		}
		t.Row(fmt.Sprintf("%s, round %d", name, run.Round), thousands(run.Rate), fmt.Sprint(run.Arrived.Lost), fmt.Sprint(run.Arrived.Duplicates),
			fmt.Sprint(run.Attempts), fmt.Sprint(run.Broken), fmt.Sprint(run.Queued), fmt.Sprint(run.Waiting),
			decimals(run.Cost.Daemon, 1), decimals(run.Cost.Plugin, 1), decimals(run.Cost.Postgres, 1), decimals(run.Others.Busy, 2), windows)
	}
	rates, worst, cpu := r.sickRatios()
	t.Note(fmt.Sprintf("Down against idle, median of the rounds: %s; the worst window: %s. CPU of a delivery, idle against down: %s.",
		decimals(figures.Median(rates), 2), decimals(figures.Median(worst), 2), decimals(figures.Median(cpu), 2)))
	t.Note("A third of those that are down refuses connections, a third answers 500, a third accepts and never answers.")
	return t
}

// sickProblems name what was lost at either kind of destination.
func (r *Result) sickProblems() (all []string) {
	for _, run := range r.Sick {
		what := fmt.Sprintf("sick, round %d (down: %v)", run.Round, run.Down)
		all = append(all, run.Arrived.problem(what)...)
		if run.Waiting != run.Queued {
			all = append(all, fmt.Sprintf("%s: of %d deliveries for those that are down %d wait", what, run.Queued, run.Waiting))
		}
	}
	return all
}
