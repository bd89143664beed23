package blackbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// revokedBound is the documented bound: no attempt that begins later than this
// after the answer to a revocation is signed with the revoked secret.
const revokedBound = 2 * time.Second

// revokedSteps is how many answers of database and plugin one after the other a
// change takes to be in effect, so many times what one takes here, where tests run
// side by side and with the race detector, is granted on top.
const revokedSteps = 8

// TestRotationOnTwoDaemonsUnderLoad rotates the secrets of busy destinations, half
// of which belong to the daemon that is not asked. A receiver may know the old
// secret until the rotation was answered and the new one from then on, or any of
// both within the overlap: it must always be able to verify.
func TestRotationOnTwoDaemonsUnderLoad(t *testing.T) {
	t.Parallel()
	for _, wake := range []string{"notify", "poll"} {
		t.Run(wake, func(t *testing.T) {
			t.Parallel()
			testRotation(t, wake)
		})
	}
}

func testRotation(t *testing.T, wake string) {
	f := newFleet(t, settings{destinations: 20, wake: wake})
	seen := newWitness(t, f.receiver.secret)
	f.receiver.verify = seen.verify
	f.allowAdmin()
	asked, other := f.start(), f.start()
	load := f.startLoad(false, asked, other) // a lane is owned from its first delivery on
	f.awaitShared(asked, other)
	f.receiver.awaitMore(t, 100)

	newest, ids := map[string]string{}, map[string]string{}
	for _, label := range f.labels {
		made := f.administer(asked, http.MethodPost, "/v1/destinations/"+label+"/secrets/rotate", `{"overlap":"1h"}`)
		newest[label] = made["secret"].(string)
	}
	f.receiver.awaitMore(t, 100) // both signatures: receivers know the old one still
	f.eventually("both signatures at every destination", func() bool { return seen.both(f.labels) })
	// What was signed before has arrived when nothing is on its way any more.
	load.stop()
	f.await("the queue to be empty", `select not exists (select 1 from delivery_queue)`)
	seen.know(newest) // and from now on the new one only
	load = f.startLoad(false, asked, other)
	f.receiver.awaitMore(t, 100)
	for _, label := range f.labels {
		list := f.administer(asked, http.MethodGet, "/v1/destinations/"+label+"/secrets", "")["secrets"].([]any)
		for _, one := range list {
			if s := one.(map[string]any); s["created_by"] == "config" {
				ids[label] = s["id"].(string)
			}
		}
	}
	machine := f.meter(asked, other)
	for _, label := range f.labels {
		f.administer(asked, http.MethodDelete, "/v1/destinations/"+label+"/secrets/"+ids[label], "")
		seen.revoked(label)
	}
	answered := time.Now()
	f.eventually("traffic beyond the bound", func() bool {
		return time.Since(answered) > revokedBound+min(revokedSteps*machine.worst(), slack)
	})
	f.receiver.awaitMore(t, 100)
	bound := revokedBound + revokedSteps*machine.stop()
	load.stop()
	f.settle()
	lag := seen.lag()
	t.Logf("requests: %d, not verified: %d; a revoked secret last signed %v after the answer; bound %v", seen.requests, len(seen.failed), lag.Round(time.Millisecond), bound)
	for _, problem := range seen.failed[:min(5, len(seen.failed))] {
		t.Error(problem)
	}
	if lag > bound {
		t.Errorf("signed with a revoked secret %v after the revocation was answered, want at most %v", lag, bound)
	}
	f.await("uses to be counted", `select bool_and(usage_count > 0 and last_used_at is not null) and count(*) = $1 from webhook_secrets`, 2*len(f.labels))
}

// meter measures what the machine makes of one answer of the database.
type meter struct {
	mu   sync.Mutex
	most time.Duration
	end  context.CancelFunc
	done sync.WaitGroup
}

// meter asks daemons for their readiness, which asks the database, all the time.
func (f *fleet) meter(daemons ...*daemon) *meter {
	ctx, cancel := context.WithCancel(f.t.Context())
	m := &meter{end: cancel}
	for _, d := range daemons {
		m.done.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				began := time.Now()
				if resp, err := http.Get(d.url + "/readyz"); err == nil {
					_ = resp.Body.Close()
				}
				m.mu.Lock()
				m.most = max(m.most, time.Since(began))
				m.mu.Unlock()
			}
		})
	}
	return m
}

// worst is the longest that an answer has taken.
func (m *meter) worst() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

// slack ends the measurement and is what may be granted beyond what a machine with
// nothing else to do takes.
func (m *meter) slack() time.Duration { return slack + revokedSteps*m.stop() }

// alive are the daemons that run.
func (f *fleet) alive() (all []*daemon) {
	for _, d := range f.daemons {
		if !d.gone() {
			all = append(all, d)
		}
	}
	return all
}

func (m *meter) stop() time.Duration {
	m.end()
	m.done.Wait()
	return m.worst()
}

// witness verifies as a receiver does that knows one secret for each destination,
// and knows besides which secrets signed.
type witness struct {
	t *testing.T

	mu       sync.Mutex
	old      *signature.Verifier
	newest   map[string]*signature.Verifier
	knowNew  bool
	doubled  map[string]bool
	since    map[string]time.Time     // by label: when its revocation was answered
	late     map[string]time.Duration // by label: how long after that the old one signed
	requests int
	failed   []string
}

func newWitness(t *testing.T, secret string) *witness {
	t.Helper()
	return &witness{t: t, old: verifierOf(t, secret), newest: map[string]*signature.Verifier{}, doubled: map[string]bool{}, since: map[string]time.Time{}, late: map[string]time.Duration{}}
}

func verifierOf(t *testing.T, secret string) *signature.Verifier {
	t.Helper()
	v, err := signature.NewVerifier([]string{secret})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (w *witness) verify(req *http.Request, body []byte) error {
	at := time.Now()
	label := strings.TrimPrefix(req.URL.Path, "/")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	byOld := w.old.Verify(req.Header, body)
	if since, revoked := w.since[label]; byOld == nil && revoked {
		w.late[label] = at.Sub(since)
	}
	if strings.Contains(req.Header.Get(signature.HeaderSignature), " ") {
		w.doubled[label] = true
	}
	err := byOld
	if w.knowNew {
		err = w.newest[label].Verify(req.Header, body)
	}
	if err != nil {
		w.failed = append(w.failed, label+": "+err.Error())
	}
	return err
}

func (w *witness) both(labels []string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.doubled) == len(labels)
}

func (w *witness) know(secrets map[string]string) {
	verifiers := map[string]*signature.Verifier{}
	for label, secret := range secrets {
		verifiers[label] = verifierOf(w.t, secret)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest, w.knowNew = verifiers, true
}

// revoked says that the revocation of the old secret of a destination was answered.
func (w *witness) revoked(label string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since[label] = time.Now()
}

// lag is how long after its revocation was answered an old secret last signed.
func (w *witness) lag() (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, late := range w.late {
		longest = max(longest, late)
	}
	return longest
}

// allowAdmin adds a key that may change secrets.
func (f *fleet) allowAdmin() {
	f.t.Helper()
	text := f.config() + `
api_key "admin" {
  organization = "` + organization + `"
  role         = "admin"
  token        = "token-of-the-admin"
}
`
	if err := os.WriteFile(f.configPath, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// administer makes a request as admin and returns the answer.
func (f *fleet) administer(d *daemon, method, path, body string) map[string]any {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, d.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer token-of-the-admin")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	var answer map[string]any
	if err != nil || resp.StatusCode/100 != 2 || json.Unmarshal(text, &answer) != nil {
		f.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, text, err)
	}
	return answer
}
