package nametemplate_test

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func ExampleTemplate_Expand() {
	template, err := nametemplate.Parse("{organization}/{yyyy}-{mm}/{id}-{filename}")
	if err != nil {
		panic(err)
	}
	d := &transport.Delivery{ID: "dlv_1", OrganizationID: "acme/eu", Type: "order.paid", ContentType: "application/json", CreatedAt: time.Unix(0, 0)}
	fmt.Println(template.Expand(nametemplate.Source{Delivery: d}, nametemplate.Escape))
	fmt.Println(template.Expand(nametemplate.Source{Delivery: d}, nametemplate.Replace))
	// Output:
	// acme%2Feu/1970-01/dlv_1-order.paid.json
	// acme_eu/1970-01/dlv_1-order.paid.json
}

func TestExpand(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 23, 5, 6, 0, time.FixedZone("", -3600))
	order := &transport.Delivery{ID: "dlv_1", DeliveryID: "dlv_0", OrganizationID: "acme", Type: "order.paid", ContentType: "application/json", CreatedAt: at}
	report := &transport.Delivery{ID: "dlv_2", DeliveryID: "dlv_2", OrganizationID: "acme/../x", CreatedAt: at, Artifact: &transport.Artifact{Name: "März 2026.CSV"}}
	nameless := &transport.Delivery{ID: "dlv_3", CreatedAt: at, Artifact: &transport.Artifact{ContentType: "application/gzip"}}
	untyped := &transport.Delivery{ID: "dlv_4", ContentType: "text/csv; charset=utf-8", CreatedAt: at}
	for _, c := range []struct {
		template string
		delivery *transport.Delivery
		want     string
	}{
		{"{id}-{filename}", order, "dlv_1-order.paid.json"},
		{"{id}-{filename}", report, "dlv_2-März 2026.CSV"},
		{"{id}-{filename}", nameless, "dlv_3-delivery.gz"},
		{"{id}-{filename}", untyped, "dlv_4-delivery.csv"},
		{"{yyyy}{mm}{dd}T{hh}{mi}{ss}.{ext}", order, "20260305T000506.json"},
		{"/in/{organization}/{destination}.{ext}", report, "/in/acme%2F..%2Fx/bank.CSV"},
		{"{type}", report, "_"},
		{"{delivery_id}.{sha256}", order, "dlv_0.0102"},
		{"plain", order, "plain"},
		{".", order, "."},
		{"{delivery_id}{type}/.x", order, "dlv_0order.paid/.x"},
	} {
		parsed, err := nametemplate.Parse(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		if got := parsed.Expand(nametemplate.Source{Delivery: c.delivery, Destination: "bank", SHA256: []byte{1, 2}}, nametemplate.Escape); got != c.want {
			t.Errorf("%s: got %q, want %q", c.template, got, c.want)
		}
	}
}

func TestExtensions(t *testing.T) {
	t.Parallel()
	template, err := nametemplate.Parse("{ext}")
	if err != nil {
		t.Fatal(err)
	}
	for contentType, want := range map[string]string{
		"application/json": "json", "application/cloudevents+json": "json", "application/x-ndjson": "ndjson", "text/csv": "csv", "text/plain; charset=utf-8": "txt",
		"text/html": "html", "application/xml": "xml", "application/pdf": "pdf", "application/zip": "zip", "application/gzip": "gz", "application/zstd": "zst",
		"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx", "application/vnd.apache.parquet": "parquet",
		"": "bin", "application/octet-stream": "bin", "no media type;;": "bin",
	} {
		d := &transport.Delivery{ContentType: contentType}
		if got := template.Expand(nametemplate.Source{Delivery: d}, nametemplate.Escape); got != want {
			t.Errorf("%q: got %q, want %q", contentType, got, want)
		}
	}
}

func TestWrongTemplates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "empty", "{nonsense}": "no placeholder {nonsense}", "{id": "without its }", "id}": "without its {", "{type}}": "without its {", "{": "without its }",
		"a\nb": "control", `a\b`: "backslashes", "..": "another directory", "a/../b": "another directory", "a\xff": "UTF-8",
	} {
		if _, err := nametemplate.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestUnique(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{"{id}": true, "{destination}/{delivery_id}": true, "{delivery_id}": false, "{sha256}": false, "id": false} {
		if template, err := nametemplate.Parse(text); err != nil || template.Unique() != want {
			t.Errorf("%s: unique %t, %v", text, template.Unique(), err)
		}
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 100)
	for value, want := range map[string]string{
		"": "_", "..": "_", ". .": "_", "report.csv": "report.csv", "a/b\\c": "a_b_c", `<"Q1": 5 > 3?>`: "__Q1__ 5 _ 3__", "a\x00\u202eb\xff": "a__b_", "März 100%.csv": "März 100%.csv",
	} {
		if got := nametemplate.Replace(value); got != want {
			t.Errorf("%q became %q, want %q", value, got, want)
		}
	}
	one, other := nametemplate.Replace(long+"1.csv"), nametemplate.Replace(long+"2.csv")
	if one == other || len(one) > 150 || !strings.HasSuffix(one, ".csv") || !utf8.ValidString(one) {
		t.Errorf("long names became %q and %q", one, other)
	}
}

// values are those that somebody would send who wants to get out.
func values() *rapid.Generator[string] {
	hostile := rapid.StringOfN(rapid.SampledFrom([]rune("./\\%_~a2FE\x00é ")), 0, 6, -1)
	broken := rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 6), func(b []byte) string { return string(b) })
	return rapid.OneOf(hostile, broken, rapid.String(), rapid.StringN(0, 400, 2000))
}

