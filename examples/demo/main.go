// Command demo shows deliveryd at work on one machine: it starts `deliveryd dev`,
// receives what that delivers, submits orders of two organizations, lets some
// requests fail on purpose and one destination be down for a while, and checks
// that every delivery arrives, signed. It exits with 0 only then.
//
// It uses deliveryd as a stranger would: the binary, the HTTP API, and the SDK's
// signature package to verify what it receives.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// timeLimit ends a demo that hangs.
const timeLimit = 110 * time.Second

// options are the flags.
type options struct {
	bin     string
	config  string
	orders  int
	rate    int
	verbose bool
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory of the deliveryd binary")
	flag.StringVar(&o.config, "config", "examples/demo/delivery.hcl", "the demo's configuration")
	flag.IntVar(&o.orders, "orders", 1000, "how many orders to submit")
	flag.IntVar(&o.rate, "rate", 150, "orders per second")
	flag.BoolVar(&o.verbose, "v", false, "show the daemon's log")
	flag.Parse()

	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(interrupted, timeLimit, fmt.Errorf("the demo's time of %v is over", timeLimit))
	err := run(ctx, o)
	cancel()
	stop()
	switch {
	case err != nil && interrupted.Err() != nil:
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; everything is stopped and removed")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.orders < 20 || o.rate < 1 {
		return errors.New("-orders must be 20 or more, and -rate 1 or more")
	}
	dir, err := os.MkdirTemp("", "deliveryd-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// PostgreSQL refuses to run as root, so it may have to come through here as
	// somebody else.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	receivers, err := startReceivers(ctx)
	if err != nil {
		return err
	}
	defer receivers.close()

	fmt.Println("Starting deliveryd with a PostgreSQL of its own ...")
	began := time.Now()
	daemon, err := startDaemon(ctx, o, filepath.Join(dir, "data"), receivers)
	if err != nil {
		return err
	}
	defer func() {
		failed := err != nil && !errors.Is(ctx.Err(), context.Canceled) // else it was interrupted
		err = errors.Join(err, daemon.stop(failed))
	}()
	if err := daemon.awaitReady(ctx); err != nil {
		return err
	}
	fmt.Printf("Ready after %.1f s: API at %s, three receivers on this machine.\n", time.Since(began).Seconds(), daemon.url)
	return deliver(ctx, o, daemon, receivers)
}

// deliver is the demo itself.
func deliver(parent context.Context, o options, daemon *daemon, receivers *receivers) error {
	orders := makeOrders(o.orders)
	expected := expectations(orders)
	fmt.Printf("Submitting %d orders of about 1 KB for acme and globex: %d deliveries.\n", len(orders), expected.total())
	fmt.Printf("On purpose: billing fails with 500 now and then, warehouse answers 429 with Retry-After,\nand analytics goes down after %v for %v.\n\n", downAfter, downFor)

	state := &state{began: time.Now(), orders: len(orders), deliveries: expected.total(), receivers: receivers, daemon: daemon, opened: map[string]bool{}}
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		state.watch(ctx)
	}()
	outage := make(chan error, 1)
	go func() { outage <- receivers.outage(ctx) }()
	go func() {
		if err := submitAll(ctx, o, daemon, orders, state); err != nil {
			cancel(err)
		}
	}()
	err := receivers.await(ctx, expected)
	if err == nil {
		err = daemon.awaitRecorded(ctx, expected)
	}
	took := time.Since(state.began)
	cancel(nil)
	<-watched
	err = errors.Join(err, <-outage)
	if errors.Is(parent.Err(), context.Canceled) {
		return parent.Err()
	}
	return errors.Join(err, report(context.WithoutCancel(ctx), state, expected, took))
}
