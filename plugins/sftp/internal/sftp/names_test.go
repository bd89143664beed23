package sftp

import (
	"path"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestNames(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 23, 5, 6, 0, time.FixedZone("", -3600))
	in := transport.Instance{Label: "bank"}
	order := &transport.Delivery{ID: "dlv_1", DeliveryID: "dlv_0", OrganizationID: "acme", Type: "order.paid", CreatedAt: at}
	report := &transport.Delivery{ID: "dlv_2", DeliveryID: "dlv_2", OrganizationID: "acme/../x", CreatedAt: at, Artifact: &transport.Artifact{Name: "März 2026.csv"}}
	for _, c := range []struct {
		template string
		delivery *transport.Delivery
		want     string
	}{
		{"{id}-{filename}", order, "dlv_1-order.paid.json"},
		{"{id}-{filename}", report, "dlv_2-März 2026.csv"},
		{"{yyyy}{mm}{dd}T{hh}{mi}{ss}.{ext}", order, "20260305T000506.json"},
		{"/in/{organization}/{destination}", report, "/in/acme_.._x/bank"},
		{"{type}", report, "_"},
		{"{delivery_id}.{sha256}", order, "dlv_0.0102"},
		{"plain", order, "plain"},
	} {
		parsed, finding := parseTemplate("directory", c.template, true)
		if finding != nil {
			t.Errorf("%s: %v", c.template, finding)
			continue
		}
		if got := parsed.expand(namesOf(in, c.delivery, []byte{1, 2})); got != c.want {
			t.Errorf("%s: got %q, want %q", c.template, got, c.want)
		}
	}
}

func TestWrongTemplates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "empty", "a/b": "no slash", "{nonsense}": "no placeholder {nonsense}", "{id": "without its }", "id}": "without its {", "a\nb": "control",
		"..": "no name", ".": "no name",
	} {
		if _, finding := parseTemplate("filename", text, false); finding == nil || !strings.Contains(finding.Error(), want) {
			t.Errorf("%q: finding %v, want %q", text, finding, want)
		}
	}
	if _, finding := parseTemplate("directory", "/a/../b", true); finding == nil {
		t.Error("a directory with .. was accepted")
	}
}

// Whatever producers name, the file stays in its directory and its name is one.
func TestNamesStayInTheirDirectory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[./\\]{1,8}`), rapid.StringN(0, 400, 2000))
		d := &transport.Delivery{ID: text.Draw(t, "id"), DeliveryID: text.Draw(t, "delivery"), OrganizationID: text.Draw(t, "organization"), Type: text.Draw(t, "type")}
		if rapid.Bool().Draw(t, "artifact") {
			d.Artifact = &transport.Artifact{Name: text.Draw(t, "name")}
		}
		n := namesOf(transport.Instance{Label: text.Draw(t, "label")}, d, nil)
		directory, finding := parseTemplate("directory", "/base/{organization}/{type}", true)
		if finding != nil {
			t.Fatal(finding)
		}
		if got := path.Clean(directory.expand(n)); !strings.HasPrefix(got, "/base/") || strings.Count(got, "/") != 3 {
			t.Fatalf("directory %q", got)
		}
		filename, finding := parseTemplate("filename", rapid.SampledFrom([]string{"{id}", "{id}-{filename}", "{organization}{destination}{type}{filename}.{ext}", "{ext}"}).Draw(t, "template"), false)
		if finding != nil {
			t.Fatal(finding)
		}
		if name := filename.filenameOf(n); strings.ContainsAny(name, "/\\\x00\n") || name == "." || name == ".." || name == "" || len(name) > maxName {
			t.Fatalf("name %q", name)
		}
	})
}
