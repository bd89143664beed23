package pgtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/deliveryd/deliveryd/migrations"
	"github.com/jackc/pgx/v5"
)

const (
	// templateDatabase is migrated once and copied for each test.
	templateDatabase = "deliveryd_template"
	// Variable names the environment variable by which the runner tells test binaries where its cluster is.
	Variable = "DELIVERYD_TEST_CLUSTER"
	// placeholder stands for the database's name in the URLs that Variable holds.
	placeholder = "DATABASE"
)

// fixture is the shared cluster as a test binary sees it.
type fixture struct {
	URL    string `json:"url"`
	TCPURL string `json:"tcp_url"`
	// Major is the server's major version.
	Major int `json:"major"`

	mu sync.Mutex
	// own keeps a cluster that this process started.
	own *Shared
}

func (f *fixture) url(database string) string {
	return strings.Replace(f.URL, placeholder, database, 1)
}

func (f *fixture) tcpURL(database string) string {
	return strings.Replace(f.TCPURL, placeholder, database, 1)
}

// create copies a template. Copying files takes 25-31 ms without fsync, the default since version 15 (copying through
// the log) 43-179 ms; before, files were the only way.
func (f *fixture) create(ctx context.Context, name, template string) error {
	sql := "create database " + quote(name) + " template " + quote(template)
	if f.Major >= 15 {
		sql += " strategy file_copy"
	}
	return f.exec(ctx, sql)
}

// exec runs one statement on the maintenance database. One connection at a time per binary: copying a database is
// bounded by the disk, and a hundred parallel tests must not take a hundred connections for it.
func (f *fixture) exec(ctx context.Context, sql string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// A test's context ends connections that it uses, so each statement gets its own.
	conn, err := pgx.Connect(ctx, f.url("postgres"))
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("running %q: %w", sql, err)
	}
	return nil
}

// findOrStart returns the runner's cluster, else starts one that ends with this process.
func findOrStart() (*fixture, error) {
	if text := os.Getenv(Variable); text != "" {
		f := new(fixture)
		if err := json.Unmarshal([]byte(text), f); err != nil {
			return nil, fmt.Errorf("reading %s: %w", Variable, err)
		}
		return f, nil
	}
	own, err := StartShared(context.Background())
	if err != nil {
		return nil, err
	}
	f := own.describe()
	f.own = own
	return f, nil
}

// Shared is a cluster with the migrated template that New copies. It ends with the process that started it.
type Shared struct {
	dir      string
	cluster  *pglocal.Cluster
	lifeline io.Closer
}

// StartShared starts a cluster for tests, without fsync, in a temporary directory. For the runner and for this package.
func StartShared(ctx context.Context) (_ *Shared, err error) {
	dir, err := os.MkdirTemp("", "deliveryd-test-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the cluster: %w", err)
	}
	s := &Shared{dir: dir}
	if s.cluster, err = pglocal.Start(ctx, pglocal.Options{Dir: dir, DisableFsync: true}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if s.lifeline, err = removeWhenGone(dir, s.cluster.PID()); err != nil {
		return nil, err
	}
	if err := migrateInto(ctx, s.cluster, templateDatabase); err != nil {
		return nil, err
	}
	return s, nil
}

// Stop stops the server and removes its directory.
func (s *Shared) Stop(ctx context.Context) error {
	err := errors.Join(s.cluster.Stop(ctx), os.RemoveAll(s.dir))
	if s.lifeline != nil {
		err = errors.Join(err, s.lifeline.Close())
	}
	return err
}

// Environ returns the environment variable by which test binaries find the cluster.
func (s *Shared) Environ() (string, error) {
	text, err := json.Marshal(s.describe())
	if err != nil {
		return "", fmt.Errorf("describing the cluster: %w", err)
	}
	return Variable + "=" + string(text), nil
}

func (s *Shared) describe() *fixture {
	return &fixture{URL: s.cluster.URL(placeholder), TCPURL: s.cluster.TCPURL(placeholder), Major: s.cluster.Version()}
}

func migrateInto(ctx context.Context, cluster *pglocal.Cluster, name string) error {
	if err := cluster.CreateDatabase(ctx, name, ""); err != nil {
		return err
	}
	if _, err := migrations.Up(ctx, cluster.URL(name), nil); err != nil {
		return err
	}
	return nil
}

// removeWhenGone leaves a shell behind that removes dir when this process has ended, which closes the shell's input,
// and the server after it. A test binary has no hook for its own end that also works when a test panics.
func removeWhenGone(dir string, postmaster int) (lifeline io.Closer, err error) {
	const script = `cat >/dev/null; n=0
while kill -0 "$1" 2>/dev/null && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
rm -rf -- "$2"`
	//nolint:noctx // it must outlive everything here
	cmd := exec.Command("/bin/sh", "-c", script, "sh", strconv.Itoa(postmaster), dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("arranging the removal of %s: %w", dir, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("arranging the removal of %s: %w", dir, err)
	}
	return stdin, nil
}
