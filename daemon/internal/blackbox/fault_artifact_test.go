package blackbox_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// artifactSize is that of the files of these tests: many chunks, and more than
// sockets and pipes hold.
const artifactSize = 24 << 20

// fileReceiver takes artifacts at any path. While it is held it reads the first MiB
// of each and no more.
type fileReceiver struct {
	mu      sync.Mutex
	hold    chan struct{}
	begun   chan string // paths whose first MiB has come
	digests map[string][]string
}

func newFileReceiver() *fileReceiver {
	return &fileReceiver{begun: make(chan string, 64), digests: map[string][]string{}}
}

// setHold makes requests from now on stop in the middle, or not.
func (f *fileReceiver) setHold(hold chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = hold
}

func (f *fileReceiver) take(w http.ResponseWriter, req *http.Request) {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	sum := sha256.New()
	if hold != nil {
		if _, err := io.CopyN(sum, req.Body, 1<<20); err != nil {
			return
		}
		f.begun <- req.URL.Path
		select {
		case <-hold:
		case <-req.Context().Done():
			return
		}
	}
	if _, err := io.Copy(sum, req.Body); err != nil {
		return // its sender died
	}
	f.mu.Lock()
	f.digests[req.URL.Path] = append(f.digests[req.URL.Path], fmt.Sprintf("%x", sum.Sum(nil)))
	f.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// awaitBegun waits until n requests stand in the middle.
func (f *fileReceiver) awaitBegun(t *testing.T, n int) {
	t.Helper()
	limit := time.After(patience)
	for range n {
		select {
		case <-f.begun:
		case <-limit:
			t.Fatal("the artifacts do not arrive")
		}
	}
}

// noise is a body that no two parts of are alike, and its digest.
func noise(size int64) (io.Reader, hash.Hash) {
	sum := sha256.New()
	return io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sum), sum
}

// uploadArtifact uploads a file and returns its id and digest.
func (f *fleet) uploadArtifact(d *daemon, size int64) (id, digest string) {
	f.t.Helper()
	body, sum := noise(size)
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, d.url+"/v1/artifacts?name=report.bin", body)
	if err != nil {
		f.t.Fatal(err)
	}
	req.ContentLength = size
	var answer struct{ ID, SHA256 string }
	f.call(req, http.StatusCreated, &answer)
	if digest = fmt.Sprintf("%x", sum.Sum(nil)); answer.SHA256 != digest {
		f.t.Fatalf("the daemon says %s of what is %s", answer.SHA256, digest)
	}
	return answer.ID, digest
}

func (f *fleet) submitArtifact(d *daemon, id string) {
	f.t.Helper()
	text, err := json.Marshal(map[string]any{"destinations": f.labels, "payload": map[string]string{"type": "report", "artifact": id}})
	if err != nil {
		f.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, d.url+"/v1/deliveries", strings.NewReader(string(text)))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	f.call(req, http.StatusAccepted, new(struct{}))
}

func (f *fleet) call(req *http.Request, want int, answer any) {
	f.t.Helper()
	req.Header.Set("Authorization", "Bearer "+f.token)
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != want {
		f.t.Fatalf("%s %s: %s %s, %v", req.Method, req.URL.Path, response.Status, text, err)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		f.t.Fatalf("%s: %v", text, err)
	}
}

// TestFaultKillWhileArtifactsAreUploaded kills the plugin, and then the daemon, while
// four destinations are in the middle of a file: each gets it whole afterwards.
func TestFaultKillWhileArtifactsAreUploaded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{lease: lease}, "a", "b", "c", "d")
	files := newFileReceiver()
	f.receiver.file = files.take
	d := f.start()
	id, digest := f.uploadArtifact(d, artifactSize)

	hold := make(chan struct{})
	files.setHold(hold)
	f.submitArtifact(d, id)
	files.awaitBegun(t, len(f.labels))
	for _, pid := range d.plugins() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	files.awaitBegun(t, len(f.labels)) // the next attempts
	d.kill()
	files.setHold(nil)
	close(hold)
	f.start()
	f.await("all deliveries", "select not exists (select 1 from delivery_queue)")

	files.check(t, f.labels, digest)
}

// check wants the file at every destination, and nowhere another.
func (f *fileReceiver) check(t *testing.T, labels []string, digest string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, label := range labels {
		got := f.digests["/"+label]
		if len(got) == 0 {
			t.Errorf("%s got nothing", label)
		}
		for _, one := range got {
			if one != digest {
				t.Errorf("%s got a file with SHA-256 %s, want %s", label, one, digest)
			}
		}
	}
}
