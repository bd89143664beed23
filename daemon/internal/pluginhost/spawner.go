package pluginhost

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// spawner starts all processes from one operating system thread that lives as
// long as the host. Linux sends the parent-death signal when the *thread* that
// forked ends, and Go ends threads as it likes; a locked goroutine per start
// would do too, but leak a thread with each restart.
type spawner struct {
	requests chan spawnRequest
	done     chan struct{}
}

type spawnRequest struct {
	build  func() *exec.Cmd
	result chan spawned
}

type spawned struct {
	cmd *exec.Cmd
	err error
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan spawnRequest), done: make(chan struct{})}
	go s.loop()
	return s
}

func (s *spawner) loop() {
	defer close(s.done)
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	for request := range s.requests {
		cmd, err := startRetrying(request.build)
		request.result <- spawned{cmd, err}
	}
}

// start starts the command that build makes. build may be called several
// times: an exec.Cmd cannot be started twice.
func (s *spawner) start(build func() *exec.Cmd) (*exec.Cmd, error) {
	result := make(chan spawned, 1)
	s.requests <- spawnRequest{build: build, result: result}
	started := <-result
	return started.cmd, started.err
}

// stop ends the thread. No start may follow or be under way. Processes that
// still live are killed by the kernel.
func (s *spawner) stop() {
	close(s.requests)
	<-s.done
}

// startRetrying retries ETXTBSY: a fork elsewhere in the daemon may hold the
// freshly written binary open for writing until its own exec, a few
// milliseconds later (golang.org/issue/22315).
func startRetrying(build func() *exec.Cmd) (*exec.Cmd, error) {
	const tries = 20
	for i := 1; ; i++ {
		cmd := build()
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		if !errors.Is(err, syscall.ETXTBSY) || i == tries {
			return nil, err
		}
		time.Sleep(time.Duration(i) * time.Millisecond) //nolint:forbidigo // no event tells when another fork lets go of the file
	}
}
