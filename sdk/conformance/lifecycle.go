package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// exitTimeout is how long a plugin may outlive its host.
const exitTimeout = 2 * time.Second

func processCases() []Case {
	return []Case{
		{Name: "handshake", Promise: "The handshake line comes within 5 s, and nothing else is ever written to standard output.", check: func(context.Context, *session) error { return nil }},
		{Name: "signals", Promise: "SIGHUP, SIGINT and SIGTERM leave the plugin working while its host lives.", check: checkSignals},
		{Name: "lifeline", Promise: "The plugin ends within 2 s of the end of its standard input.", check: checkLifeline},
		{Name: "host-killed", Promise: "The plugin ends within 2 s of the SIGKILL of its host.", check: checkHostKilled},
	}
}

func checkSignals(ctx context.Context, s *session) error {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		if err := s.process.Signal(signal); err != nil {
			return fmt.Errorf("sending %s: %w", signal, err)
		}
		// A signal is taken at some moment after it was sent: several calls
		// give it the time.
		for range 5 {
			results, err := s.deliver(ctx, items(1, patient), ref)
			if err != nil {
				return fmt.Errorf("after %s: %w", signal, err)
			}
			if err := delivered(results); err != nil {
				return fmt.Errorf("after %s: %w", signal, err)
			}
		}
	}
	return nil
}

func checkLifeline(ctx context.Context, s *session) error {
	if _, err := s.open(ctx, 1); err != nil {
		return err
	}
	start := time.Now()
	s.process.CutLifeline()
	return s.ends(ctx, start)
}

func (s *session) ends(ctx context.Context, start time.Time) error {
	machine := watchMachine(ctx)
	defer machine.stop()
	select {
	case <-s.process.Exited():
	case <-time.After(3 * exitTimeout):
		return errors.New("the plugin outlived its host by 6 s")
	case <-ctx.Done():
		return ctx.Err()
	}
	if took, most := time.Since(start), exitTimeout+machine.stop(); took > most {
		return fmt.Errorf("the plugin outlived its host by %s; want at most %s", took, most)
	}
	return nil
}

// checkHostKilled gives the lifeline to another process and kills that.
func checkHostKilled(ctx context.Context, s *session) error {
	if _, err := s.open(ctx, 1); err != nil {
		return err
	}
	host := exec.CommandContext(ctx, "sleep", "60")
	host.ExtraFiles = []*os.File{s.process.lifeline}
	if err := host.Start(); err != nil {
		return fmt.Errorf("starting a stand-in for the host: %w", err)
	}
	s.process.CutLifeline()
	if _, err := s.client.Describe(ctx, &transportv1.DescribeRequest{HostVersion: hostVersion}); err != nil {
		_ = host.Process.Kill()
		_ = host.Wait()
		return fmt.Errorf("calling Describe while the lifeline is open: %w", err)
	}
	start := time.Now()
	if err := host.Process.Kill(); err != nil {
		return fmt.Errorf("killing the stand-in for the host: %w", err)
	}
	_ = host.Wait()
	return s.ends(ctx, start)
}

// Bounds of the memory case. A heap grows for a while before it settles, and a
// garbage collector may hold twice of what lives, so the kit looks for two
// windows of 10,000 items in a row that stay within a bound: what leaks 800
// bytes an item never does.
const (
	memoryBatch   = 100
	memoryRounds  = 100
	memoryWindows = 5
	memoryGrowth  = 8 << 20
	memoryLeak    = 128 << 20
)

func checkMemory(ctx context.Context, s *session) error {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	var sizes []int64
	for window := range memoryWindows {
		if err := s.window(ctx, ref); err != nil {
			return err
		}
		size, err := s.process.Memory("VmRSS")
		if err != nil {
			return err
		}
		sizes = append(sizes, size>>20)
		if window >= 2 && sizes[window]-sizes[window-2] <= memoryGrowth>>20 {
			return nil
		}
		if sizes[window]-sizes[0] > memoryLeak>>20 {
			break // no need to see more
		}
	}
	return fmt.Errorf("memory grows without end: %v MiB after each %d items", sizes, memoryRounds*memoryBatch)
}

// window delivers 10,000 items.
func (s *session) window(ctx context.Context, ref *transportv1.InstanceRef) error {
	size := min(memoryBatch, s.maxBatch())
	for range memoryRounds * memoryBatch / size {
		results, err := s.deliver(ctx, items(size, patient), ref)
		if err != nil {
			return err
		}
		if err := delivered(results); err != nil {
			return err
		}
	}
	return nil
}