func delivery(t *rapid.T, label string) *transport.Delivery {
	draw := func(name string) string { return values().Draw(t, label+" "+name) }
	d := &transport.Delivery{ID: draw("id"), DeliveryID: draw("delivery"), OrganizationID: draw("organization"), Type: draw("type"), ContentType: draw("content type")}
	if rapid.Bool().Draw(t, label+" artifact") {
		d.Artifact = &transport.Artifact{Name: draw("name"), ContentType: draw("artifact's type")}
	}
	return d
}

// checkPlace fails where a name has left its template's directories.
func checkPlace(t interface{ Fatalf(string, ...any) }, template, name string) {
	got := strings.Split(name, "/")
	if len(got) != strings.Count(template, "/")+1 {
		t.Fatalf("%q became %q", template, name)
	}
	for i, segment := range strings.Split(template, "/") {
		if strings.ContainsAny(segment, "{") && (got[i] == "" || got[i] == "." || got[i] == "..") {
			t.Fatalf("%q became %q", template, name)
		}
	}
	if strings.ContainsAny(name, "\x00\n\\") || !utf8.ValidString(name) || path.Clean("/"+name) != "/"+strings.TrimPrefix(name, "/") {
		t.Fatalf("%q became %q", template, name)
	}
}

func TestNamesStayInTheirPlace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"{id}", "a/{organization}/{type}/{filename}.{ext}", "/base/.{type}{filename}/{destination}", "{type}.", "{ext}"}).Draw(t, "template")
		template, err := nametemplate.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		of := nametemplate.Source{Delivery: delivery(t, "d"), Destination: values().Draw(t, "label")}
		checkPlace(t, text, template.Expand(of, nametemplate.Escape))
		checkPlace(t, text, template.Expand(of, nametemplate.Replace))
	})
}

func TestEscapedValuesStayApart(t *testing.T) {
	t.Parallel()
	template, err := nametemplate.Parse("{organization}/{type}/{id}")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		one, other := delivery(t, "one"), delivery(t, "other")
		name := func(d *transport.Delivery) string {
			return template.Expand(nametemplate.Source{Delivery: d}, nametemplate.Escape)
		}
		equal := one.OrganizationID == other.OrganizationID && one.Type == other.Type && one.ID == other.ID
		if (name(one) == name(other)) != equal {
			t.Fatalf("%+v and %+v share %q", one, other, name(one))
		}
	})
}

func TestShortenedNamesStayApart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(64, 300).Draw(t, "most")
		one, other := values().Draw(t, "one"), values().Draw(t, "other")
		if got := nametemplate.Shorten(one, most); len(got) > most || (got == nametemplate.Shorten(other, most)) != (one == other) {
			t.Fatalf("%q became %q", one, got)
		}
	})
}

// FuzzParse: whatever is taken expands to a name in its place.
func FuzzParse(f *testing.F) {
	f.Add("{organization}/{destination}/{yyyy}/{mm}/{dd}/{delivery_id}.{ext}", "order/../paid")
	f.Add("{id}-{filename}", "..")
	f.Add("a/./{type}{", "\xff")
	f.Fuzz(func(t *testing.T, text, value string) {
		template, err := nametemplate.Parse(text)
		if err != nil {
			return
		}
		d := &transport.Delivery{ID: value, DeliveryID: value, OrganizationID: value, Type: value, Artifact: &transport.Artifact{Name: value}}
		of := nametemplate.Source{Delivery: d, Destination: value, SHA256: bytes.Repeat([]byte{1}, 32)}
		for _, quote := range []func(string) string{nametemplate.Escape, nametemplate.Replace} {
			name := template.Expand(of, quote)
			if strings.Count(name, "/") != strings.Count(text, "/") || slices.Contains(strings.Split(name, "/"), "..") {
				t.Errorf("%q became %q", text, name)
			}
		}
	})
}
