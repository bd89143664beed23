package engine_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"filippo.io/age"

	"github.com/deliveryd/deliveryd/daemon/internal/artifact"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	"github.com/deliveryd/deliveryd/daemon/internal/transform"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// artifacts gives the fixture's engines a store of artifacts.
func (f *fixture) artifacts() (*artifact.Service, func(*engine.Options)) {
	f.t.Helper()
	s, err := artifact.Open(f.t.Context(), artifact.Options{Store: f.store, Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil))})
	if err != nil {
		f.t.Fatal(err)
	}
	return s, func(o *engine.Options) { o.Artifacts = s }
}

func (f *fixture) put(s *artifact.Service, body []byte) store.Artifact {
	f.t.Helper()
	a, err := s.Put(f.t.Context(), artifact.Announced{Organization: "acme", Name: "report.csv", ContentType: "text/csv", Size: int64(len(body))}, bytes.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

// send queues n rows that refer to an artifact, as a producer with nothing but SQL
// does, and returns their ids.
func (f *fixture) send(d *destination.Destination, n int, artifact string) []string {
	f.t.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d-%d", artifact, d.ID, i)
	}
	if _, err := f.pool.Exec(f.t.Context(), `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at)
		select i, $2, $3, jsonb_build_object('type', 'report.ready', 'artifact', $4::text, 'metadata', jsonb_build_object('month', 'may')), now()
		from unnest($1::text[]) i`, ids, d.OrganizationID, d.ID, artifact); err != nil {
		f.t.Fatal(err)
	}
	return ids
}

func TestArtifactIsUploaded(t *testing.T) {
	eachWay(t, func(t *testing.T, f *fixture) {
		f.fake.capabilities = &transportv1.Capabilities{MaxBatch: 32, Upload: true}
		s, with := f.artifacts()
		body := bytes.Repeat([]byte("0123456789abcdef"), 150_000) // more than two chunks
		a := f.put(s, body)
		d := f.destination(destination.Settings{})
		f.start(with)
		id := f.send(d, 1, a.ID)[0]
		f.insert(d, 3, "", "") // beside ordinary ones
		f.eventually("4", "select count(*) from delivery_logs where status = 'delivered'")
		f.fake.mu.Lock()
		defer f.fake.mu.Unlock()
		got := f.fake.uploaded[id]
		if len(f.fake.uploaded) != 1 || !bytes.Equal(got.body, body) {
			t.Fatalf("%d uploads, the artifact's has %d bytes, want 1 with %d", len(f.fake.uploaded), len(got.body), len(body))
		}
		described := got.item.GetArtifact()
		if described.GetName() != "report.csv" || described.GetContentType() != "text/csv" || described.GetSize() != uint64(len(body)) ||
			!bytes.Equal(described.GetSha256(), a.Sha256) || len(got.item.GetData()) != 0 || got.item.GetType() != "report.ready" || !got.checked ||
			!strings.Contains(string(got.item.GetMetadata()), "may") {
			t.Errorf("the plugin was told %v", got.item)
		}
		if object := f.one("select object_details from delivery_logs where delivery_id = $1", id); !strings.Contains(object, a.ID) || !strings.Contains(object, "report.csv") {
			t.Errorf("the log keeps %s of it", object)
		}
	})
}

func TestSmallArtifactOfAPluginWithoutUpload(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	var inline []byte
	var kind string
	f.fake.answer = func(item *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
		inline, kind = item.GetData(), item.GetContentType()
		return success(item.GetId())
	}
	s, with := f.artifacts()
	d := f.destination(destination.Settings{})
	f.start(with)
	f.send(d, 1, f.put(s, []byte("a,b\n1,2\n")).ID)
	f.eventually("1", "select count(*) from delivery_logs where status = 'delivered'")
	f.fake.mu.Lock()
	if string(inline) != "a,b\n1,2\n" || kind != "text/csv" {
		t.Errorf("in a batch came %q as %q", inline, kind)
	}
	f.fake.mu.Unlock()

	f.send(d, 1, f.put(s, make([]byte, 5<<20)).ID)
	f.eventually("1", "select count(*) from delivery_queue where status = 'failed' and failure_reason like '%host.no_upload%takes no uploads%'")
}

func TestFailedUploadIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.fake.capabilities = &transportv1.Capabilities{Upload: true}
	f.fake.answer = func(item *transportv1.Item, _ *transportv1.InstanceRef) *transportv1.Result {
		if item.GetAttempt() < 3 {
			return failure(item.GetId(), transportv1.Failure_CLASS_TRANSIENT, "peer.busy")
		}
		return success(item.GetId())
	}
	s, with := f.artifacts()
	var settings destination.Settings
	settings.Retry.Base = 1_000_000
	d := f.destination(settings)
	f.start(with)
	id := f.send(d, 1, f.put(s, []byte("x")).ID)[0]
	f.eventually("3", "select jsonb_array_length(attempts) from delivery_logs where status = 'delivered' and delivery_id = $1", id)
}

// cut are artifacts of which the first that is opened breaks off, as with the
// connection to its store.
type cut struct {
	engine.Artifacts
	opened atomic.Int64
}

func (c *cut) Open(ctx context.Context, a *store.Artifact) (io.ReadCloser, error) {
	body, err := c.Artifacts.Open(ctx, a)
	if err != nil || c.opened.Add(1) > 1 {
		return body, err
	}
	broken := iotest.ErrReader(fmt.Errorf("the store is gone: %w", io.ErrUnexpectedEOF))
	return io.NopCloser(io.MultiReader(io.LimitReader(body, a.Size/2), broken)), body.Close()
}

