package pluginhost

import (
	"maps"
	"slices"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost/supervision"
)

// State of a transport.
type State = supervision.State

// The states, as package supervision explains them.
const (
	Starting = supervision.Starting
	Ready    = supervision.Ready
	Degraded = supervision.Degraded
	Backoff  = supervision.Backoff
	Failed   = supervision.Failed
	Draining = supervision.Draining
)

// Status of one transport, for people, the API and metrics.
type Status struct {
	// Name of the transport.
	Name string
	// Version that the plugin gave; empty when it never was ready.
	Version string
	// Path of the file in the plugin directory.
	Path string
	// SHA256 of the binary in use, hexadecimal; empty when none is.
	SHA256 string
	// State of the process.
	State State
	// Reason why the state is not ready; empty when it is.
	Reason string
	// PID of the process; 0 when there is none.
	PID int
	// StartedAt is when the process was started; zero when there is none.
	StartedAt time.Time
	// Restarts since the host started, swaps included.
	Restarts int
	// Instances that the host keeps open in the process.
	Instances int
	// Refused is how many of Instances the process does not serve, because it
	// refused to open them again or died of it.
	Refused int
	// InFlight is the number of items at work.
	InFlight int
	// MemoryBytes that are resident; 0 when there is no process.
	MemoryBytes int64
	// LastExit tells how the last process ended that was not told to; nil when
	// there was none.
	LastExit *Exit
	// LogLinesDropped of the present process, because it wrote too many.
	LogLinesDropped uint64
	// Missing counts items that a Deliver left without a result.
	Missing uint64
	// Strays counts results that had to be dropped: unknown, repeated or
	// without an outcome.
	Strays uint64
	// Clipped counts results that had fields beyond their bounds.
	Clipped uint64
}

// Transports gives the status of each transport, sorted by name. Files that
// cannot be plugins are in the error for an unknown transport and in the log.
func (h *Host) Transports() []Status {
	transports := h.table.Load().transports
	all := make([]Status, 0, len(transports))
	for _, name := range slices.Sorted(maps.Keys(transports)) {
		all = append(all, transports[name].status())
	}
	return all
}

func (s *supervisor) status() Status {
	p := s.serving.Load()
	status := Status{
		Name: s.name, Path: s.path,
		Missing: s.counters.missing.Load(), Strays: s.counters.strays.Load(), Clipped: s.counters.clipped.Load(),
	}
	s.mu.Lock()
	status.State, status.Reason = s.machine.State(), s.machine.Reason()
	status.Restarts = max(s.starts-1, 0)
	status.Instances = len(s.instances)
	status.Version = s.described.GetVersion()
	if s.binary != nil {
		status.SHA256 = s.binary.sha256
	}
	if s.lastExit != nil {
		exit := *s.lastExit
		status.LastExit = &exit
	}
	s.mu.Unlock()
	if p != nil {
		status.PID, status.StartedAt = p.child.pid(), p.started
		status.InFlight = int(p.itemsIn.Load())
		status.LogLinesDropped = p.log.droppedLines()
		status.MemoryBytes = p.memory()
		if refused := p.refusals.Load(); refused != nil {
			status.Refused = len(refused.reasons)
		}
	}
	return status
}
