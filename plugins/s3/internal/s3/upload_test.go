package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

const artifactKey = "acme/archive/2026/03/05/dlv_1.csv"

func TestUpload(t *testing.T) {
	t.Parallel()
	const part = 5 << 20
	for _, size := range []int{0, 1, part, part + 1, 3 * part, 3*part + 12345} {
		name := newBucket(t)
		d, content := artifact("1", size)
		receipt, err := opened(t, target(t, gateway.URL, name, "")).Upload(t.Context(), d, bytes.NewReader(content))
		if err != nil {
			t.Errorf("%d bytes: %v", size, err)
			continue
		}
		body, out := stored(t, name, artifactKey)
		if !bytes.Equal(body, content) || *out.ContentType != "text/csv" || out.Metadata[metaSHA256] != receipt.Details["sha256"] {
			t.Errorf("%d bytes: %d are stored, of type %s: %v", size, len(body), *out.ContentType, out.Metadata)
		}
		if objects, uploads := remains(t, name); objects != 1 || uploads != 0 {
			t.Errorf("%d bytes: %d objects, %d uploads left", size, objects, uploads)
		}
		d.Attempt = 2
		if again, err := opened(t, target(t, gateway.URL, name, "")).Upload(t.Context(), d, bytes.NewReader(content)); err != nil || again.Details["existing"] == "" {
			t.Errorf("%d bytes again: %+v, %v", size, again, err)
		}
	}
}

// The connection breaks in the middle of a part.
func TestUploadCutMidTransfer(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	var broken atomic.Bool
	url := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("partNumber") == "2" && broken.CompareAndSwap(false, true) {
			cut(w, r, 1<<20)
			return true
		}
		return false
	})
	b := opened(t, target(t, url, name, ""))
	d, content := artifact("1", 16<<20)
	_, err := b.Upload(t.Context(), d, bytes.NewReader(content))
	if class, code := classOfError(err); class != transport.ClassTransient {
		t.Errorf("%v: %s %s", err, class, code)
	}
	if objects, uploads := remains(t, name); objects != 0 || uploads != 0 {
		t.Errorf("%d objects and %d uploads after a failed attempt", objects, uploads)
	}
	d.Attempt = 2
	if _, err := b.Upload(t.Context(), d, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if body, _ := stored(t, name, artifactKey); !bytes.Equal(body, content) {
		t.Error("the object differs")
	}
}

// The network goes away altogether: nothing can be aborted before it is back.
func TestUploadLeftoverIsRemovedByTheNextAttempt(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	var dead atomic.Bool
	url := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("partNumber") == "2" {
			dead.Store(true)
		}
		if dead.Load() {
			hangUp(w)
		}
		return dead.Load()
	})
	d, content := artifact("1", 12<<20)
	if _, err := opened(t, target(t, url, name, "")).Upload(t.Context(), d, bytes.NewReader(content)); err == nil {
		t.Fatal("uploaded over a dead network")
	}
	if objects, uploads := remains(t, name); objects != 0 || uploads != 1 {
		t.Fatalf("%d objects, %d uploads; the test needs a leftover", objects, uploads)
	}
	d.Attempt = 2
	if _, err := opened(t, target(t, gateway.URL, name, "")).Upload(t.Context(), d, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if objects, uploads := remains(t, name); objects != 1 || uploads != 0 {
		t.Errorf("%d objects, %d uploads", objects, uploads)
	}
}

// The answer to the last request is lost: the object is there, and the next
// attempt knows it.
func TestUploadAnswerLost(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	var lost atomic.Bool
	url := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && lost.CompareAndSwap(false, true) {
			body, _ := io.ReadAll(r.Body)
			again, _ := http.NewRequest(r.Method, gateway.URL+r.URL.RequestURI(), bytes.NewReader(body))
			again.Header, again.Host = r.Header, r.Host
			if response, err := http.DefaultClient.Do(again); err == nil {
				_ = response.Body.Close()
			}
			hangUp(w)
			return true
		}
		return false
	})
	d, content := artifact("1", 6<<20)
	b := opened(t, target(t, url, name, ""))
	_, err := b.Upload(t.Context(), d, bytes.NewReader(content))
	if class, code := classOfError(err); class != transport.ClassUnknownOutcome || code != "s3.cut" {
		t.Errorf("%v: %s %s", err, class, code)
	}
	d.Attempt = 2
	if receipt, err := b.Upload(t.Context(), d, strings.NewReader("")); err != nil || receipt.Details["existing"] != "same delivery" {
		t.Errorf("%+v, %v", receipt, err)
	}
	if body, _ := stored(t, name, artifactKey); !bytes.Equal(body, content) {
		t.Error("the object differs")
	}
}

