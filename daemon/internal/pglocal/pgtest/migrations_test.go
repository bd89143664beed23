package pgtest_test

import (
	"database/sql"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/migrations"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

func TestUpStatusCheck(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t).URL
	if err := migrations.Check(t.Context(), url); !errors.Is(err, migrations.ErrPending) {
		t.Errorf("Check of an empty database: %v, want ErrPending", err)
	}
	before, err := migrations.Status(t.Context(), url)
	if err != nil {
		t.Fatalf("Status of an empty database: %v", err)
	}
	if len(before) == 0 || before[0].File != "00001_init.sql" || !before[0].AppliedAt.IsZero() {
		t.Errorf("Status of an empty database: %v, want the files, none applied", before)
	}
	if n := tables(t, url); n != 0 {
		t.Errorf("Status and Check made %d tables, want none", n)
	}
	applied, err := migrations.Up(t.Context(), url, nil)
	if err != nil || len(applied) != len(before) {
		t.Fatalf("Up applied %v (%v), want %d migrations", applied, err, len(before))
	}
	if again, err := migrations.Up(t.Context(), url, nil); err != nil || len(again) != 0 {
		t.Errorf("second Up applied %v (%v), want nothing", again, err)
	}
	after, err := migrations.Status(t.Context(), url)
	if err != nil {
		t.Fatalf("Status: %v", err)
	}
	for _, m := range after {
		if m.AppliedAt.IsZero() {
			t.Errorf("%s is not applied after Up", m.File)
		}
	}
	if err := migrations.Check(t.Context(), url); err != nil {
		t.Errorf("Check after Up: %v", err)
	}
}

func TestDownUndoesEverything(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t).URL
	if _, err := migrations.Up(t.Context(), url, nil); err != nil {
		t.Fatal(err)
	}
	downAll(t, url)
	if n := tables(t, url); n != 1 {
		t.Errorf("%d tables are left, want goose's alone", n)
	}
	if _, err := migrations.Up(t.Context(), url, nil); err != nil {
		t.Errorf("Up after Down: %v", err)
	}
}

func downAll(t *testing.T, url string) {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("../../../../migrations"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.DownTo(t.Context(), 0); err != nil {
		t.Fatalf("undoing the migrations: %v", err)
	}
}

// TestManyDaemonsMigrateOnce starts as many daemons as would trip over each other without the lock, once directly and
// once through a pooler in transaction mode, where a session's lock would not hold.
func TestManyDaemonsMigrateOnce(t *testing.T) {
	t.Parallel()
	for name, route := range map[string]func(*testing.T, *pgtest.Database) string{
		"direct":    func(_ *testing.T, db *pgtest.Database) string { return db.URL },
		"pgbouncer": func(t *testing.T, db *pgtest.Database) string { return pgtest.PgBouncer(t, db.TCPURL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := route(t, pgtest.Empty(t))
			const daemons = 8
			var wg sync.WaitGroup
			applied := make([]int, daemons)
			for i := range daemons {
				wg.Go(func() {
					done, err := migrations.Up(t.Context(), url, nil)
					if err != nil {
						t.Errorf("daemon %d: %v", i, err)
					}
					applied[i] = len(done)
				})
			}
			wg.Wait()
			all, err := migrations.Status(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			want := append(make([]int, daemons-1), len(all))
			slices.Sort(applied)
			if diff := cmp.Diff(want, applied); diff != "" {
				t.Errorf("migrations applied per daemon (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t).URL
	execute(t, url, "insert into "+migrations.Table+" (version_id, is_applied) values (99999, true)")
	_, err := migrations.Up(t.Context(), url, nil)
	for what, err := range map[string]error{"Up": err, "Check": migrations.Check(t.Context(), url)} {
		if !errors.Is(err, migrations.ErrNewer) || !strings.Contains(err.Error(), "version 99999") {
			t.Errorf("%s on a newer database: %v, want ErrNewer that names version 99999", what, err)
		}
	}
}

func TestFailedMigrationIsNamedAndUndone(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t).URL
	files := fstest.MapFS{
		"00001_good.sql": {Data: []byte("-- +goose Up\ncreate table good (n int);\n")},
		"00002_bad.sql":  {Data: []byte("-- +goose Up\ncreate table half (n int);\nselect no_such_function();\n")},
	}
	applied, err := migrations.UpFrom(t.Context(), url, files, nil)
	if err == nil || !strings.Contains(err.Error(), "00002_bad.sql") || !strings.Contains(err.Error(), "no_such_function") {
		t.Errorf("Up with a bad file: %v, want an error that names the file and the fault", err)
	}
	if len(applied) != 0 && applied[0].File != "00001_good.sql" {
		t.Errorf("applied %v, want the good file at most", applied)
	}
	if n := tables(t, url); n != 2 {
		t.Errorf("%d tables, want goose's and the good file's: a failed file must leave nothing", n)
	}
	files["00002_bad.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\ncreate table half (n int);\n")}
	if _, err := migrations.UpFrom(t.Context(), url, files, nil); err != nil {
		t.Errorf("Up with the file mended: %v", err)
	}
}

func TestErrorsSayWhatWasTried(t *testing.T) {
	t.Parallel()
	if _, err := migrations.Up(t.Context(), "postgres://%%%", nil); err == nil || !strings.Contains(err.Error(), "migrating the database") {
		t.Errorf("Up with a bad URL: %v", err)
	}
	if _, err := migrations.Status(t.Context(), "postgres://127.0.0.1:1/none?connect_timeout=2"); err == nil {
		t.Error("Status without a server: no error")
	}
}

// TestNoIndexOnGrowingJSON: a btree on a jsonb that grows fails on insert past 2.7 kB, which the document's own schema
// would do to every delivery with about sixty attempts.
func TestNoIndexOnGrowingJSON(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t).URL
	rows, err := connect(t, url).Query(t.Context(), `
		select i.indexrelid::regclass::text from pg_index i
		join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
		join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
		where a.atttypid = 'jsonb'::regtype and m.amname = 'btree'`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > 0 {
		t.Errorf("btree indexes on jsonb: %v", names)
	}
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	if _, err := connect(t, url).Exec(t.Context(), sql); err != nil {
		t.Fatalf("running %q: %v", sql, err)
	}
}

func tables(t *testing.T, url string) (n int) {
	t.Helper()
	const query = "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v')"
	if err := connect(t, url).QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("counting tables: %v", err)
	}
	return n
}
