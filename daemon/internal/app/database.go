package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	"github.com/deliveryd/deliveryd/daemon/internal/telemetry"
	"github.com/deliveryd/deliveryd/migrations"
)

// databaseName is the database in the private cluster.
const databaseName = "deliveryd"

// database is where the rows are: a PostgreSQL of the operator's, or a private
// cluster that lives and dies with this process.
type database struct {
	url     string
	cluster *pglocal.Cluster
	log     *slog.Logger
}

// openDatabase starts the private cluster if the configuration wants one.
func openDatabase(ctx context.Context, cfg *config.Config, log *slog.Logger) (*database, error) {
	if cfg.Database.Embedded == "" {
		return &database{url: cfg.Database.URL.Reveal(), log: log}, nil
	}
	cluster, err := pglocal.Start(ctx, pglocal.Options{Dir: cfg.Database.Embedded, Logger: telemetry.HCLog(log).Named("postgres")})
	if err != nil {
		return nil, fmt.Errorf("starting the private PostgreSQL: %w", err)
	}
	err = cluster.CreateDatabase(ctx, databaseName, "")
	if err != nil && !errors.Is(err, pglocal.ErrDatabaseExists) {
		return nil, errors.Join(fmt.Errorf("creating the database: %w", err), cluster.Stop(context.WithoutCancel(ctx)))
	}
	return &database{url: cluster.URL(databaseName), cluster: cluster, log: log}, nil
}

// close stops the private cluster.
func (d *database) close(ctx context.Context) error {
	if d.cluster == nil {
		return nil
	}
	return d.cluster.Stop(ctx)
}

// keepUp starts the private cluster again when it ended by itself, until ctx
// ends: the daemon waits for its database, whoever runs it.
func (d *database) keepUp(ctx context.Context) {
	if d.cluster == nil {
		return
	}
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-d.cluster.Exited():
		}
		if ctx.Err() != nil {
			return
		}
		d.log.Error("the private PostgreSQL ended; starting it again")
		if err := d.cluster.Restart(ctx); err != nil {
			failures++
			d.log.Error("starting the private PostgreSQL again", "error", err, "failures", failures)
			if !sleep(ctx, retryDelay(failures)) {
				return
			}
			continue
		}
		failures = 0
	}
}

// Waiting between attempts to reach a database: soon at first, since most starts
// come just before their database's; no jitter, since one daemon is one client.
const (
	firstRetry = 200 * time.Millisecond
	mostRetry  = 5 * time.Second
)

func retryDelay(failures int) time.Duration {
	return min(firstRetry<<min(failures, 10), mostRetry)
}

// sleep waits for d and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// await waits until the database answers: a daemon that starts together with its
// database must not fail because it was faster.
func await(ctx context.Context, s *store.Store, log *slog.Logger) error {
	for failures := 0; ; failures++ {
		err := s.Ping(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		if failures == 0 || failures%10 == 0 {
			log.Warn("waiting for the database", "error", err)
		}
		if !sleep(ctx, retryDelay(failures)) {
			return fmt.Errorf("waiting for the database: %w", ctx.Err())
		}
	}
}

// migrate brings the schema up to date, or checks that it is.
func (d *database) migrate(ctx context.Context, up bool) error {
	if !up {
		return migrations.Check(ctx, d.url)
	}
	_, err := migrations.Up(ctx, d.url, telemetry.HCLog(d.log).Named("migrations"))
	return err
}
