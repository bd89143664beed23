package pglocal

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// start runs a cluster that is stopped when the test ends.
func start(t *testing.T, opts Options) *Cluster {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = filepath.Join(t.TempDir(), "pg")
	}
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return c
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func run(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	if _, err := connect(t, url).Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("running %q: %v", sql, err)
	}
}

func one[T any](t *testing.T, url, sql string) T {
	t.Helper()
	var value T
	if err := connect(t, url).QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("running %q: %v", sql, err)
	}
	return value
}

func TestDataSurvivesAnOrderlyStop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, Options{Dir: dir})
	run(t, c.URL("postgres"), "create table kept as select 42 as n")
	before := c.URL("postgres")
	if err := c.Stop(t.Context()); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	select {
	case <-c.Exited():
	default:
		t.Error("Exited is open after Stop")
	}
	c = start(t, Options{Dir: dir})
	if c.URL("postgres") != before {
		t.Errorf("URL changed from %s to %s although the port was free", before, c.URL("postgres"))
	}
	if got := one[int](t, c.URL("postgres"), "select n from kept"); got != 42 {
		t.Errorf("row after a restart: %d, want 42", got)
	}
}

// TestServer checks one running server from several sides.
func TestServer(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Settings: map[string]string{"work_mem": "7MB", "deliveryd.note": "it's"}})
	t.Run("unprivileged and private", func(t *testing.T) { testPrivacy(t, c) })
	t.Run("TCP wants the password", func(t *testing.T) { testPassword(t, c) })
	t.Run("settings are in effect", func(t *testing.T) { testSettings(t, c) })
	t.Run("databases", func(t *testing.T) { testDatabases(t, c) })
}

func testPrivacy(t *testing.T, c *Cluster) {
	owner := ownerOfProcess(t, c.PID())
	if owner == 0 || (os.Geteuid() != 0 && owner != os.Geteuid()) {
		t.Errorf("the server runs as user id %d", owner)
	}
	if ours, _ := syscall.Getpgid(0); ours == 0 {
		t.Fatal("no process group")
	} else if theirs, err := syscall.Getpgid(c.PID()); err != nil || theirs == ours {
		t.Errorf("the server's process group is %d (%v), ours %d: Ctrl-C would reach it", theirs, err, ours)
	}
	for name, mode := range map[string]os.FileMode{"data": 0o700, "run": 0o700, "password": 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(c.dir.root, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v (%v), want %v", name, info.Mode().Perm(), err, mode)
		}
	}
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.PID()), "environ"))
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range strings.Split(strings.TrimRight(string(environ), "\x00"), "\x00") {
		name, _, _ := strings.Cut(variable, "=")
		if !slices.Contains([]string{"LC_ALL", "TZ", "PATH", "LD_LIBRARY_PATH"}, name) {
			t.Errorf("the server sees the variable %s", name)
		}
	}
}

func testPassword(t *testing.T, c *Cluster) {
	if got := one[string](t, c.TCPURL("postgres"), "select current_user::text"); got != Role {
		t.Errorf("connected as %q, want %q", got, Role)
	}
	u, err := url.Parse(c.TCPURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range []*url.Userinfo{url.UserPassword(Role, "guess"), url.User(Role)} {
		u.User = info
		conn, err := pgx.Connect(t.Context(), u.String())
		var pgErr *pgconn.PgError
		if err == nil {
			_ = conn.Close(t.Context())
		}
		if !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
			t.Errorf("connecting with %v: %v, want SQLSTATE 28P01 (invalid password)", info, err)
		}
	}
	if strings.Contains(c.URL("postgres"), c.password) {
		t.Error("the socket's URL holds the password")
	}
}

