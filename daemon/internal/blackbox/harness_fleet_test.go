package blackbox_test

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

const (
	organization = "acme"
	// lease and renew are the shortest that the configuration allows, for tests that
	// wait for a lease to end. A machine that stands still for half of it makes every
	// daemon lose its lanes, and deliver again what it had in flight; the other tests
	// have longLease.
	lease     = 3 * time.Second
	renew     = time.Second
	longLease = time.Minute
	// slack is what a take-over may take beyond lease + 2 s here, where tests run
	// side by side and the daemon may carry the race detector.
	slack = 6 * time.Second
)

// settings say what a fleet is like.
type settings struct {
	// database is the URL that the daemons get. Defaults to a database of the test's own.
	database string
	// tcp is the URL by which a pooler reaches that database. Defaults to that of the
	// test's own one, otherwise there can be no pooler.
	tcp string
	// direct is the URL by which the test looks, and producers insert. Defaults to database.
	direct string
	// destinations is their number. Defaults to 32.
	destinations int
	// concurrency is that of each destination. Defaults to 4.
	concurrency int
	// wake is queue.wake. Defaults to "notify".
	wake string
	// work is how long the receiver works on a request. Defaults to 5 ms.
	work time.Duration
	// lease is how long a daemon that is killed keeps its lanes. Defaults to longLease.
	lease time.Duration
	// policy is what each destination's block has beside type and config. Defaults to nothing.
	policy string
	// plugins is the directory of plugins, by its name below binaries. Defaults to "plugins".
	plugins string
	// block is the inside of a destination's block. Defaults to a webhook at the receiver.
	block func(label string) string
}

// fleet is some daemons on one database with one receiver.
type fleet struct {
	t          *testing.T
	s          settings
	dir        string
	configPath string // one for all, as in a fleet that is rolled out from one place
	token      string
	key        string
	receiver   *receiver
	db         *pgxpool.Pool // for looking
	labels     []string
	daemons    []*daemon // all that were started
	ledger     *ledger
	serial     atomic.Int64 // numbers the events of all loads
}