// A body that turns out damaged, or stops, never becomes an object.
func TestDamagedUploadIsNeverCommitted(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 12 << 20} {
		name := newBucket(t)
		d, content := artifact("1", size)
		body := io.MultiReader(bytes.NewReader(content), failing{transport.ErrDamagedUpload})
		_, err := opened(t, target(t, gateway.URL, name, "")).Upload(t.Context(), d, body)
		if class, _ := classOfError(err); class != transport.ClassTransient || !errors.Is(err, transport.ErrDamagedUpload) {
			t.Errorf("%d: %v", size, err)
		}
		if objects, uploads := remains(t, name); objects != 0 || uploads != 0 {
			t.Errorf("%d: %d objects, %d uploads", size, objects, uploads)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestCanceledUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url := faulty(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("partNumber") == "2" {
			cancel()
		}
		return false
	})
	d, content := artifact("1", 16<<20)
	if _, err := opened(t, target(t, url, name, "")).Upload(ctx, d, bytes.NewReader(content)); err == nil {
		t.Error("a canceled upload has succeeded")
	}
	if objects, uploads := remains(t, name); objects != 0 || uploads != 0 {
		t.Errorf("%d objects, %d uploads", objects, uploads)
	}
}

func TestUploadDoesNotReplace(t *testing.T) {
	t.Parallel()
	name := newBucket(t)
	b := opened(t, target(t, gateway.URL, name, `,"key":"fixed","if_exists":"fail"`))
	first, content := artifact("1", 6<<20)
	if _, err := b.Upload(t.Context(), first, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	second, other := artifact("2", 7<<20)
	_, err := b.Upload(t.Context(), second, bytes.NewReader(other))
	if class, code := classOfError(err); class != transport.ClassPermanent || code != "s3.exists" {
		t.Errorf("%v: %s %s", err, class, code)
	}
	if body, _ := stored(t, name, "fixed"); !bytes.Equal(body, content) {
		t.Error("the object was replaced")
	}
	if _, uploads := remains(t, name); uploads != 0 {
		t.Errorf("%d uploads left", uploads)
	}
}

func TestPartSizeHoldsAnyArtifact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size, configured := rapid.Int64Range(1, 48<<40).Draw(t, "size"), rapid.Int64Range(5<<20, 512<<20).Draw(t, "configured")
		got := partSize(size, configured)
		if got < configured || (size+got-1)/got > maxParts {
			t.Fatalf("%d in parts of %d", size, got)
		}
	})
}

// However many uploads there are, memory is what it was said to be, and each has
// a part.
func TestPartBuffersAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		shared := &budget{left: sharedBuffers}
		size := int64(rapid.SampledFrom([]int{5 << 20, 8 << 20, 64 << 20}).Draw(t, "size"))
		var uploads []*partBuffers
		extra := int64(0)
		for range rapid.IntRange(1, 20).Draw(t, "uploads") {
			p := newPartBuffers(shared, size, 4)
			p.made = 1
			for p.made < p.most && shared.take(size) {
				p.made++
				extra += size
			}
			uploads = append(uploads, p)
		}
		if extra > max(sharedBuffers, size) {
			t.Fatalf("%d bytes beyond one part each", extra)
		}
		for _, p := range uploads {
			p.release()
		}
		if shared.left != sharedBuffers {
			t.Fatalf("%d left at the end", shared.left)
		}
	})
}

func ExampleConfig() {
	_, found := check(`{"bucket":"archive","region":"eu-central-1","key":"{year}/{delivery_id}","credentials":{}}`)
	for _, d := range found {
		fmt.Println(d.Path, d.Summary)
	}
	// Output:
	// key there is no placeholder {year}
	// credentials no source of credentials
}
