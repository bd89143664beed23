// Package migrations holds the schema of the database, as SQL files in the order of their names, and applies it.
//
// It works on any PostgreSQL by its URL, also through a connection pooler in transaction mode: it uses no session state
// between transactions. It must never change data that a migration file does not name, and never run backwards: the
// Down parts are for developers.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed *.sql
var files embed.FS

// Table is where the applied migrations are recorded.
const Table = "goose_db_version"

// lockKey is the advisory lock that one migrating process holds: "deliverd" in ASCII. It differs from goose's own, so
// that another program that migrates with goose in the same database is not in the way.
const lockKey int64 = 0x64656c6976657264

// lockTimeout bounds the wait for another daemon that migrates.
const lockTimeout = 10 * time.Minute

// ErrNewer is returned by Up and Check when the database was migrated by a newer deliveryd than this one.
var ErrNewer = errors.New("the database's schema is newer than this deliveryd")

// ErrPending is returned by Check when migrations are not applied.
var ErrPending = errors.New("the database's schema is older than this deliveryd")

// Migration is one step of the schema.
type Migration struct {
	// Version is the number that the file's name starts with.
	Version int64 `json:"version"`
	// File is the file's name.
	File string `json:"file"`
	// AppliedAt is when it was applied to this database; zero when it was not.
	AppliedAt time.Time `json:"applied_at,omitzero"`
}

// Up applies the migrations that the database at url lacks and returns them. Daemons that start at once wait for each
// other: the first migrates, the others find nothing to do. Each file is one transaction, so a failed one leaves the
// schema as the one before it.
//
// A nil logger logs nothing. Errors wrap ErrNewer where it applies.
func Up(ctx context.Context, url string, logger hclog.Logger) ([]Migration, error) {
	return UpFrom(ctx, url, files, logger)
}

// UpFrom is Up with other files: for tests of what a faulty one does.
func UpFrom(ctx context.Context, url string, files fs.FS, logger hclog.Logger) ([]Migration, error) {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	var applied []Migration
	err := withProvider(url, files, func(db *sql.DB, provider *goose.Provider) error {
		// Most starts find nothing to do; they need not wait for a lock.
		pending, err := isPending(ctx, db, provider)
		if err != nil || !pending {
			return err
		}
		unlock, err := lock(ctx, db, logger)
		if err != nil {
			return err
		}
		defer unlock()
		results, err := provider.Up(ctx)
		for _, r := range results {
			applied = append(applied, Migration{Version: r.Source.Version, File: r.Source.Path, AppliedAt: time.Now().UTC()})
			logger.Info("migration applied", "file", r.Source.Path, "took", r.Duration)
		}
		return explain(err)
	})
	if err != nil {
		return applied, fmt.Errorf("migrating the database: %w", err)
	}
	return applied, nil
}

// Status returns every migration that this deliveryd knows, oldest first. It changes nothing in the database.
func Status(ctx context.Context, url string) ([]Migration, error) {
	var all []Migration
	err := withProvider(url, files, func(db *sql.DB, provider *goose.Provider) error {
		made, err := tableExists(ctx, db)
		if err != nil {
			return err
		}
		if !made {
			for _, source := range provider.ListSources() {
				all = append(all, Migration{Version: source.Version, File: source.Path})
			}
			return nil
		}
		status, err := provider.Status(ctx)
		if err != nil {
			return explain(err)
		}
		for _, s := range status {
			all = append(all, Migration{Version: s.Source.Version, File: s.Source.Path, AppliedAt: s.AppliedAt.UTC()})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the database's schema version: %w", err)
	}
	return all, nil
}

// Check returns nil when the database's schema is the one that this deliveryd was built for, else an error that wraps
// ErrPending or ErrNewer: for a daemon that was told not to migrate. It changes nothing in the database.
func Check(ctx context.Context, url string) error {
	err := withProvider(url, files, func(db *sql.DB, provider *goose.Provider) error {
		pending, err := isPending(ctx, db, provider)
		if err == nil && pending {
			err = fmt.Errorf("%w: run deliveryd migrate up", ErrPending)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("checking the database's schema version: %w", err)
	}
	return nil
}

// isPending reports whether migrations are to be applied. It asks for the table first, because goose makes it when it
// only looks, and then daemons that start at once get in each other's way.
func isPending(ctx context.Context, db *sql.DB, provider *goose.Provider) (bool, error) {
	made, err := tableExists(ctx, db)
	if err != nil || !made {
		return !made, err
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return false, explain(err)
	}
	if current > target {
		return false, fmt.Errorf("%w: it has version %d, this deliveryd knows up to %d: run a newer deliveryd", ErrNewer, current, target)
	}
	return current < target, nil
}

// withProvider runs fn with goose on a short-lived pool of its own.
func withProvider(url string, files fs.FS, fn func(*sql.DB, *goose.Provider) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("reading the database's URL: %w", err)
	}
	// No prepared statements: a pooler in transaction mode may not carry them over.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithDisableGlobalRegistry(true), goose.WithTableName(Table), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	return fn(db, provider)
}

// lock waits until no other process migrates and returns the way to let the next one in. It is a transaction's lock,
// held open on a connection beside goose's: a session's lock, which goose offers, would stay behind on some other
// server connection when a pooler in transaction mode is in between.
func lock(ctx context.Context, db *sql.DB, logger hclog.Logger) (unlock func(), err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("locking out other migrations: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback()
		}
	}()
	for _, setting := range []string{"idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"} {
		if _, err = tx.ExecContext(ctx, "set local "+setting+" = 0"); err != nil {
			return nil, fmt.Errorf("locking out other migrations: %w", err)
		}
	}
	var free bool
	if err = tx.QueryRowContext(ctx, "select pg_try_advisory_xact_lock($1)", lockKey).Scan(&free); err != nil {
		return nil, fmt.Errorf("locking out other migrations: %w", err)
	}
	if !free {
		logger.Info("another process migrates the database; waiting for it")
		waitCtx, cancel := context.WithTimeout(ctx, lockTimeout)
		defer cancel()
		if _, err = tx.ExecContext(waitCtx, "select pg_advisory_xact_lock($1)", lockKey); err != nil {
			return nil, fmt.Errorf("waiting for another process that migrates (at most %s): %w", lockTimeout, err)
		}
	}
	return func() { _ = tx.Rollback() }, nil
}

func tableExists(ctx context.Context, db *sql.DB) (bool, error) {
	var made bool
	err := db.QueryRowContext(ctx, "select to_regclass($1) is not null", Table).Scan(&made)
	return made, explain(err)
}

// explain adds the file that failed and, where PostgreSQL names it, the place in the statement.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		err = fmt.Errorf("%s: %w", partial.Failed.Source.Path, partial.Err)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Hint != "" {
		err = fmt.Errorf("%w (hint: %s)", err, pgErr.Hint)
	}
	return err
}
