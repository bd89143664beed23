package pgtest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// PgBouncer starts a PgBouncer in transaction mode before the database that tcpURL names (Database.TCPURL, or TCPURL of
// a cluster of the test's own), stops it when the test ends, and returns the URL to connect through it.
//
// A statement through it may run on another server connection than the one before, unless both are in one transaction:
// no session settings, prepared statements (before version 1.21), advisory session locks or LISTEN.
func PgBouncer(t testing.TB, tcpURL string) string {
	t.Helper()
	config, err := pgx.ParseConfig(tcpURL)
	if err != nil {
		t.Fatalf("reading the database's URL: %v", err)
	}
	dir, credential := poolerDir(t)
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, []byte(poolerConfig(dir, config)), 0o644); err != nil {
		t.Fatalf("configuring PgBouncer: %v", err)
	}
	log := startPooler(t, ini, credential)
	u := url.URL{Scheme: "postgres", User: url.User(config.User), Path: "/" + config.Database}
	u.RawQuery = url.Values{"host": {dir}, "port": {"6432"}}.Encode()
	awaitPooler(t, u.String(), log)
	return u.String()
}

// poolerConfig lets anybody in as the role: the socket's directory is the test's own.
func poolerConfig(dir string, config *pgx.ConnConfig) string {
	return fmt.Sprintf(`[databases]
%[1]s = host=%[2]s port=%[3]d dbname=%[1]s user=%[4]s password=%[5]s
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %[6]s
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
`, config.Database, config.Host, config.Port, config.User, config.Password, dir)
}

// poolerDir returns a directory for PgBouncer and whom it runs as: like PostgreSQL it refuses to be root.
func poolerDir(t testing.TB) (string, *syscall.Credential) {
	t.Helper()
	//nolint:usetesting // t.TempDir is closed to other users, and its path may be too long for a socket
	dir, err := os.MkdirTemp("/tmp", "pgbouncer-test-")
	if err != nil {
		t.Fatalf("making a directory for PgBouncer: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if os.Geteuid() != 0 {
		return dir, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatalf("finding a user to run PgBouncer as: %v", err)
	}
	uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		t.Fatalf("giving PgBouncer its directory: %v", err)
	}
	return dir, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// startPooler runs PgBouncer under a shell that ends it when the shell's input ends: at the test's end, or when the test
// binary dies. It returns the path of the log.
func startPooler(t testing.TB, ini string, credential *syscall.Credential) (log string) {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // not in every user's PATH
	}
	log = strings.TrimSuffix(ini, ".ini") + ".log"
	const script = `"$1" "$2" >"$3" 2>&1 & cat >/dev/null; kill -9 $!; wait`
	//nolint:noctx // its input says when it ends
	cmd := exec.Command("/bin/sh", "-c", script, "sh", path, ini, log)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("starting PgBouncer: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting PgBouncer: %v", err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // the shell's status says nothing
	})
	return log
}

func awaitPooler(t testing.TB, url, log string) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgconn.Connect(t.Context(), url)
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		select {
		case <-limit.C:
			text, _ := os.ReadFile(log)
			t.Fatalf("PgBouncer does not answer: %v\n%s(Debian package pgbouncer; make deps installs it)", err, text)
		case <-tick.C:
		}
	}
}
