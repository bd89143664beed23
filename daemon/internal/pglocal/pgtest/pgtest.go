// Package pgtest gives a test a PostgreSQL database of its own, migrated and empty, and drops it at the test's end.
//
// All tests of a run share one cluster: the one that the runner (command pgrun, used by make test) has started around go
// test, else one per test binary, which ends with it. A database is a copy of a template that was migrated once, so
// tests run in parallel and see nothing of each other. Tests that kill or restart a server get a cluster of their own.
//
// It must never be imported outside of tests, and never touch a cluster that it was not given or did not make.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
)

// shared is the cluster of this test binary: found or started by the first test that asks.
//
//nolint:gochecknoglobals // one cluster per test binary: starting one per test would cost a second each
var shared = sync.OnceValues(findOrStart)

// serial numbers this binary's databases.
//
//nolint:gochecknoglobals // names must differ within the binary, whichever test asks
var serial atomic.Int64

// Database is one test's database.
type Database struct {
	// Name is unique among all tests of a run.
	Name string
	// URL connects over the unix socket, as the role that owns the cluster.
	URL string
	// TCPURL connects over loopback TCP, with a password: for programs that run as another user.
	TCPURL string
}

// New returns a migrated, empty database that is dropped when the test ends.
func New(t testing.TB) *Database {
	t.Helper()
	return create(t, templateDatabase)
}

// Empty returns a database without any table, for tests of migrations, that is dropped when the test ends.
func Empty(t testing.TB) *Database {
	t.Helper()
	return create(t, "template1")
}

// Pool returns a connection pool that is closed when the test ends, before the database is dropped.
func (d *Database) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return OpenPool(t, d.URL)
}

// OpenPool returns a connection pool on url that is closed when the test ends.
func OpenPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatalf("opening a pool on the test's database: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func create(t testing.TB, template string) *Database {
	t.Helper()
	fixture, err := shared()
	if err != nil {
		t.Fatalf("PostgreSQL for tests: %v", err)
	}
	// The process id keeps the test binaries of a run apart.
	name := fmt.Sprintf("t%d_%d_%s", os.Getpid(), serial.Add(1), slug(t.Name()))
	if err := fixture.create(t.Context(), name, template); err != nil {
		t.Fatalf("creating the test's database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := fixture.exec(ctx, "drop database if exists "+quote(name)+" with (force)"); err != nil {
			t.Errorf("dropping the test's database: %v", err)
		}
	})
	return &Database{Name: name, URL: fixture.url(name), TCPURL: fixture.tcpURL(name)}
}

// slug makes a test's name readable in pg_stat_activity; with the numbers before it, it stays within PostgreSQL's 63 bytes.
func slug(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(name))
	return clean[:min(len(clean), 35)]
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// Cluster starts a cluster for this test alone, which the test may stop, kill and restart. Fsync is on unless change
// turns it off: what survives a kill is what such tests are about.
func Cluster(t testing.TB, change ...func(*pglocal.Options)) *pglocal.Cluster {
	t.Helper()
	opts := pglocal.Options{Dir: filepath.Join(t.TempDir(), "pg"), Logger: testLogger(t)}
	for _, c := range change {
		c(&opts)
	}
	cluster, err := pglocal.Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("starting a cluster for the test: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := cluster.Stop(ctx); err != nil {
			t.Errorf("stopping the test's cluster: %v", err)
		}
	})
	return cluster
}

// Migrated makes a migrated database on a cluster of the test's own and returns its URL.
func Migrated(t testing.TB, cluster *pglocal.Cluster, name string) string {
	t.Helper()
	if err := migrateInto(t.Context(), cluster, name); err != nil {
		t.Fatalf("making a database on the test's cluster: %v", err)
	}
	return cluster.URL(name)
}

// FaultRounds returns how often a fault test (TestFault...) repeats its fault: normal times, or, in make chaos, as many
// times more as the environment variable DELIVERYD_FAULT_ROUNDS says.
func FaultRounds(t testing.TB, normal int) int {
	t.Helper()
	text := os.Getenv("DELIVERYD_FAULT_ROUNDS")
	if text == "" {
		return normal
	}
	factor, err := strconv.Atoi(text)
	if err != nil || factor < 1 {
		t.Fatalf("DELIVERYD_FAULT_ROUNDS=%q, want a factor of 1 or more", text)
	}
	return normal * factor
}

// IgnoreCluster makes goleak overlook the goroutines that watch the server of this test binary, which lives until the
// binary ends.
func IgnoreCluster() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/deliveryd/deliveryd/daemon/internal/pglocal.(*server).supervise"),
		goleak.IgnoreAnyFunction("github.com/deliveryd/deliveryd/daemon/internal/pglocal.(*serverLog).pump"),
	}
}

// testLogger writes the server's warnings to the test's output. The server ends in the test's cleanup, so no line comes
// after the test.
func testLogger(t testing.TB) hclog.Logger {
	t.Helper()
	return hclog.New(&hclog.LoggerOptions{Name: "postgres", Level: hclog.Warn, Output: t.Output()})
}