func testSettings(t *testing.T, c *Cluster) {
	for name, want := range map[string]string{
		"jit": "off", "autovacuum_naptime": "1s", "fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB",
		"max_connections": "200", "data_checksums": "on", "server_encoding": "UTF8", "TimeZone": "UTC",
		"work_mem": "7MB", "deliveryd.note": "it's",
	} {
		if got := one[string](t, c.URL("postgres"), "show "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if c.Version() >= 15 {
		if got := one[string](t, c.URL("postgres"), "show wal_compression"); got != "lz4" && got != "off" {
			t.Errorf("wal_compression = %q, want lz4, or off where the server was built without", got)
		}
	}
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settings map[string]string
		mention  string
	}{
		"name":    {map[string]string{"no such": "1"}, `setting "no such"`},
		"value":   {map[string]string{"work_mem": "1MB\nfsync = off"}, "a value of one line"},
		"unknown": {map[string]string{"work_memory": "1MB"}, `unrecognized configuration parameter "work_memory"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Start(t.Context(), Options{Dir: t.TempDir(), Settings: test.settings, DisableFsync: true})
			if err == nil {
				_ = c.Stop(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), test.mention) {
				t.Errorf("Start: %v, want an error that mentions %q", err, test.mention)
			}
		})
	}
}

func TestSecondStartIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, Options{Dir: dir, DisableFsync: true})
	_, err := Start(t.Context(), Options{Dir: dir})
	if want := "process " + strconv.Itoa(os.Getpid()); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), want) {
		t.Errorf("second Start: %v, want ErrInUse that names %q", err, want)
	}
	if got := one[int](t, c.URL("postgres"), "select 1"); got != 1 {
		t.Error("the first cluster was disturbed")
	}

	other := openDir(t)
	h := startHelper(t, other, false)
	_, err = Start(t.Context(), Options{Dir: other})
	if want := "process " + strconv.Itoa(h.cmd.Process.Pid); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), want) {
		t.Errorf("Start on another process's directory: %v, want ErrInUse that names %q", err, want)
	}
	h.stop(t)
	start(t, Options{Dir: other})
}

func TestRunsAsNonRoot(t *testing.T) {
	t.Parallel()
	h := startHelper(t, openDir(t), true)
	if h.UID == 0 {
		t.Fatal("the helper runs as root")
	}
	if owner := ownerOfProcess(t, h.PID); owner != h.UID {
		t.Errorf("the server runs as user id %d, its daemon as %d", owner, h.UID)
	}
	if got := one[int](t, h.TCPURL, "select 1"); got != 1 {
		t.Errorf("select 1 = %d", got)
	}
	h.stop(t)
	awaitEnd(t, h.PID)
}

// TestFaultKilledDaemonLeavesNoServer kills the daemon as kill -9 does and starts the next one at once.
func TestFaultKilledDaemonLeavesNoServer(t *testing.T) {
	t.Parallel()
	for name, unprivileged := range map[string]bool{"root": false, "nobody": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			h := startHelper(t, dir, unprivileged)
			run(t, h.TCPURL, "create table kept as select 1 as n")
			for round := range faultRounds(t, 3) {
				if err := h.kill(); err != nil {
					t.Fatal(err)
				}
				orphan := h.PID
				h = startHelper(t, dir, unprivileged)
				if alive(orphan) {
					t.Errorf("round %d: the killed daemon's server lives", round)
				}
				if got := one[int](t, h.TCPURL, "select n from kept"); got != 1 {
					t.Errorf("round %d: a committed row is %d, want 1", round, got)
				}
			}
			if err := h.kill(); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, h.PID)
		})
	}
}

// TestFaultCommittedRowsSurviveKill kills PostgreSQL itself between commits.
func TestFaultCommittedRowsSurviveKill(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	run(t, c.URL("postgres"), "create table kept (n int)")
	rounds := faultRounds(t, 3)
	for n := range rounds {
		run(t, c.URL("postgres"), "insert into kept values ($1)", n)
		exited := c.Exited()
		if err := c.Kill(); err != nil {
			t.Fatalf("Kill: %v", err)
		}
		<-exited
		if err := c.Restart(t.Context()); err != nil {
			t.Fatalf("Restart after Kill: %v", err)
		}
	}
	if got := one[int](t, c.URL("postgres"), "select count(*) from kept"); got != rounds {
		t.Errorf("%d of %d committed rows survived", got, rounds)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Errorf("Restart of a running server: %v", err)
	}
	if got := one[int](t, c.URL("postgres"), "select count(*) from kept"); got != rounds {
		t.Errorf("%d of %d committed rows survived an orderly restart", got, rounds)
	}
}

func faultRounds(t *testing.T, normal int) int {
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

func TestStopCutsOpenTransactions(t *testing.T) {
	t.Parallel()
	c := start(t, Options{DisableFsync: true})
	run(t, c.URL("postgres"), "create table waits (n int)")
	conn := connect(t, c.URL("postgres"))
	if _, err := conn.Exec(t.Context(), "begin; lock table waits"); err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error, 1)
	go func() {
		waiting, err := pgx.Connect(context.Background(), c.URL("postgres"))
		if err == nil {
			_, err = waiting.Exec(context.Background(), "select * from waits")
		}
		blocked <- err
	}()
	for one[int](t, c.URL("postgres"), "select count(*) from pg_locks where not granted") == 0 {
	}
	began := time.Now()
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("Stop with open transactions: %v", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("Stop took %s", took)
	}
	if err := <-blocked; err == nil {
		t.Error("a statement that waited for a lock ended well although the server was stopped")
	}
}

func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	c := start(t, Options{DisableFsync: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// Whether the fast shutdown beats an ended context is a race; either way the server must be gone.
	_ = c.Stop(ctx)
	awaitEnd(t, c.PID())
}

func testDatabases(t *testing.T, c *Cluster) {
	name := `a "quoted" 'name'`
	if err := c.CreateDatabase(t.Context(), name, ""); err != nil {
		t.Fatalf("CreateDatabase: %v", err)
	}
	run(t, c.URL(name), "create table copied as select 7 as n")
	if err := c.CreateDatabase(t.Context(), name, ""); !errors.Is(err, ErrDatabaseExists) {
		t.Errorf("CreateDatabase twice: %v, want ErrDatabaseExists", err)
	}
	if err := c.CreateDatabase(t.Context(), "copy", "missing"); err == nil || !strings.Contains(err.Error(), `"missing"`) {
		t.Errorf("CreateDatabase from a missing template: %v, want an error that names it", err)
	}
	if err := c.DropDatabase(t.Context(), name); err != nil {
		t.Errorf("DropDatabase with a connection open: %v", err)
	}
	if err := c.DropDatabase(t.Context(), name); err != nil {
		t.Errorf("DropDatabase of none: %v", err)
	}
}

func TestAnotherPortWhenTheLastIsTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, Options{Dir: dir, DisableFsync: true})
	port := c.Port()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp4", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c = start(t, Options{Dir: dir, DisableFsync: true})
	if c.Port() == port {
		t.Errorf("port %d although another process listens there", port)
	}
	if got := one[int](t, c.TCPURL("postgres"), "select 1"); got != 1 {
		t.Errorf("select 1 = %d", got)
	}
}
