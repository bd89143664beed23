package docs

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

// pageOf returns the page as it is written now.
func pageOf(t *testing.T) string {
	t.Helper()
	var page bytes.Buffer
	if err := API(&page); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func TestGeneratedPagesAreCommitted(t *testing.T) {
	t.Parallel()
	var configuration bytes.Buffer
	if err := config.Markdown(&configuration); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"api.md": pageOf(t), "configuration.md": configuration.String()} {
		got, err := os.ReadFile(filepath.Join("../../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("docs/%s is stale: run make generate (-written +committed):\n%s", name, diff)
		}
	}
}

func TestPageIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	first := pageOf(t)
	for range 20 {
		if diff := cmp.Diff(first, pageOf(t)); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestPageHasEveryOperationAndType(t *testing.T) {
	t.Parallel()
	page := pageOf(t)
	text, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	document, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	headings := 0
	for path, item := range document.Paths {
		for method, op := range item {
			headings++
			if !strings.Contains(page, "\n### "+strings.ToUpper(method)+" "+path+"\n") {
				t.Errorf("%s %s is not on the page", method, path)
			}
			if len(op.Roles) == 0 {
				t.Errorf("%s %s: nobody may do it", method, path)
			}
		}
	}
	for name, s := range document.Components.Schemas {
		headings++
		if !strings.Contains(page, "\n### "+name+"\n") {
			t.Errorf("type %s is not on the page", name)
		}
		for member := range s.Properties {
			if !strings.Contains(page, "`"+member+"`") {
				t.Errorf("%s.%s is not on the page", name, member)
			}
		}
	}
	if got := strings.Count(page, "\n### "); got != headings || headings < 20 {
		t.Errorf("%d headings on the page, %d operations and types in the document", got, headings)
	}
}

var (
	declaredCode = regexp.MustCompile(`Code\w* +(?:Code )?= "([a-z_]+)"`)
	literalCode  = regexp.MustCompile(`NewProblem\([\w.]+, "([a-z_]+)"`)
)

// Codes are constants of several packages; OpenAPI has no place for them.
func TestPageExplainsEveryProblemCode(t *testing.T) {
	t.Parallel()
	page := pageOf(t)
	known := map[string]bool{}
	for _, directory := range []string{"../api", "../app", "../delivery"} {
		files, err := filepath.Glob(filepath.Join(directory, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, pattern := range []*regexp.Regexp{declaredCode, literalCode} {
				for _, match := range pattern.FindAllSubmatch(text, -1) {
					known[string(match[1])] = true
				}
			}
		}
	}
	if len(known) < 25 {
		t.Fatalf("only %d codes found: %v", len(known), known)
	}
	for code := range known {
		if !strings.Contains(page, "`"+code+"`") {
			t.Errorf("the code %s is not explained", code)
		}
	}
	table := page[strings.Index(page, "## Problems"):strings.Index(page, "## Types")]
	for _, match := range regexp.MustCompile("`([a-z]+_[a-z_]+)`").FindAllStringSubmatch(table, -1) {
		switch name := match[1]; name {
		case "next_cursor", "request_id": // members
		default:
			if !known[name] {
				t.Errorf("the page explains %s, which no problem has", name)
			}
		}
	}
}

func TestAnchorsAreThoseOfGitHub(t *testing.T) {
	t.Parallel()
	for heading, want := range map[string]string{
		"Problems": "problems", "POST /v1/deliveries/batch": "post-v1deliveriesbatch", "GET /v1/deliveries/{id}": "get-v1deliveriesid",
		"At three in the morning": "at-three-in-the-morning", "`a_b`, C": "a_b-c",
	} {
		if got := anchor(heading); got != want {
			t.Errorf("anchor(%q) = %q, want %q", heading, got, want)
		}
	}
}
