package blackbox_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// guide is docs/producers.md: what it shows is what these tests do.
type guide struct {
	t    *testing.T
	text string
}

func readGuide(t *testing.T) guide {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "producers.md"))
	if err != nil {
		t.Fatal(err)
	}
	return guide{t, string(text)}
}

// find returns the only match of a pattern's group.
func (g guide) find(what, pattern string) string {
	g.t.Helper()
	found := regexp.MustCompile(pattern).FindAllStringSubmatch(g.text, -1)
	if len(found) != 1 {
		g.t.Fatalf("docs/producers.md has %d times what looks like %s, want once", len(found), what)
	}
	return found[0][1]
}

func (g guide) transaction() string {
	return g.find("a transaction", "(?s)```sql\n(begin;\n.*?)```")
}

func (g guide) notification() string { return g.find("the notification", "```sql\n(notify .*;\n)```") }

func (g guide) question() string { return g.find("the look-up", "`(select status, [^`]*)`") }

// run runs a program and returns what it printed.
func run(t *testing.T, env []string, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// psql runs statements as a producer's own psql would; what they print comes
// without headings.
func psql(t *testing.T, url, statements string) string {
	t.Helper()
	return run(t, nil, statements, "psql", "-X", "-v", "ON_ERROR_STOP=1", "-qAt", "-d", url)
}

// documented starts a daemon that has what the guide speaks of: an organization
// acme with a destination billing, and orders that somebody is about to pay.
func documented(t *testing.T, s settings) *fleet {
	t.Helper()
	db := pgtest.New(t)
	if s.wake == "poll" {
		s.database, s.direct = pgtest.PgBouncer(t, db.TCPURL), db.URL
	} else {
		s.database = db.URL
	}
	f := newFleet(t, s, "billing")
	psql(t, db.URL, `create table orders (id int primary key, status text not null default 'open');
insert into orders select generate_series(41, 43);`)
	return f
}

// TestProducerWithPsql runs what the guide shows with the real psql: inside a
// transaction that rolls back, of which nothing may be sent, and one that commits.
func TestProducerWithPsql(t *testing.T) {
	t.Parallel()
	g := readGuide(t)
	for name, s := range map[string]settings{"notify": {}, "poll through PgBouncer": {wake: "poll"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := documented(t, s)
			f.receiver.event = orderOf
			f.start()
			rolledBack := strings.NewReplacer("42", "41", "commit;", "rollback;").Replace(g.transaction())
			if !strings.Contains(rolledBack, "rollback;") || !strings.Contains(g.transaction(), "42") {
				t.Fatalf("the guide's transaction is not what this test knows how to roll back:\n%s", g.transaction())
			}
			psql(t, f.s.direct, rolledBack)
			psql(t, f.s.direct, g.transaction())
			psql(t, f.s.direct, g.notification())
			// The one that rolled back would have come first: order within a destination is by due time.
			f.receiver.await(t, "order 42", func() bool { return f.receiver.arrived["42@billing"] != nil })
			f.await("the delivery's log row", `select count(*) from delivery_logs where delivery_id = 'order-42-paid' and status = 'delivered'`)
			if got := psql(t, f.s.direct, g.question()); !strings.HasPrefix(got, "delivered|[{") {
				t.Errorf("what the guide asks of a delivery is answered %q, want delivered and its attempt", got)
			}
			f.receiver.mu.Lock()
			if id := f.receiver.arrived["42@billing"].id; id != "order-42-paid" {
				t.Errorf("it arrived as %q, want the row's id", id)
			}
			f.receiver.mu.Unlock()
			f.ledger.add(f.ledger.accepted, "42@billing")
			f.ledger.add(f.ledger.undone, "41@billing")
			if result := f.settle(); len(result.duplicates) > 0 {
				t.Errorf("it arrived more than once: %s", example(result.duplicates))
			}
			if left, err := f.look(`select count(*) from orders where status = 'paid'`); err != nil || left != "1" {
				t.Errorf("%s orders are paid (%v), want the one whose transaction committed", left, err)
			}
		})
	}
}

// TestProducersDocumented submits the same order as the guide does over HTTP and
// from the command line: one idempotency key, one delivery.
func TestProducersDocumented(t *testing.T) {
	t.Parallel()
	g := readGuide(t)
	f := documented(t, settings{})
	f.receiver.event = orderOf
	d := f.start()
	body := g.find("a body", `(?m)^  -d '(\{"destinations": \["billing"\].*\})'$`)
	for _, want := range []bool{false, true} {
		if duplicate := post(t, d.url+"/v1/deliveries", f.token, body); duplicate != want {
			t.Errorf("duplicate: %t, want %t", duplicate, want)
		}
	}
	command := g.find("a command", `(?m)^(deliveryd send .*--key .*)$`)
	out := run(t, []string{"PATH=" + binaries + ":" + os.Getenv("PATH"), "DELIVERYD_ADDRESS=" + d.url, "DELIVERYD_TOKEN=" + f.token},
		"", "sh", "-c", command)
	t.Logf("deliveryd send says: %s", out)
	f.ledger.add(f.ledger.accepted, "42@billing")
	if result := f.settle(); len(result.duplicates) > 0 {
		t.Errorf("one idempotency key made more than one delivery: %s", example(result.duplicates))
	}
}

// orderOf names the guide's events by their order.
func orderOf(data json.RawMessage) string {
	var order struct{ Order json.Number }
	if json.Unmarshal(data, &order) != nil {
		return ""
	}
	return order.Order.String()
}

// post submits and reports whether the daemon knew the delivery already.
func post(t *testing.T, url, token, body string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var accepted struct{ Duplicate bool }
	if err := json.Unmarshal(text, &accepted); err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("the daemon answered %s: %s", resp.Status, text)
	}
	return accepted.Duplicate
}
