package pluginhost

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// exitGrace is how long a process that was told to stop may take.
	exitGrace = 2 * time.Second
	// abortGrace is how long a hung process may take to print its stacks.
	abortGrace = 2 * time.Second
)

// process is one plugin process that answers calls.
type process struct {
	name     string
	child    *child
	client   *plugin.Client
	protocol *plugin.GRPCClient
	conn     *grpc.ClientConn
	rpc      transportv1.TransportClient
	describe *transportv1.DescribeResponse
	binary   *binary
	log      *pluginLog
	started  time.Time
	// egress is the policy of instances that have none of their own.
	egress *transportv1.EgressPolicy

	graceAfterDeadline time.Duration
	counters           *counters
	condemned          chan string  // reasons to kill it; buffered
	unanswered         atomic.Int32 // calls in a row cut at their deadline without any result
	answered           atomic.Int64 // when the last result of any call came, ns since 1970
	refusals           atomic.Pointer[refusals]
	// opened is what complete has opened; only its caller uses it.
	opened map[instanceKey]*transportv1.OpenRequest

	mu      sync.Mutex
	calls   int
	closed  bool
	idle    chan struct{} // closed when closed is set and no call is left
	itemsIn atomic.Int64
}

func (p *process) saying() string {
	if words := p.log.lastWords(); words != "" {
		return ": " + words
	}
	return ""
}

// Exit tells how a process ended.
type Exit struct {
	// At is when it was noticed.
	At time.Time
	// Status of the exit, -1 when a signal ended it.
	Status int
	// Signal that ended it; empty when it exited by itself.
	Signal string
	// Reason for people, with the last lines of its standard error.
	Reason string
}

// exit tells how the process ended; child.gone must be closed.
func (p *process) exit() Exit {
	exit := Exit{At: p.child.endedAt, Status: -1}
	how := "ended"
	if p.child.state != nil {
		exit.Status = p.child.state.ExitCode()
		how = fmt.Sprintf("exited with status %d", exit.Status)
		if wait, ok := p.child.state.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
			exit.Signal = wait.Signal().String()
			how = fmt.Sprintf("was ended by signal %d (%s)", int(wait.Signal()), exit.Signal)
		}
	}
	exit.Reason = how + p.saying()
	return exit
}

// acquire counts a call that is about to begin; false means that the process
// takes no more.
func (p *process) acquire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.calls++
	return true
}

func (p *process) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls--
	if p.closed && p.calls == 0 {
		close(p.idle)
	}
}

// close lets no more calls begin.
func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	if p.calls == 0 {
		close(p.idle)
	}
}

// retire drains the process and stops it. It is for its whole life the last
// thing that is done with it.
func (p *process) retire(hard context.Context, drain time.Duration) {
	p.close()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-p.idle:
	case <-timer.C:
	case <-p.child.gone:
	case <-hard.Done():
	}
	p.stop(hard)
}

// stop asks the process to go, by the lifeline that every SDK watches and by
// go-plugin's own Shutdown, and kills it if it does not.
func (p *process) stop(hard context.Context) {
	p.child.closeLifeline()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_ = p.protocol.Close() // waits for the answer or for the process's end
	}()
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	select {
	case <-p.child.gone:
	case <-timer.C:
	case <-hard.Done():
	}
	p.child.signal(syscall.SIGKILL)
	<-p.child.gone
	<-asked
	p.destroy()
}

// abort kills a process that is of no use any more, but lets it print its
// stacks first: Go does on SIGABRT.
func (p *process) abort() {
	p.child.signal(syscall.SIGABRT)
	timer := time.NewTimer(abortGrace)
	defer timer.Stop()
	select {
	case <-p.child.gone:
	case <-timer.C:
		p.child.signal(syscall.SIGKILL)
	}
}

// destroy removes whatever is left of a process, dead or alive.
func (p *process) destroy() {
	if p.child == nil {
		return
	}
	_ = p.child.Kill(context.Background())
	if p.protocol != nil {
		_ = p.protocol.Close()
	}
	p.client.Kill() // waits for go-plugin's goroutines
	_ = os.RemoveAll(p.child.dir)
}

// memory gives the resident bytes; 0 when they cannot be read.
func (p *process) memory() int64 {
	var size, resident int64
	statm, err := os.ReadFile(filepath.Join("/proc", p.child.ID(), "statm"))
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
