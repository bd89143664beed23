// Package store is the only package that speaks SQL: it keeps what was accepted,
// what was attempted and who may work on it. It decides nothing: policy comes in
// as values and leaves as rows. It must never lose an accepted row, and never
// read or write a row for a caller without the caller's organization.
//
// Cold statements are built with jet, once, when the store opens; the text is
// kept and runs on the pgx pool. Hot ones that jet cannot express (unnest,
// lateral limits, data-modifying CTEs) are constants beside their functions.
package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options says how to reach PostgreSQL.
type Options struct {
	// URL is a libpq URL or keyword string. No default.
	URL string
	// MaxConns bounds the connections of the daemon. Defaults to 16.
	MaxConns int32
	// Pooler says that a transaction pooler (PgBouncer) stands between: no session
	// settings, no prepared statements, no LISTEN. Defaults to false.
	Pooler bool
	// StatementTimeout bounds each statement. Defaults to 30 s.
	StatementTimeout time.Duration
}

// Store is safe for concurrent use.
type Store struct {
	durable *pgxpool.Pool
	// relaxed does not wait for the disk at commit: for lease renewal, marks and
	// whatever a crash may undo. Submissions and outcomes never use it.
	relaxed *pgxpool.Pool
	// bulk moves the chunks of artifacts: megabytes a statement, which must not take
	// the connections of submissions, outcomes and the lease. Like relaxed, it does
	// not wait for the disk.
	bulk    *pgxpool.Pool
	url     string
	pooler  bool
	timeout time.Duration
	sql     statements

	// What lanes need is read for many of them at once.
	destinations *gather[Destination]
	healths      *gather[Health]
	secrets      *gather[[]Secret]
}

const (
	// relaxedShare is the part of the connections that the relaxed pool may take.
	relaxedShare = 4
	// bulkShare is the part that the bulk pool may take; it opens none before the
	// first artifact. Two are enough: one reads or writes 100 MiB/s and more.
	bulkShare = 10
)

// Open connects lazily: a server that is down is not an error here.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.MaxConns <= 0 {
		o.MaxConns = 16
	}
	if o.StatementTimeout <= 0 {
		o.StatementTimeout = 30 * time.Second
	}
	durable, err := openPool(ctx, o, max(2, o.MaxConns-o.MaxConns/relaxedShare-o.MaxConns/bulkShare), "on")
	if err != nil {
		return nil, err
	}
	relaxed, err := openPool(ctx, o, max(2, o.MaxConns/relaxedShare), "off")
	if err != nil {
		durable.Close()
		return nil, err
	}
	bulk, err := openPool(ctx, o, max(2, o.MaxConns/bulkShare), "off")
	if err != nil {
		relaxed.Close()
		durable.Close()
		return nil, err
	}
	s := &Store{durable: durable, relaxed: relaxed, bulk: bulk, url: o.URL, pooler: o.Pooler, timeout: o.StatementTimeout, sql: buildStatements()}
	s.destinations, s.healths, s.secrets = newGather(s.destinationsByID), newGather(s.healthByID), newGather(s.SecretsOf)
	return s, nil
}

func openPool(ctx context.Context, o Options, conns int32, synchronousCommit string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		// pgx redacts the password in this error.
		return nil, fmt.Errorf("reading the database URL: %w", err)
	}
	cfg.MaxConns = conns
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.HealthCheckPeriod = 10 * time.Second
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	if o.Pooler {
		// A server connection is ours for one transaction only, so nothing prepared
		// or set may be expected to be there the next time.
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		return newPool(ctx, cfg)
	}
	p := cfg.ConnConfig.RuntimeParams
	p["application_name"] = "deliveryd"
	p["jit"] = "off" // one lane statement: 761 ms with, 8.5 without
	p["synchronous_commit"] = synchronousCommit
	p["idle_in_transaction_session_timeout"] = "10s"
	p["statement_timeout"] = fmt.Sprint(o.StatementTimeout.Milliseconds())
	p["timezone"] = "UTC"
	return newPool(ctx, cfg)
}

func newPool(ctx context.Context, cfg *pgxpool.Config) (*pgxpool.Pool, error) {
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the database pool: %w", err)
	}
	return pool, nil
}

// Close waits for running statements and closes all connections.
func (s *Store) Close() {
	s.bulk.Close()
	s.relaxed.Close()
	s.durable.Close()
}

// Ping asks the server for an answer.
func (s *Store) Ping(ctx context.Context) error {
	return wrap("reaching the database", s.durable.Ping(ctx))
}

// deadline bounds a statement on our side too: a server that vanished sends no
// timeout, and a daemon must not wait for TCP to notice.
func (s *Store) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout+5*time.Second)
}
