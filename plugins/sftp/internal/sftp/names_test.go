package sftp

import (
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestWrongTemplates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "empty", "a/b": "no slash", ".": "no slash", "{nonsense}": "no placeholder {nonsense}", "..": "another directory"} {
		_, findings := parseTemplates(&Config{Directory: "/in/{yyyy}", Filename: text})
		if len(findings) != 1 || !strings.Contains(findings[0].Error(), want) || findings[0].Path.String() != "filename" {
			t.Errorf("%q: findings %v, want %q", text, findings, want)
		}
	}
	if _, findings := parseTemplates(&Config{Directory: "/a/../b", Filename: "{id}"}); len(findings) != 1 || findings[0].Path.String() != "directory" {
		t.Errorf("a directory with ..: %v", findings)
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
			t.Errorf("the documentation of filename does not name %s", placeholder)
		}
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
		filename := rapid.SampledFrom([]string{"{id}", "{id}-{filename}", "{organization}{destination}{type}{filename}.{ext}", "{ext}"}).Draw(t, "template")
		parsed, findings := parseTemplates(&Config{Directory: "/base/{organization}/{type}", Filename: filename})
		if findings != nil {
			t.Fatal(findings)
		}
		directory, name := parsed.expand(nametemplate.Source{Delivery: d, Destination: text.Draw(t, "label")})
		if got := path.Clean(directory); !strings.HasPrefix(got, "/base/") || strings.Count(got, "/") != 3 {
			t.Fatalf("directory %q", got)
		}
		if strings.ContainsAny(name, "/\\\x00\n") || name == "." || name == ".." || name == "" || len(name) > maxName {
			t.Fatalf("name %q", name)
		}
	})
}
