package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/migrations"
	"github.com/deliveryd/deliveryd/sdk/signature"
)

// This is what an operator does who follows docs/operations.md and
// docs/producers.md from the top: a role and a database of its own, migrations, a
// daemon behind PgBouncer, producers with the least rights, the queries for the
// night. Every block of SQL in the documentation and in examples/producers runs.

var sqlBlock = regexp.MustCompile("(?ms)^```sql\n(.*?)^```")

// sqlBlocks returns the SQL of a page, in its order.
func sqlBlocks(t *testing.T, page string, want int) []string {
	t.Helper()
	var blocks []string
	for _, match := range sqlBlock.FindAllStringSubmatch(readFile(t, page), -1) {
		blocks = append(blocks, match[1])
	}
	if len(blocks) != want {
		t.Fatalf("%s has %d blocks of SQL, this test runs %d", page, len(blocks), want)
	}
	return blocks
}

// session is a connection of one role.
type session struct {
	t    *testing.T
	conn *pgx.Conn
}

func connect(t *testing.T, url string) *session {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return &session{t, conn}
}

// run executes statements as psql would, each in a transaction of its own unless
// they say otherwise, and returns the number of rows of the last.
func (s *session) run(what, sql string) int64 {
	s.t.Helper()
	var rows int64
	for _, statement := range strings.SplitAfter(sql, ";\n") {
		if strings.Contains(sql, "$$") {
			statement = sql // a function's body holds semicolons
		}
		if withoutComments(statement) == "" {
			continue
		}
		results, err := s.conn.PgConn().Exec(s.t.Context(), statement).ReadAll()
		if err != nil {
			s.t.Fatalf("%s: %v\n%s", what, err, statement)
		}
		rows = results[len(results)-1].CommandTag.RowsAffected()
		if statement == sql {
			break
		}
	}
	return rows
}

func withoutComments(sql string) string {
	return strings.TrimSpace(regexp.MustCompile(`(?m)^\s*--.*$`).ReplaceAllString(sql, ""))
}

// refused checks that a role may not do something.
func (s *session) refused(sql string) {
	s.t.Helper()
	if _, err := s.conn.Exec(s.t.Context(), sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
		s.t.Errorf("%s: %v, want permission denied", sql, err)
	}
}

