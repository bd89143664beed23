package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, pgtest.IgnoreCluster()...)
}

func TestDatabasesAreMigratedAndApart(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t).Pool(t)
			if _, err := pool.Exec(t.Context(), `insert into delivery_lanes (destination_id) values ($1)`, i); err != nil {
				t.Fatalf("inserting into the test's database: %v", err)
			}
			var got []int32
			if err := pool.QueryRow(t.Context(), `select array_agg(destination_id) from delivery_lanes`).Scan(&got); err != nil {
				t.Fatalf("reading the test's database: %v", err)
			}
			if diff := cmp.Diff([]int32{int32(i)}, got); diff != "" {
				t.Errorf("rows of another test are visible (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaultPoolOutlivesItsServer(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Cluster(t)
	pool := pgtest.OpenPool(t, pgtest.Migrated(t, cluster, "deliveryd"))
	for lane := range pgtest.FaultRounds(t, 2) {
		if _, err := pool.Exec(t.Context(), `insert into delivery_lanes (destination_id) values ($1)`, lane); err != nil {
			t.Fatalf("inserting: %v", err)
		}
		if err := cluster.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), `select 1`); err == nil {
			t.Error("a statement without a server ended well")
		}
		if err := cluster.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		var lanes int
		if err := pool.QueryRow(t.Context(), `select count(*) from delivery_lanes`).Scan(&lanes); err != nil || lanes != lane+1 {
			t.Errorf("%d lanes (%v) after %d kills, want %d", lanes, err, lane+1, lane+1)
		}
	}
}

func TestPgBouncerIsInTransactionMode(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	url := pgtest.PgBouncer(t, db.TCPURL)
	first, second := connect(t, url), connect(t, url)
	// A transaction keeps the first server connection, so that the other client's statement needs a second one; in
	// transaction mode the first is then free for anybody.
	tx, err := first.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held := backend(t, tx)
	if got := backend(t, second); got == held {
		t.Fatalf("two clients share backend %d while one has a transaction open", got)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	tx, err = second.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	other := backend(t, tx)
	if got := backend(t, first); got == other {
		t.Errorf("two clients share backend %d while one has a transaction open", got)
	}
	var name string
	if err := first.QueryRow(t.Context(), "select current_database()").Scan(&name); err != nil || name != db.Name {
		t.Errorf("connected to %q (%v), want %q", name, err, db.Name)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func backend(t *testing.T, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (pid int) {
	t.Helper()
	if err := q.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatalf("asking for the backend: %v", err)
	}
	return pid
}

// childVariable makes the test binary one that uses a cluster, says which, and ends in the way that it names.
const childVariable = "PGTEST_TEST_CHILD"

// TestChild does nothing but what another test's child process is for.
func TestChild(t *testing.T) {
	ending := os.Getenv(childVariable)
	if ending == "" {
		return
	}
	fmt.Println("URL", pgtest.New(t).URL)
	switch ending {
	case "panic":
		panic("as the test wants")
	case "wait":
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

// TestFaultBinaryLeavesNothingBehind: without the runner each test binary has a cluster of its own, which must end with
// it, however it ends.
func TestFaultBinaryLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, ending := range []string{"return", "panic", "wait"} {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
			cmd.Env = append(withoutCluster(), childVariable+"="+ending)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := bufio.NewScanner(stdout)
			for line.Scan() && !strings.HasPrefix(line.Text(), "URL ") {
			}
			config, err := pgx.ParseConfig(strings.TrimPrefix(line.Text(), "URL "))
			if err != nil {
				t.Fatalf("reading the child's URL: %v", err)
			}
			if ending == "wait" {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait() // the child may end badly
			awaitRemoval(t, filepath.Dir(config.Host))
		})
	}
}

// withoutCluster is the environment as go test without the runner has it.
func withoutCluster() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, pgtest.Variable+"=") })
}

func awaitRemoval(t *testing.T, dir string) {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// The directory goes after the server, so one check is enough for both.
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-limit.C:
			t.Fatalf("%s is still there after 30 s", dir)
		case <-tick.C:
		}
	}
}