// TestArtifactThatBreaksOff: what a plugin says of half an artifact is no attempt at
// its destination.
func TestArtifactThatBreaksOff(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.fake.capabilities = &transportv1.Capabilities{Upload: true}
	f.fake.halfUpload = func(item *transportv1.Item) *transportv1.Result {
		return failure(item.GetId(), transportv1.Failure_CLASS_PERMANENT, "upload.read")
	}
	s, _ := f.artifacts()
	d := f.destination(destination.Settings{})
	f.start(func(o *engine.Options) { o.Artifacts = &cut{Artifacts: s} })
	id := f.send(d, 1, f.put(s, []byte("0123456789")).ID)[0]
	f.eventually("1", "select jsonb_array_length(attempts) from delivery_logs where status = 'delivered' and delivery_id = $1", id)
}

func TestArtifactThatIsGoneOrDamaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.fake.capabilities = &transportv1.Capabilities{Upload: true}
	s, with := f.artifacts()
	d := f.destination(destination.Settings{})
	gone, damaged := f.put(s, []byte("1")), f.put(s, []byte("2"))
	f.send(d, 1, gone.ID)
	f.send(d, 1, damaged.ID)
	for _, sql := range []string{
		"delete from artifact_references", "delete from artifacts where id = '" + gone.ID + "'",
		"update artifact_chunks set data = '3'",
	} {
		if _, err := f.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	f.start(with)
	f.eventually("2", `select count(*) from delivery_queue where status = 'failed'
		and (failure_reason like '%host.artifact_gone%' or failure_reason like '%host.artifact_damaged%')`)
}

// TestUploadsOfOneLaneLeaveRoomForOthers: a peer that takes for ever does not keep
// other destinations from theirs, nor its own events from their slots beyond its concurrency.
func TestUploadsOfOneLaneLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.fake.capabilities = &transportv1.Capabilities{Upload: true}
	s, with := f.artifacts()
	a := f.put(s, []byte("x"))
	slow, quick := f.destination(destination.Settings{Concurrency: 20}), f.destination(destination.Settings{})
	gate := make(chan struct{})
	f.fake.gates[fmt.Sprint(slow.ID)] = gate
	f.start(with)
	f.send(slow, 30, a.ID)
	f.eventually("20", "select count(*) from delivery_queue where destination_id = $1 and status = 'processing'", slow.ID)
	f.send(quick, 5, a.ID)
	f.eventually("5", "select count(*) from delivery_logs where status = 'delivered' and destination_id = $1", quick.ID)
	f.fake.mu.Lock()
	if highest := f.fake.highest[fmt.Sprint(slow.ID)]; highest != 4 {
		t.Errorf("%d uploads of one lane at once, want 4", highest)
	}
	f.fake.mu.Unlock()
	close(gate)
	f.eventually("30", "select count(*) from delivery_logs where status = 'delivered' and destination_id = $1", slow.ID)
}

func TestStopGivesUpWaitingUploads(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.fake.capabilities = &transportv1.Capabilities{Upload: true}
	s, with := f.artifacts()
	a := f.put(s, []byte("x"))
	d := f.destination(destination.Settings{})
	gate := make(chan struct{})
	f.fake.gates[fmt.Sprint(d.ID)] = gate
	e, stop := f.startOne(with)
	f.send(d, 10, a.ID)
	f.eventually("10", "select count(*) from delivery_queue where status = 'processing'")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	waitState(t, e, func(s engine.State) bool { return s.InFlight == 4 }) // what waited is given up
	close(gate)
	<-stopped
	if left := f.one("select count(*) from delivery_queue"); left != "6" {
		t.Errorf("%s rows are left, want the 6 that waited for room", left)
	}
}

// TestTransformedDestinationNeverGetsItInTheClear: neither a file nor an event.
func TestTransformedDestinationNeverGetsItInTheClear(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.fake.capabilities = &transportv1.Capabilities{Upload: true}
	s, with := f.artifacts()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	d := f.destination(destination.Settings{Transform: transform.Settings{Compress: transform.Gzip, EncryptTo: []string{identity.Recipient().String()}}})
	f.start(with)
	file := f.send(d, 1, f.put(s, []byte("a,b\n1,2\n")).ID)[0]
	event := f.insert(d, 1, "", "")[0]
	f.eventually("2", "select count(*) from delivery_logs where status = 'delivered'")
	f.fake.mu.Lock()
	defer f.fake.mu.Unlock()
	for id, want := range map[string][2]string{file: {"report.csv.gz.age", "a,b\n1,2\n"}, event: {event + ".json.gz.age", `{"n": 1}`}} {
		got := f.fake.uploaded[id]
		if got.item == nil || got.item.GetArtifact().GetName() != want[0] || len(got.item.GetData()) != 0 || got.checked {
			t.Fatalf("%s came as %v", id, got.item)
		}
		compressed, err := age.Decrypt(bytes.NewReader(got.body), identity)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := gzip.NewReader(compressed)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(plain); err != nil || string(text) != want[1] {
			t.Errorf("%s holds %q, %v, want %q", id, text, err, want[1])
		}
		if sum := sha256.Sum256(got.body); !bytes.Equal(sum[:], got.item.GetArtifact().GetSha256()) {
			t.Errorf("%s has not the digest that was announced", id)
		}
	}
}
