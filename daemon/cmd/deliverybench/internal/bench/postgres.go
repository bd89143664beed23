package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/deliveryd/deliveryd/migrations"
)

// template is the migrated, empty database that each run's is a copy of.
const template = "bench_template"

// server is the PostgreSQL that all sides are measured on.
type server struct {
	cluster *pglocal.Cluster
	admin   *pgxpool.Pool // to the database postgres
	counted bool          // pg_stat_statements is there
	made    int
}

// startServer starts a server with the settings of the embedded default, which are durable.
func startServer(ctx context.Context, dir string) (_ *server, err error) {
	s := &server{counted: true}
	settings := map[string]string{"shared_preload_libraries": "pg_stat_statements"}
	s.cluster, err = pglocal.Start(ctx, pglocal.Options{Dir: dir, Settings: settings})
	if err != nil && strings.Contains(err.Error(), "pg_stat_statements") {
		// Some distributions have it in a package of its own.
		s.counted = false
		s.cluster, err = pglocal.Start(ctx, pglocal.Options{Dir: dir})
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.admin, err = pgxpool.New(ctx, s.cluster.URL("postgres")); err != nil {
		return nil, fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *server) prepare(ctx context.Context) error {
	if s.counted {
		if _, err := s.admin.Exec(ctx, "create extension pg_stat_statements"); err != nil {
			return fmt.Errorf("counting statements: %w", err)
		}
	}
	if err := s.cluster.CreateDatabase(ctx, template, ""); err != nil {
		return err
	}
	_, err := migrations.Up(ctx, s.cluster.URL(template), nil)
	return err
}

func (s *server) stop() error {
	if s.admin != nil {
		s.admin.Close()
	}
	return s.cluster.Stop(context.Background())
}

// Postgres describes the server.
type Postgres struct {
	Version  string            `json:"version"`
	Settings map[string]string `json:"settings"`
}

// describe fails where the server is not durable: its figures would be of something else.
func (s *server) describe(ctx context.Context) (Postgres, error) {
	d := Postgres{Settings: map[string]string{}}
	if err := s.admin.QueryRow(ctx, "show server_version").Scan(&d.Version); err != nil {
		return d, fmt.Errorf("asking PostgreSQL for its version: %w", err)
	}
	for _, name := range []string{
		"fsync", "full_page_writes", "synchronous_commit", "shared_buffers", "max_wal_size", "wal_compression", "checkpoint_timeout",
		"autovacuum_naptime", "max_connections", "jit", "data_checksums", "shared_preload_libraries",
	} {
		var value string
		if err := s.admin.QueryRow(ctx, "select current_setting($1)", name).Scan(&value); err != nil {
			return d, fmt.Errorf("asking PostgreSQL for %s: %w", name, err)
		}
		d.Settings[name] = value
	}
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		if d.Settings[name] != "on" {
			return d, fmt.Errorf("PostgreSQL runs with %s = %s: want on, nothing is measured without durability", name, d.Settings[name])
		}
	}
	return d, nil
}

// database makes a database for one run; drop removes it.
func (s *server) database(ctx context.Context, from string) (name string, drop func() error, err error) {
	s.made++
	name = fmt.Sprintf("bench_%03d", s.made)
	if err := s.cluster.CreateDatabase(ctx, name, from); err != nil {
		return "", nil, err
	}
	return name, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return s.cluster.DropDatabase(ctx, name)
	}, nil
}

// checkpoint writes out what former runs left, so that it is not this run's.
func (s *server) checkpoint(ctx context.Context) error {
	if _, err := s.admin.Exec(ctx, "checkpoint"); err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	return nil
}

// counters are those of the server and of one database.
type counters struct {
	wal          int64   // bytes
	statements   float64 // 0 where they are not counted
	transactions float64
}

// ownMark is in every statement of the bench itself, which are not counted.
const ownMark = "/* deliverybench */"

const countersSQL = `
select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,
  coalesce((select sum(xact_commit + xact_rollback) from pg_stat_database where datname = $1), 0)::float8`

const statementsSQL = `
select coalesce(sum(s.calls), 0)::float8 from pg_stat_statements s join pg_database d on d.oid = s.dbid
where d.datname = $1 and strpos(s.query, $2) = 0`

func (s *server) counters(ctx context.Context, database string) (c counters, err error) {
	err = s.admin.QueryRow(ctx, countersSQL, database).Scan(&c.wal, &c.transactions)
	if err == nil && s.counted {
		err = s.admin.QueryRow(ctx, statementsSQL, database, ownMark).Scan(&c.statements)
	}
	if err != nil {
		return c, fmt.Errorf("reading PostgreSQL's counters: %w", err)
	}
	return c, nil
}

// Statement is one kind of statement of a run.
type Statement struct {
	Query    string  `json:"query"`
	Calls    int64   `json:"calls"`
	Rows     int64   `json:"rows"`
	TotalMS  float64 `json:"total_ms"`
	WALBytes int64   `json:"wal_bytes"`
}

const topSQL = `
select left(regexp_replace(s.query, '\s+', ' ', 'g'), 160), s.calls, s.rows, s.total_exec_time, s.wal_bytes::bigint
from pg_stat_statements s join pg_database d on d.oid = s.dbid
where d.datname = $1 and strpos(s.query, $2) = 0
order by s.total_exec_time desc limit 12`

// top returns the statements that took the most time in a database.
func (s *server) top(ctx context.Context, database string) ([]Statement, error) {
	if !s.counted {
		return nil, nil
	}
	rows, err := s.admin.Query(ctx, topSQL, database, ownMark)
	if err != nil {
		return nil, fmt.Errorf("reading the statements of a run: %w", err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Statement])
	if err != nil {
		return nil, fmt.Errorf("reading the statements of a run: %w", err)
	}
	return statements, nil
}
