package destination

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// trials are plugins that take everything and keep what they were given.
type trials struct {
	mu      sync.Mutex
	secrets map[string][]string // ids by label
}

func (t *trials) Try(_ context.Context, _ string, req *transportv1.OpenRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := []string{}
	for _, one := range req.GetSecrets() {
		ids = append(ids, one.GetId())
	}
	t.secrets[req.GetLabel()] = ids
	return nil
}

// What a reload changes is tried with the signing secrets that the lane would open it
// with. Where these cannot be used it is not tried: that is not the file's fault.
func TestTryOpensWithTheSecretsThatAreKept(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	labels := []string{"none", "two", "revoked", "unreadable"}
	declared := make([]Declaration, len(labels), len(labels)+1)
	for i, label := range labels {
		declared[i] = signing(label, "")
	}
	f.apply(t, declared...)
	create := func(label string) string {
		t.Helper()
		made, _, err := f.CreateSecret(t.Context(), "acme", label, NewSecret{}, admin)
		if err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	older, newer := create("two"), create("two")
	gone := create("revoked")
	if _, err := f.RevokeSecret(t.Context(), "acme", "revoked", gone, true, admin); err != nil {
		t.Fatal(err)
	}
	// Sealed for another place, it cannot be opened in this one.
	f.exec(t, `update webhook_secrets set secret_key = (select secret_key from webhook_secrets where id = $2) where id = $1`, create("unreadable"), older)
	for i := range declared {
		declared[i].Settings.Concurrency++
	}
	plan, err := f.Plan(t.Context(), append(declared, signing("new", "")))
	if err != nil {
		t.Fatal(err)
	}
	tried := &trials{secrets: map[string][]string{}}
	if refused, err := f.Try(t.Context(), plan, tried); err != nil || len(refused) > 0 {
		t.Errorf("refused: %v, %v", refused, err)
	}
	want := map[string][]string{"none": {}, "new": {}, "two": {older, newer}} // the first is primary
	if !maps.EqualFunc(tried.secrets, want, slices.Equal) {
		t.Errorf("tried with %v, want %v", tried.secrets, want)
	}
}
