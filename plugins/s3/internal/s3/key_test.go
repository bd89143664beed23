package s3

import (
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestKeyTemplates(t *testing.T) {
	t.Parallel()
	d := delivery("1")
	d.Artifact = &transport.Artifact{Name: "Q1/report.CSV", ContentType: "text/csv"}
	b := &bucket{in: transport.Instance{Label: "archive"}}
	for text, want := range map[string]string{
		"{organization}/{destination}/{yyyy}/{mm}/{dd}/{delivery_id}.{ext}": "acme/archive/2026/03/05/dlv_1.CSV",
		"in/{type}/{filename}": "in/order.paid/Q1%2Freport.CSV",
		"{sha256}":             strings.Repeat("00", 32),
		"plain":                "plain",
	} {
		template, err := parseKey(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		b.key = template
		if got, err := b.keyOf(d, [32]byte{}); err != nil || got != want {
			t.Errorf("%s became %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"/a", "a/", "a//b", "../a", "a/./b", "{a}", `a\b`, ""} {
		if _, err := parseKey(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestTheReferenceNamesEveryPlaceholder(t *testing.T) {
	t.Parallel()
	described, err := schema.Of[Config]()
	if err != nil {
		t.Fatal(err)
	}
	for _, placeholder := range nametemplate.Placeholders() {
		if !strings.Contains(described.String(), placeholder) {
			t.Errorf("the documentation of key does not name %s", placeholder)
		}
	}
}

func TestKeyThatIsTooLongIsADeadLetter(t *testing.T) {
	t.Parallel()
	b := opened(t, target(t, "http://127.0.0.1:1", "bucket", ""))
	d := delivery(strings.Repeat("x", 1100))
	_, err := b.Deliver(t.Context(), d)
	if class, code := classOfError(err); class != transport.ClassPermanent || code != "s3.key" {
		t.Errorf("%v: %s %s", err, class, code)
	}
}