// newFleet prepares a fleet without daemons; without labels its destinations are
// numbered.
func newFleet(t *testing.T, s settings, labels ...string) *fleet {
	t.Helper()
	if s.database == "" {
		db := pgtest.New(t)
		s.database, s.tcp = db.URL, db.TCPURL
	}
	s.direct = or(s.direct, s.database)
	s.goTheWay(t)
	// So many that no daemon of three is left without a lane by chance: 3 * (2/3)^32, 1 in 100,000.
	s.destinations, s.concurrency = or(s.destinations, 32), or(s.concurrency, 4)
	s.wake, s.work = or(s.wake, "notify"), or(s.work, 5*time.Millisecond)
	s.lease = or(s.lease, longLease)
	//nolint:usetesting // sockets of plugins are in it, and the path of t.TempDir may be too long for them
	dir, err := os.MkdirTemp("", "fleet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	f := &fleet{
		t: t, s: s, dir: dir, token: "test-" + rand.Text(), key: base64.StdEncoding.EncodeToString(key),
		receiver: newReceiver(t, s.work), db: pgtest.OpenPool(t, s.direct), ledger: newLedger(), labels: labels,
	}
	for i := 0; len(labels) == 0 && i < s.destinations; i++ {
		f.labels = append(f.labels, fmt.Sprintf("d%02d", i))
	}
	f.configPath = filepath.Join(dir, "deliveryd.hcl")
	if err := os.WriteFile(f.configPath, []byte(f.config()), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// goTheWay makes a fleet that says nothing of it wake up and reach its database as
// the environment variable DELIVERYD_FAULT_WAY says: "notify", which is the default,
// "poll", or "pooler", which is polling through PgBouncer in transaction mode.
func (s *settings) goTheWay(t *testing.T) {
	t.Helper()
	switch way := os.Getenv("DELIVERYD_FAULT_WAY"); {
	case way == "" || way == "notify" || s.wake != "":
	case way == "poll" || way == "pooler" && s.tcp == "":
		s.wake = "poll"
	case way == "pooler":
		s.wake, s.database = "poll", pgtest.PgBouncer(t, s.tcp)
	default:
		t.Fatalf("DELIVERYD_FAULT_WAY=%q, want notify, poll or pooler", way)
	}
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// config is what an operator would write.
func (f *fleet) config() string {
	var text strings.Builder
	fmt.Fprintf(&text, `
database   { url = env("DATABASE_URL") }
encryption { key = env("ENCRYPTION_KEY") }
http       { address = "127.0.0.1:0" }
egress     { allow = ["127.0.0.0/8"] }
log        { format = "json" }
plugins    { directory = %q }
api_key "producer" {
  organization = %q
  role         = "producer"
  token        = env("TOKEN")
}
queue {
  wake          = %q
  poll_interval = "200ms"
  lease         = %q
  renew         = %q
}
defaults {
  concurrency = %d
  timeout     = "60s"
  retry {
    max  = 100
    base = "50ms"
    cap  = "500ms"
  }
}
`, filepath.Join(binaries, or(f.s.plugins, "plugins")), organization, f.s.wake, f.s.lease, renew, f.s.concurrency)
	for _, label := range f.labels {
		block := f.s.block
		if block == nil {
			block = f.webhookBlock
		}
		fmt.Fprintf(&text, "\ndestination %q %q {%s\n%s\n}\n", organization, label, block(label), f.s.policy)
	}
	return text.String()
}

func (f *fleet) webhookBlock(label string) string {
	return fmt.Sprintf(`
  type = "webhook"
  config {
    url     = "%s/%s"
    secret  = env("SECRET")
    timeout = "60s"
  }`, f.receiver.url, label)
}

// start adds a daemon to the fleet and returns when it has its lease.
func (f *fleet) start() *daemon {
	f.t.Helper()
	return f.startOn(f.s.database)
}

// startOn is start with a way to the database of the daemon's own.
func (f *fleet) startOn(database string) *daemon {
	f.t.Helper()
	name := fmt.Sprintf("daemon%d", len(f.daemons)+1)
	home := filepath.Join(f.dir, name)
	if err := os.Mkdir(home, 0o700); err != nil {
		f.t.Fatal(err)
	}
	known := []string{} // a nil slice would be null, of which nothing differs
	for _, d := range f.daemons {
		known = append(known, d.id)
	}
	d := launch(f.t, name, f.configPath, []string{
		"DATABASE_URL=" + database, "ENCRYPTION_KEY=" + f.key, "TOKEN=" + f.token, "SECRET=" + f.receiver.secret,
		"STATE_DIRECTORY=" + home,
	})
	d.id = f.await("the lease of "+name, `select id from delivery_daemons where id <> all($1)`, known)
	f.daemons = append(f.daemons, d)
	return d
}

// look runs a query for one value and returns it as text, "" without a row. An
// error is returned as it is: a database that a test killed has many.
func (f *fleet) look(sql string, args ...any) (string, error) {
	var value any
	err := f.db.QueryRow(f.t.Context(), sql, args...).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && value == nil {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking with %q: %w", sql, err)
	}
	return fmt.Sprint(value), nil
}

// await waits until a query returns a text that is neither empty nor false nor 0,
// and returns it: no event tells of a commit.
func (f *fleet) await(what, sql string, args ...any) string {
	f.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := f.look(sql, args...)
		if err == nil && text != "" && text != "false" && text != "0" {
			return text
		}
		select {
		case <-tick.C:
		case <-limit.C:
			f.logStuck()
			f.t.Fatalf("waited %v for %s (%q, %v)", patience, what, text, err)
		}
	}
}

// texts returns the first column of a query.
func (f *fleet) texts(sql string, args ...any) map[string]bool {
	f.t.Helper()
	rows, err := f.db.Query(f.t.Context(), sql, args...)
	if err != nil {
		f.t.Fatalf("looking with %q: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.t.Fatalf("looking with %q: %v", sql, err)
	}
	all := make(map[string]bool, len(list))
	for _, one := range list {
		all[one] = true
	}
	return all
}

// lanes returns the labels of the destinations that a daemon owns.
func (f *fleet) lanes(d *daemon) map[string]bool {
	f.t.Helper()
	return f.texts(`select d.label from delivery_lanes l join delivery_destinations d on d.id = l.destination_id where l.daemon_id = $1`, d.id)
}

// waiting returns the webhook ids of all rows that may still be attempted.
func (f *fleet) waiting() map[string]bool {
	f.t.Helper()
	return f.texts(`select id from delivery_queue where status in ('pending', 'processing')`)
}

// awaitShared waits until every destination has an owner among the daemons, each
// of which owns at least one.
func (f *fleet) awaitShared(daemons ...*daemon) {
	f.t.Helper()
	ids := make([]string, len(daemons))
	for i, d := range daemons {
		ids[i] = d.id
	}
	f.await("the lanes to be shared", `
select count(*) = $2 and count(distinct daemon_id) = $3 from delivery_lanes where daemon_id = any($1)`, ids, len(f.labels), len(ids))
}
