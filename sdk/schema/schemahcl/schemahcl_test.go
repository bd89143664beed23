package schemahcl_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/schema/schemahcl"
)

type config struct {
	URL     string            `config:"url,required" doc:"Where to." format:"url"`
	Wait    string            `config:"wait" doc:"How long." format:"duration" default:"30s"`
	Retries int               `config:"retries" doc:"How often." default:"3" max:"10"`
	Tags    []string          `config:"tags" doc:"Labels." pattern:"[a-z]+"`
	Headers map[string]string `config:"headers" doc:"Headers." pattern:"[a-z]+"`
	Auth    *auth             `config:"auth" doc:"Credentials."`
	Targets []target          `config:"target" doc:"Targets." max:"3"`
}

type auth struct {
	User string `config:"user,required" doc:"Name."`
}

type target struct {
	Host string `config:"host,required" doc:"Host." format:"host"`
}

// check is what the daemon does with config {}.
func check(t *testing.T, source string) (filled string, problems []string) {
	t.Helper()
	s, err := schema.Of[config]()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := schemahcl.ToHCLDec(s)
	if err != nil {
		t.Fatal(err)
	}
	file, diagnostics := hclsyntax.ParseConfig([]byte(source), "a.hcl", hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	value, diagnostics := hcldec.Decode(file.Body, spec, nil)
	if !diagnostics.HasErrors() {
		encoded, err := ctyjson.Marshal(value, value.Type())
		if err != nil {
			t.Fatal(err)
		}
		checked, findings := schema.Check(s, encoded)
		filled, diagnostics = string(checked), schemahcl.Diagnostics(file.Body, findings)
	}
	for _, d := range diagnostics {
		problems = append(problems, fmt.Sprintf("%d:%d %s", d.Subject.Start.Line, d.Subject.Start.Column, d.Summary))
	}
	return filled, problems
}

func TestBodyBecomesConfig(t *testing.T) {
	t.Parallel()
	filled, problems := check(t, `
url     = "https://a.example"
retries = 1 + 1
tags    = ["a", "b"]
headers = { x = "y" }
auth { user = "u" }
target { host = "a" }
target { host = "b" }
`)
	want := `{"auth":{"user":"u"},"headers":{"x":"y"},"retries":2,"tags":["a","b"],"target":[{"host":"a"},{"host":"b"}],"url":"https://a.example","wait":"30s"}`
	if filled != want || len(problems) > 0 {
		t.Errorf("%s %v, want %s", filled, problems, want)
	}
	filled, problems = check(t, `url = "https://a.example"`)
	if want := `{"retries":3,"target":[],"url":"https://a.example","wait":"30s"}`; filled != want || len(problems) > 0 {
		t.Errorf("%s %v, want %s", filled, problems, want)
	}
}

func TestMistakesHaveTheirPlace(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"wait = \"1s\"\n":                                                             `1:1 Missing required argument`,
		"url = \"https://a\"\nulr = \"x\"":                                            `2:1 Unsupported argument`,
		"url = \"https://a\"\nretries = \"x\"":                                        `2:11 Incorrect attribute value type`,
		"url = \"https://a\"\nauth {\n}":                                              `2:6 Missing required argument`,
		"url = \"https://a\"\nauth {\n}\nauth {\n}":                                   `4:1 Duplicate auth block`,
		"\n\nurl = \"a\"":                                                             `3:1 "a": want an absolute URL such as https://host/path`,
		"url = \"https://a\"\nretries = 11":                                           `2:1 11 is more than the maximum of 10`,
		"url = \"https://a\"\ntags = [\"a\",\n \"B\"]":                                `3:2 "B" does not match the pattern [a-z]+`,
		"url = \"https://a\"\nheaders = {\n  x = \"y\"\n  \"z\" = \"Z\"\n}":           `4:3 "Z" does not match the pattern [a-z]+`,
		"url = \"https://a\"\ntarget {\nhost = \"a\"\n}\ntarget {\nhost = \"b c\"\n}": `6:1 "b c": want a host name or an IP address`,
		"url = \"https://a\"\ntarget {\nhost = \"a\"\n}\ntarget {\nhost = \"b\"\n}\ntarget {\nhost = \"b\"\n}\ntarget {\nhost = \"b\"\n}": `Too many target blocks`,
	} {
		_, problems := check(t, source)
		if len(problems) == 0 || !strings.Contains(strings.Join(problems, "\n"), want) {
			t.Errorf("%s\n%v, want %q", source, problems, want)
		}
	}
}

func TestRangeOfFallsBackToWhatIsAround(t *testing.T) {
	t.Parallel()
	file, diagnostics := hclsyntax.ParseConfig([]byte("a = x\nb {\n  c = [1]\n}\n"), "a.hcl", hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	for line, path := range map[int]schema.Path{
		1: schema.At("a").Index(3).Key("k"), 2: schema.At("b"), 3: schema.At("b", "c").Index(7),
	} {
		if got := schemahcl.RangeOf(file.Body, path); got.Start.Line != line {
			t.Errorf("%s: %s, want line %d", path, got, line)
		}
	}
	missing := file.Body.MissingItemRange()
	for _, path := range []schema.Path{nil, schema.At("zzz"), schema.At("b").Index(4)} {
		if got := schemahcl.RangeOf(file.Body, path); got != missing {
			t.Errorf("%s: %s, want %s", path, got, missing)
		}
	}
}

func TestMistakesInAForeignSchema(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]*transportv1.ConfigSchema{
		`attribute "a": type "strng"`: {Attributes: []*transportv1.Attribute{{Name: "a", Type: "strng"}}},
		`attribute "a": type ""`:      {Attributes: []*transportv1.Attribute{{Name: "a"}}},
		`"a" is declared twice`:       {Attributes: []*transportv1.Attribute{{Name: "a", Type: "string"}, {Name: "a", Type: "string"}}},
		`block "b": attribute "a"`:    {Blocks: []*transportv1.Block{{Type: "b", Body: &transportv1.ConfigSchema{Attributes: []*transportv1.Attribute{{Name: "a", Type: "?"}}}}}},
	} {
		if _, err := schemahcl.ToHCLDec(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