func (s *session) count(sql string) int {
	s.t.Helper()
	var n int
	if err := s.conn.QueryRow(s.t.Context(), sql).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// await waits until a query counts so many: no event tells of a commit.
func (s *session) await(sql string, want int) {
	s.t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.After(patience); s.count(sql) != want; {
		select {
		case <-look.C:
		case <-deadline:
			s.t.Fatalf("%s is %d after %v, want %d", sql, s.count(sql), patience, want)
		}
	}
}

// as returns the URL of another role and database on the same server.
func as(t *testing.T, server, role, password, database string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path = url.UserPassword(role, password), "/"+database
	return u.String()
}

func example(t *testing.T, name string) string {
	t.Helper()
	return readFile(t, filepath.Join("examples/producers", name))
}

func TestDocsFollowedFromTheTop(t *testing.T) {
	t.Parallel()
	operations := sqlBlocks(t, "docs/operations.md", 6)
	security := sqlBlocks(t, "docs/security.md", 1)
	producers := sqlBlocks(t, "docs/producers.md", 2)
	cluster := pgtest.Cluster(t)
	server := cluster.TCPURL("postgres")

	// The test's server has a role of that name already, which owns it.
	renamed := strings.NewReplacer("role deliveryd", "role operated", "owner deliveryd", "owner operated")
	connect(t, server).run("roles", renamed.Replace(operations[0]))
	direct := as(t, server, "operated", "change-me", "deliveryd")
	owner := connect(t, direct)
	if _, err := migrations.Up(t.Context(), direct, nil); err != nil {
		t.Fatalf("the role of the documentation cannot migrate: %v", err)
	}
	connect(t, server).run("settings behind PgBouncer", renamed.Replace(operations[2]))

	receiver := newIDReceiver(t)
	startDocumentedDaemon(t, pgtest.PgBouncer(t, direct), receiver)

	connect(t, server).run("an application's role", "create role app login password 'app'")
	owner.run("an application", `create table orders (id int primary key, status text not null default 'open');
insert into orders values (42), (43);
grant select, update on orders to app;
`)
	owner.run("grants.sql", example(t, "grants.sql"))
	app := connect(t, as(t, server, "app", "app", "deliveryd"))
	app.refused("select config from delivery_destinations")
	app.refused("select payload from delivery_queue")
	app.refused("delete from delivery_queue")

	outbox := example(t, "outbox.sql")
	if !strings.Contains(outbox, producers[0]) || !strings.Contains(outbox, producers[1]) {
		t.Error("docs/producers.md shows another outbox than examples/producers/outbox.sql")
	}
	app.run("outbox.sql", outbox)
	receiver.await("order-42-paid")
	app.run("outbox.sql", outbox)
	app.run("fanout.sql", example(t, "fanout.sql"))
	app.run("fanout.sql", example(t, "fanout.sql"))
	app.run("scheduled.sql", example(t, "scheduled.sql"))
	receiver.await("order-42-shipped-", "order-42-shipped-")
	owner.run("trigger.sql", example(t, "trigger.sql"))
	app.run("a payment", "update orders set status = 'paid' where id = 43")
	receiver.await("order-43-paid")

	owner.await("select count(*) from deliveries where status = 'delivered'", 4)
	if n := app.run("status.sql", example(t, "status.sql")); n != 3 {
		t.Errorf("status.sql shows %d rows, want 3", n)
	}
	if n := owner.count("select count(*) from delivery_queue"); n != 1 {
		t.Errorf("%d rows wait, want the reminder alone", n)
	}
	if n := owner.run("who lives", operations[4]); n != 1 {
		t.Errorf("%d daemons live, want 1", n)
	}
	owner.run("the backlog", operations[5])
	owner.run("the largest artifacts", operations[3])
	owner.run("the oldest snapshot", operations[1])
	if n := owner.run("keys in use", security[0]); n != 1 {
		t.Errorf("%d keys in use, want 1", n)
	}
}

// startDocumentedDaemon runs a daemon as in examples/configs/fleet.hcl, against a
// receiver of ours, until the test ends.
func startDocumentedDaemon(t *testing.T, database string, receiver *idReceiver) {
	t.Helper()
	text := fmt.Sprintf(`
database {
  url     = %q
  migrate = false
}
plugins { directory = %q }
encryption { key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" }
http { address = "127.0.0.1:0" }
egress { allow = ["127.0.0.0/8"] }
queue {
  wake          = "poll"
  poll_interval = "50ms"
}
`, database, filepath.Join(binaries, "plugins"))
	for _, label := range []string{"billing", "audit"} {
		text += fmt.Sprintf(`
destination "acme" %q {
  type    = "webhook"
  default = true
  config {
    url    = "%s/%s"
    secret = %q
  }
}
`, label, receiver.url, label, receiver.secret)
	}
	path := filepath.Join(t.TempDir(), "deliveryd.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binaries, "deliveryd"), "run", "--config", path)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "XDG_CACHE_HOME=" + t.TempDir()}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan []string, 1)
	go func() {
		var lines []string
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			lines = append(lines, scanner.Text())
			if strings.Contains(scanner.Text(), "msg=ready") {
				close(ready)
			}
		}
		ended <- lines
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		lines := <-ended
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the daemon ended with %v:\n%s", err, strings.Join(lines, "\n"))
		}
	})
	select {
	case <-ready:
	case lines := <-ended:
		ended <- lines
		t.Fatal("the daemon did not start")
	case <-time.After(patience):
		t.Fatalf("the daemon was not ready within %v", patience)
	}
}

// idReceiver passes on the ids of what arrives with a valid signature.
type idReceiver struct {
	t      *testing.T
	url    string
	secret string
	ids    chan string
}

func newIDReceiver(t *testing.T) *idReceiver {
	t.Helper()
	secret, err := signature.GenerateSecret(24)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.NewVerifier([]string{secret})
	if err != nil {
		t.Fatal(err)
	}
	r := &idReceiver{t: t, secret: secret, ids: make(chan string, 100)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || verifier.Verify(req.Header, body) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.ids <- req.Header.Get("Webhook-Id")
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// await waits for the next deliveries, whose ids must begin as given.
func (r *idReceiver) await(beginnings ...string) {
	r.t.Helper()
	for _, beginning := range beginnings {
		select {
		case id := <-r.ids:
			if !strings.HasPrefix(id, beginning) {
				r.t.Fatalf("%s arrived, want %s", id, beginning)
			}
		case <-time.After(patience):
			r.t.Fatalf("%s did not arrive within %v", beginning, patience)
		}
	}
}
