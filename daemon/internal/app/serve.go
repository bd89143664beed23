package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// serve says that the daemon is ready and waits for what happens then.
func (d *daemon) serve(s *signals) error {
	d.notify(sd.SdNotifyReady)
	d.log.Info("ready", "version", d.o.Version, "address", d.listener.url())
	if d.o.Dev != nil {
		d.o.Dev.welcome(d.o.Stdout, d.config(), d.listener.url())
		if d.o.Dev.echo != nil {
			d.o.Dev.echo.serve(d.o.Stdout)
			d.stop.add("trial's receiver", d.o.Dev.echo.close)
		}
	}
	for {
		select {
		case <-s.running.Done():
			return nil
		case err := <-d.failed:
			return err
		case <-s.reload:
			// Its error is logged, and the old configuration goes on.
			_, _ = d.reload(s.running, s.running)
		}
	}
}

// stopMargin is what the parts around the engine may take to stop.
const stopMargin = 30 * time.Second

// abandonAfter is how long after a second signal the parts may still take; then
// the process ends under them. That loses nothing: what is in flight is still
// queued, plugins end with their lifeline, and the private PostgreSQL with its.
const abandonAfter = 3 * time.Second

// close stops everything. now ends when there is no time left.
func (d *daemon) close(now context.Context, cause error) error {
	d.notify(sd.SdNotifyStopping)
	began := time.Now()
	if cause != nil {
		d.log.Error("stopping", "error", cause)
	} else {
		d.log.Info("stopping: no new work; what is in flight may end", "grace", d.config().Queue.DrainTimeout)
	}
	err := d.stopAll(now)
	if err != nil {
		d.log.Error("stopped, but not in order", "took", time.Since(began), "error", err)
		return err
	}
	d.log.Info("stopped", "took", time.Since(began))
	return nil
}

func (d *daemon) stopAll(now context.Context) error {
	ctx, cancel := context.WithTimeout(now, d.config().Queue.DrainTimeout+stopMargin)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.stop.run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-now.Done():
	}
	select {
	case err := <-done:
		return errors.Join(errors.New("a second signal cut the stop short"), err)
	case <-time.After(abandonAfter):
		return errors.New("a second signal cut the stop short, and not everything heeded it")
	}
}

// notify tells systemd, if that started the daemon. Not reaching it changes
// nothing for the deliveries.
func (d *daemon) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.log.Warn("telling systemd", "error", err)
	}
}

// reloadingState is what Type=notify-reload wants to hear: the clock tells
// systemd that the answer belongs to its request.
func reloadingState() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return sd.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, now.Nano()/1000)
}
