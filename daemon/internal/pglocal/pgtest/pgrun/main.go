// Command pgrun starts one PostgreSQL cluster for tests, runs a command with its address in the environment, stops the
// cluster and ends with the command's exit status:
//
//	go run ./daemon/internal/pglocal/pgtest/pgrun go test -race ./...
//
// It must leave neither a server nor a directory behind, however the command or pgrun itself ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: pgrun command [argument ...]")
		os.Exit(2)
	}
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgrun:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

func run(command []string) (status int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	shared, err := pgtest.StartShared(ctx)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.Stop(context.Background())) }()
	variable, err := shared.Environ()
	if err != nil {
		return 1, err
	}
	return execute(ctx, command, variable)
}

// execute runs the command in a process group of its own and passes an interrupt on to all of it: go test, told alone,
// would leave its test binaries running.
func execute(ctx context.Context, command []string, variable string) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), variable)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	defer func() {
		if ctx.Err() != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	if err != nil {
		return 1, fmt.Errorf("running %s: %w", command[0], err)
	}
	return 0, nil
}
