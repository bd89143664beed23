package destination

import (
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// knowing makes the fixture's registry tell a redactor of what it opens.
func (f *fixture) knowing() *secret.Redactor {
	known := secret.NewRedactor()
	f.know = func(secrets ...string) func() {
		forget, _ := known.Add(secrets...)
		return forget
	}
	return known
}

// secretive is a fixture with a destination that has the token tok-123456 and a
// signing secret, whose value it returns.
func secretive(t *testing.T) (f *fixture, known *secret.Redactor, d *Destination, value string) {
	t.Helper()
	f = newFixture(t)
	known = f.knowing()
	d = f.create(t, "billing", `{"url":"https://x.example","auth":{"token":"tok-123456"}}`)
	_, value, err := f.CreateSecret(t.Context(), "acme", "billing", NewSecret{}, admin)
	if err != nil {
		t.Fatal(err)
	}
	return f, known, d, value
}

// TestSecretsAreKnownWhileTheyAreInUse: whoever created a destination, the log
// knows its secrets for as long as a plugin has them.
func TestSecretsAreKnownWhileTheyAreInUse(t *testing.T) {
	t.Parallel()
	f, known, d, value := secretive(t)
	line := "tok-123456 " + value
	if got := known.Text(line); got != line {
		t.Errorf("known before anything is open: %q", got)
	}
	ref, err := f.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if got := known.Text(line); got != secret.Redacted+" "+secret.Redacted {
		t.Errorf("while it is open: %q", got)
	}
	f.Release("webhook", ref)
	f.Stop()
	if got := known.Text(line); got != line {
		t.Errorf("known after it was closed: %q", got)
	}
}

// TestPluginsCannotQuoteSecrets: what a plugin says of a destination is shown to
// callers, and it may quote what it was given.
func TestPluginsCannotQuoteSecrets(t *testing.T) {
	t.Parallel()
	f, known, d, value := secretive(t)
	f.plugins.set(func() { f.plugins.failed = "http with tok-123456 and " + value })
	answer, err := f.Test(t.Context(), "acme", "billing", false, By{})
	if err != nil {
		t.Fatal(err)
	}
	steps := answer.String()
	f.Stop()
	f.plugins.set(func() { f.plugins.refuse = "who sends tok-123456 and " + value + "?" })
	_, err = f.Open(t.Context(), d)
	if err == nil {
		t.Fatal("it was opened")
	}
	for what, said := range map[string]string{"test": steps, "refusal": err.Error()} {
		if strings.Contains(said, "tok-123456") || strings.Contains(said, value) || !strings.Contains(said, secret.Redacted) {
			t.Errorf("%s: %s", what, said)
		}
	}
	if got := known.Text("tok-123456"); got != "tok-123456" {
		t.Errorf("known though nothing is open: %q", got)
	}
}
