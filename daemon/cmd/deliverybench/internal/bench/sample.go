package bench

import (
	"context"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/proc"
)

// sample is what everybody has used up to a moment.
type sample struct {
	at time.Time
	counters
	postgres, receiver, daemon, plugin, bench time.Duration
	load                                      proc.Load
}

// sample reads all counters; d is nil where no daemon runs.
func (h *harness) sample(ctx context.Context, database string, d *daemon) (s sample, err error) {
	if s.counters, err = h.pg.counters(ctx, database); err != nil {
		return s, err
	}
	if s.postgres, err = proc.System.TreeCPU(h.pg.cluster.PID()); err != nil {
		return s, err
	}
	if s.receiver, err = processCPU(h.receiver.PID()); err != nil {
		return s, err
	}
	if s.bench, err = processCPU(selfPID()); err != nil {
		return s, err
	}
	if d != nil {
		if s.daemon, s.plugin, err = d.cpu(); err != nil {
			return s, err
		}
	}
	s.load, err = proc.System.Load()
	s.at = time.Now()
	return s, err
}

// processCPU is that of a process without its children.
func processCPU(pid int) (time.Duration, error) {
	stat, err := proc.System.Stat(pid)
	return stat.CPU, err
}

// Cost is what one delivery cost.
type Cost struct {
	// CPU time by process, µs.
	Daemon   float64 `json:"daemon_us"`
	Plugin   float64 `json:"plugin_us"`
	Receiver float64 `json:"receiver_us"`
	Postgres float64 `json:"postgres_us"`
	// WALBytes is what PostgreSQL wrote into its log.
	WALBytes float64 `json:"wal_bytes"`
	// Statements is 0 where pg_stat_statements is not installed.
	Statements   float64 `json:"statements"`
	Transactions float64 `json:"transactions"`
}

// Total is the CPU time of all processes, µs.
func (c Cost) Total() float64 { return c.Daemon + c.Plugin + c.Receiver + c.Postgres }

// cost divides what was used between two samples by n.
func cost(from, to sample, n int) Cost {
	per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	return Cost{
		Daemon: per(to.daemon - from.daemon), Plugin: per(to.plugin - from.plugin), Receiver: per(to.receiver - from.receiver),
		Postgres: per(to.postgres - from.postgres), WALBytes: float64(to.wal-from.wal) / float64(n),
		Statements:   (to.statements - from.statements) / float64(n),
		Transactions: (to.transactions - from.transactions) / float64(n),
	}
}

// Others is what processes outside of the measurement took of the machine meanwhile, in cores.
type Others struct {
	// Busy is what other processes of this machine used; the work that the kernel does for nobody counts, too.
	Busy float64 `json:"busy_cores"`
	// Stolen is what other guests of the host took.
	Stolen float64 `json:"stolen_cores"`
}

// others compares the whole machine with what is measured; known is the CPU time of further processes that belong to it.
func others(from, to sample, known time.Duration) Others {
	ours := to.postgres - from.postgres + to.receiver - from.receiver + to.daemon - from.daemon +
		to.plugin - from.plugin + to.bench - from.bench + known
	elapsed := to.at.Sub(from.at).Seconds()
	if elapsed <= 0 {
		return Others{}
	}
	busy := (to.load.Busy - from.load.Busy - ours).Seconds() / elapsed
	return Others{Busy: max(busy, 0), Stolen: (to.load.Stolen - from.load.Stolen).Seconds() / elapsed}
}
