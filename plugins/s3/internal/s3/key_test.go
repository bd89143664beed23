package s3

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestKeyTemplates(t *testing.T) {
	t.Parallel()
	d := delivery("1")
	d.Artifact = &transport.Artifact{Name: "Q1 report.CSV", ContentType: "text/csv"}
	for text, want := range map[string]string{
		"{organization}/{destination}/{yyyy}/{mm}/{dd}/{delivery_id}.{ext}": "acme/archive/2026/03/05/dlv_1.CSV",
		"in/{type}/{filename}":   "in/order.paid/Q1 report.CSV",
		"{sha256}":               strings.Repeat("00", 32),
		"plain":                  "plain",
		"{delivery_id}{type}/.x": "dlv_1order.paid/.x",
	} {
		template, err := parseKey(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := template.expand(d, "archive", [32]byte{}); err != nil || got != want {
			t.Errorf("%s became %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"/a", "a/", "a//b", "../a", "a/./b", "{a}", "{", "}", "a{type", `a\b`, "a\nb", "", "{type}}"} {
		if template, err := parseKey(text); err == nil {
			t.Errorf("%q was taken: %q", text, template)
		}
	}
}

// No value gets out of its place, and two deliveries never share a key that has
// their id.
func TestKeysStayInPlaceAndNeverCollide(t *testing.T) {
	t.Parallel()
	template, err := parseKey("a/{organization}/{type}/{delivery_id}.{ext}")
	if err != nil {
		t.Fatal(err)
	}
	value := rapid.OneOf(rapid.StringOfN(rapid.SampledFrom([]rune("./\\%_a2FE\x00é")), 0, 6, -1), rapid.String())
	expand := func(t *rapid.T, label string) (string, [3]string) {
		parts := [3]string{value.Draw(t, label+" organization"), value.Draw(t, label+" type"), value.Draw(t, label+" id")}
		d := &transport.Delivery{OrganizationID: parts[0], Type: parts[1], DeliveryID: parts[2], ContentType: "application/json", CreatedAt: acceptedAt}
		key, err := template.expand(d, "x", [32]byte{})
		if err != nil {
			t.Skip("too long")
		}
		return key, parts
	}
	rapid.Check(t, func(t *rapid.T) {
		key, parts := expand(t, "one")
		if strings.Count(key, "/") != 3 || !strings.HasPrefix(key, "a/") || checkSegments(key) != nil {
			t.Fatalf("%q became %q", parts, key)
		}
		other, otherParts := expand(t, "other")
		if (key == other) != (parts == otherParts) {
			t.Fatalf("%q and %q share %q", parts, otherParts, key)
		}
	})
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
