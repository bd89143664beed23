package sink

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// misbehave does what the n-th item is to cause.
func (i *instance) misbehave(n int64) {
	c := i.config
	due := func(knob int) bool { return knob > 0 && n >= int64(knob) }
	if c.LeakPerItem > 0 {
		i.sink.leak(int(c.LeakPerItem))
	}
	for _, line := range c.StderrLines {
		rawWrite(2, line+"\n")
	}
	if c.StderrFlood > 0 {
		rawWrite(2, strings.Repeat("e", int(c.StderrFlood)))
	}
	if c.StdoutFlood > 0 && n == 1 {
		rawWrite(1, strings.Repeat("o", int(c.StdoutFlood)))
	}
	if c.SpawnChild && n == 1 {
		spawnChild()
	}
	if due(c.CrashAfter) {
		os.Exit(3)
	}
	if due(c.StopAfter) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
	if due(c.HangAfter) {
		select {}
	}
	if due(c.PanicAfter) {
		panic("told to panic")
	}
}

func openMisbehaviour(ctx context.Context, c *Config) error {
	if c.OpenCrash {
		os.Exit(3)
	}
	if c.OpenLatency > 0 {
		timer := time.NewTimer(c.OpenLatency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if c.OpenFails {
		return transport.ConfigError(errors.New("told to fail"))
	}
	return nil
}

// leak keeps n bytes, written to so that they count as resident.
func (s *Sink) leak(n int) {
	block := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		block[i] = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaked = append(s.leaked, block)
}

// rawWrite writes to a file descriptor as a C library would: os.Stdout and
// os.Stderr are captured by the SDK.
func rawWrite(fd int, text string) {
	for b := []byte(text); len(b) > 0; {
		n, err := syscall.Write(fd, b)
		switch {
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
			continue
		case err != nil:
			return
		}
		b = b[n:]
	}
}

// spawnChild starts a process in this one's group that holds its pipes open.
func spawnChild() {
	child := exec.Command("sleep", "600") //nolint:noctx // outliving its parent is what it is for
	child.Stdout, child.Stderr = os.NewFile(1, "stdout"), os.NewFile(2, "stderr")
	if err := child.Start(); err != nil {
		rawWrite(2, "starting a child: "+err.Error()+"\n")
		return
	}
	go func() { _ = child.Wait() }()
}

// Upload reads the whole body.
func (i *instance) Upload(ctx context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return transport.Receipt{}, transport.Transient(err)
	}
	return i.Deliver(ctx, d)
}
