package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// fixture is a service on a database of its own.
type fixture struct {
	*Service
	sql *pgxpool.Pool
	url string

	begun, ended int // large transfers of a test that makes one at a time
}

// eachBackend runs a test with the artifacts in the database, in a folder and in
// a bucket.
func eachBackend(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Parallel()
	for name, url := range map[string]func(t *testing.T) string{
		"chunks": func(*testing.T) string { return "" },
		"folder": func(t *testing.T) string { return "file://" + t.TempDir() + "/artifacts" },
		"bucket": newBucket,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, url(t)))
		})
	}
}

func open(t *testing.T, url string) *fixture {
	t.Helper()
	db := pgtest.New(t)
	s, err := store.Open(t.Context(), store.Options{URL: db.URL, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	f := &fixture{sql: db.Pool(t), url: url}
	o := Options{Store: s, URL: url, MaxSize: maxSize, Retention: time.Hour, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	o.Large = func() func() { f.begun++; return func() { f.ended++ } }
	service, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	f.Service = service
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := f.sql.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := f.sql.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (f *fixture) put(t *testing.T, body []byte) store.Artifact {
	t.Helper()
	a, err := f.Put(t.Context(), Announced{Organization: "acme", Name: "report.csv", ContentType: "text/csv", Size: int64(len(body))}, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (f *fixture) read(t *testing.T, a *store.Artifact) ([]byte, error) {
	t.Helper()
	body, err := f.Open(t.Context(), a)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadAll(body)
}

// queue inserts a row that refers to an artifact, as a producer does.
func (f *fixture) queue(ctx context.Context, id, organization, artifact string) error {
	_, err := f.sql.Exec(ctx, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		values ($1, $2, 1, jsonb_build_object('type', 'report', 'artifact', $3::text), now())`, id, organization, artifact)
	return err
}

func noise(n int) []byte {
	b := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = random.Read(b)
	return b
}

func TestWhatWasPutIsReadBack(t *testing.T) {
	eachBackend(t, func(t *testing.T, f *fixture) {
		for _, n := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, largeSize + 12345} {
			body := noise(n)
			digest := sha256.Sum256(body)
			a, err := f.Put(t.Context(), Announced{Organization: "acme", Name: "x", ContentType: "a/b", Size: -1, SHA256: digest[:]},
				iotest.OneByteReader(bytes.NewReader(body[:min(n, 10)])))
			if n > 10 {
				if !errors.Is(err, ErrMismatch) {
					t.Fatalf("a body cut short: %v, want ErrMismatch", err)
				}
				a, err = f.Put(t.Context(), Announced{Organization: "acme", Name: "x", ContentType: "a/b", Size: int64(n), SHA256: digest[:]}, bytes.NewReader(body))
			}
			if err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if a.Size != int64(n) || !bytes.Equal(a.Sha256, digest[:]) || a.State != store.ArtifactReady {
				t.Errorf("%d bytes became %+v", n, a)
			}
			got, err := f.read(t, &a)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes: read %d back, %v", n, len(got), err)
			}
		}
		// Six of unknown size, and one that is large, there and back.
		if f.begun != 8 || f.ended != 8 {
			t.Errorf("%d large transfers have begun and %d ended, want 8", f.begun, f.ended)
		}
	})
}

func TestPutRefuses(t *testing.T) {
	eachBackend(t, func(t *testing.T, f *fixture) {
		broken := errors.New("the client went away")
		for name, c := range map[string]struct {
			announced Announced
			body      io.Reader
			want      error
		}{
			"too large as announced": {Announced{Size: maxSize + 1}, bytes.NewReader(nil), ErrTooLarge},
			"too large as it comes":  {Announced{Size: -1}, bytes.NewReader(noise(maxSize + 1)), ErrTooLarge},
			"shorter than announced": {Announced{Size: 5}, bytes.NewReader([]byte("1234")), ErrMismatch},
			"another digest":         {Announced{Size: 4, SHA256: make([]byte, 32)}, bytes.NewReader([]byte("1234")), ErrMismatch},
			"a broken body":          {Announced{Size: -1}, io.MultiReader(bytes.NewReader(noise(2<<20)), iotest.ErrReader(broken)), ErrBody},
		} {
			c.announced.Organization, c.announced.Name, c.announced.ContentType = "acme", "x", "a/b"
			if _, err := f.Put(t.Context(), c.announced, c.body); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		if n := f.count(t, "select count(*) from artifacts where state <> 'deleting'"); n != 0 {
			t.Errorf("%d artifacts are left", n)
		}
		if err := f.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.wantEmpty(t)
	})
}

// wantEmpty checks that nothing is stored any more.
func (f *fixture) wantEmpty(t *testing.T) {
	t.Helper()
	for _, table := range []string{"artifacts", "artifact_chunks", "artifact_references"} {
		if n := f.count(t, "select count(*) from "+table); n != 0 {
			t.Errorf("%s has %d rows, want none", table, n)
		}
	}
	if folder, ok := strings.CutPrefix(f.url, "file://"); ok {
		if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
			t.Errorf("the folder holds %v, %v", left, err)
		}
	}
	if f.bucket != nil && f.bucket.parts != nil {
		if objects, uploads := f.remains(t); objects != 0 || uploads != 0 {
			t.Errorf("the bucket holds %d objects and the parts of %d uploads", objects, uploads)
		}
	}
}

// TestBrokenConnectionIsNoDamage: a driver's error may wrap io.EOF.
func TestBrokenConnectionIsNoDamage(t *testing.T) {
	t.Parallel()
	broken := fmt.Errorf("receiving: %w", io.EOF)
	v := &verified{ReadCloser: io.NopCloser(iotest.ErrReader(broken)), hash: sha256.New(), left: 1}
	if _, err := io.ReadAll(v); !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	f := open(t, "")
	a := f.put(t, noise(2*chunkSize))
	f.exec(t, "update artifact_chunks set data = overlay(data placing 'xxxx'::bytea from 100) where seq = 1")
	if _, err := f.read(t, &a); !errors.Is(err, ErrDamaged) {
		t.Errorf("other bytes: %v, want ErrDamaged", err)
	}
	f.exec(t, "delete from artifact_chunks where seq = 1")
	if _, err := f.read(t, &a); !errors.Is(err, ErrDamaged) {
		t.Errorf("a chunk less: %v, want ErrDamaged", err)
	}
	f.exec(t, "insert into artifact_chunks select artifact_id, n, data from artifact_chunks, generate_series(1, 2) n where seq = 0")
	if _, err := f.read(t, &a); !errors.Is(err, ErrDamaged) {
		t.Errorf("a chunk more: %v, want ErrDamaged", err)
	}
}

func TestOrganizationsAreApart(t *testing.T) {
	t.Parallel()
	f := open(t, "")
	a := f.put(t, []byte("secret"))
	if _, err := f.Get(t.Context(), "other", a.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("another organization's artifact: %v, want ErrNotFound", err)
	}
	if list, err := f.List(t.Context(), "other", "", 10); err != nil || len(list) != 0 {
		t.Errorf("list of another organization: %v, %v", list, err)
	}
	if list, err := f.List(t.Context(), "acme", "", 10); err != nil || len(list) != 1 || list[0].ID != a.ID {
		t.Errorf("list: %v, %v", list, err)
	}
	if list, err := f.List(t.Context(), "acme", a.ID, 10); err != nil || len(list) != 0 {
		t.Errorf("list before the only one: %v, %v", list, err)
	}
	if err := f.queue(t.Context(), "a", "other", a.ID); err == nil {
		t.Error("another organization's row may refer to it")
	}
}

func TestRowsMayReferOnlyToWhatIsThere(t *testing.T) {
	t.Parallel()
	f := open(t, "")
	a := f.put(t, []byte("1"))
	unfinished := store.Artifact{ID: "art_" + fmt.Sprintf("%032x", 1), OrganizationID: "acme", Name: "x", ContentType: "a/b"}
	if err := f.store.CreateArtifact(t.Context(), &unfinished, time.Hour); err != nil {
		t.Fatal(err)
	}
	for id, ok := range map[string]bool{a.ID: true, unfinished.ID: false, "art_" + fmt.Sprintf("%032x", 2): false, "art_deco": true} {
		if err := f.queue(t.Context(), "row-of-"+id, "acme", id); (err == nil) != ok {
			t.Errorf("a row with artifact %s: %v, want accepted: %t", id, err, ok)
		}
	}
	// A producer's own data may have a key of that name.
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		values ('own', 'acme', 1, jsonb_build_object('artifact', $1::text, 'museum', 'louvre'), now())`, unfinished.ID)
	if n := f.count(t, "select count(*) from artifact_references"); n != 1 {
		t.Errorf("%d references, want that of the one row", n)
	}
}

func TestKeptWhileARowNeedsIt(t *testing.T) {
	eachBackend(t, func(t *testing.T, f *fixture) {
		a := f.put(t, noise(chunkSize+1))
		for _, row := range []string{"waiting", "dead"} {
			if err := f.queue(t.Context(), row, "acme", a.ID); err != nil {
				t.Fatal(err)
			}
		}
		f.exec(t, "update delivery_queue set status = 'failed' where id = 'dead'")
		later := func() {
			t.Helper()
			f.exec(t, "update artifacts set retained_until = now() - interval '1 second'")
			f.exec(t, "update artifact_references set created_at = now() - interval '2 minutes'")
			if err := f.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, row := range []string{"waiting", "dead"} {
			later()
			if _, err := f.read(t, &a); err != nil {
				t.Fatalf("while row %q needs it: %v", row, err)
			}
			f.exec(t, "delete from delivery_queue where id = $1", row)
		}
		// Now it is kept for the retention, and no longer.
		later()
		if f.count(t, "select count(*) from artifacts where retained_until between now() + interval '50 minutes' and now() + interval '1 hour'") != 1 {
			t.Error("it is not kept for the retention after the last row")
		}
		later()
		f.wantEmpty(t)
		if _, err := f.Get(t.Context(), "acme", a.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("after all: %v, want ErrNotFound", err)
		}
	})
}

func TestInterruptedUploadsAreSwept(t *testing.T) {
	eachBackend(t, func(t *testing.T, f *fixture) {
		body, hand := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := f.Put(t.Context(), Announced{Organization: "acme", Name: "x", ContentType: "a/b", Size: -1}, body)
			_ = body.Close() // or the hand would wait for a reader
			done <- err
		}()
		if _, err := hand.Write(noise(2*chunkSize + 1)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := f.count(t, "select count(*) from artifacts where state = 'uploading'"); n != 1 {
			t.Fatalf("%d uploads under way, want 1", n)
		}
		// Its client stalls until it counts as dead, and then goes on.
		f.exec(t, "update artifacts set retained_until = now() - interval '1 second'")
		if err := f.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, _ = hand.Write(noise(chunkSize))
		_ = hand.Close()
		if err := <-done; err == nil {
			t.Error("an upload that was swept ended well")
		}
		f.exec(t, "update artifacts set retained_until = now() - interval '1 second'")
		if err := f.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := f.count(t, "select count(*) from artifact_chunks"); n != 0 {
			t.Errorf("%d chunks are left", n)
		}
	})
}

// TestSweepAndInsertAtTheSameMoment: an insert either fails or its artifact stays.
func TestSweepAndInsertAtTheSameMoment(t *testing.T) {
	t.Parallel()
	f := open(t, "")
	const rounds = 60
	accepted, refused := 0, 0
	for n := range rounds {
		a := f.put(t, []byte("1"))
		f.exec(t, "update artifacts set retained_until = now() - interval '1 second' where id = $1", a.ID)
		var wg sync.WaitGroup
		inserts := make([]error, 2)
		for i := range inserts {
			wg.Go(func() { inserts[i] = f.queue(t.Context(), fmt.Sprintf("row-%d-%d", n, i), "acme", a.ID) })
		}
		for range 2 {
			wg.Go(func() {
				if err := f.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		_, err := f.read(t, &a)
		for _, insert := range inserts {
			if insert != nil {
				refused++
				continue
			}
			accepted++
			if err != nil {
				t.Fatalf("a row was accepted, and its artifact is gone: %v", err)
			}
		}
	}
	t.Logf("%d accepted, %d refused", accepted, refused)
}

// TestSweepLeavesWhatAnOpenTransactionRefersTo holds the transaction open over the sweep.
func TestSweepLeavesWhatAnOpenTransactionRefersTo(t *testing.T) {
	t.Parallel()
	f := open(t, "")
	a := f.put(t, []byte("1"))
	f.exec(t, "update artifacts set retained_until = now() - interval '1 second'")
	tx, err := f.sql.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		values ('r', 'acme', 1, jsonb_build_object('type', 'x', 'artifact', $1::text), now())`, a.ID); err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.read(t, &a); err != nil {
		t.Error(err)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"s3://bucket?region=eu-central-1": true, "file:///var/lib/deliveryd/artifacts": true,
		"file://var/lib": false, "file:///": false, "s3://": false, "gs://x": false, "/var/lib": false, "s3://key:secret@bucket": false, "": false,
	} {
		if err := CheckURL(text); (err == nil) != ok {
			t.Errorf("%q: %v, want valid: %t", text, err, ok)
		}
	}
}

func TestArtifactOfAnotherStore(t *testing.T) {
	t.Parallel()
	f := open(t, "file://"+t.TempDir())
	a := f.put(t, []byte("1"))
	elsewhere := "s3://other"
	a.Location = &elsewhere
	if _, err := f.read(t, &a); !errors.Is(err, ErrElsewhere) {
		t.Errorf("%v, want ErrElsewhere", err)
	}
}
