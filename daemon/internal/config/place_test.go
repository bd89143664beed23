package config

import (
	"bytes"
	"strings"
	"testing"
)

// What others found is placed, and says nothing secret even if they did.
func TestPlace(t *testing.T) {
	t.Parallel()
	c := loadGood(t, goodHook+"http {\n  address = \":1\"\n}\n")
	d := c.Destinations[0]
	found := c.Place(
		Finding{Destination: d, Summary: "Connection failed", Detail: "The peer said: \x1b[31mno " + testEnv()["TOKEN"]},
		Finding{Setting: &c.HTTP.Address, Severity: SeverityWarning, Summary: "Odd address"},
		Finding{Setting: &c.HTTP.MaxBody, Summary: "Nowhere"},
	)
	if len(found) != 3 || !found.HasErrors() {
		t.Fatalf("%+v", found)
	}
	for i, want := range []struct {
		summary, destination string
		severity             Severity
		placed               bool
	}{
		{"Nowhere", "", SeverityError, false},
		{"Connection failed", d.String(), SeverityError, true},
		{"Odd address", "", SeverityWarning, true},
	} {
		got := found[i]
		if got.Summary != want.summary || got.Destination != want.destination || got.Severity != want.severity || got.Range != nil != want.placed {
			t.Errorf("finding %d: %+v, want %+v", i, got, want)
		}
	}
	if at := found[1].Range; *at != d.Source {
		t.Errorf("it is at %v, the block at %v", at, d.Source)
	}
	var text bytes.Buffer
	if err := found.WriteText(&text, 0, false); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), testEnv()["TOKEN"]) || strings.Contains(text.String(), "\x1b") {
		t.Errorf("it shows %q", text.String())
	}
}

// Without colors, carets say where in the line it is; tabs stay as wide as they are.
func TestCaretsStandBelowWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"value":    {"log { level = \"wran\" }", " 1: log { level = \"wran\" }\n                    ^^^^^^\n"},
		"tab":      {"log {\n\tlevel = \"wran\"\n}", " 2: \tlevel = \"wran\"\n      \t        ^^^^^^\n"},
		"umlauts":  {"log { level = \"ÄÖÜ\" }", " 1: log { level = \"ÄÖÜ\" }\n                    ^^^^^\n"},
		"open end": {"log { level = [\n] }", " 1: log { level = [\n                    ^\n"},
	} {
		_, found := Parse([]Source{{"d.hcl", []byte(test.text)}}, Options{})
		var out strings.Builder
		if err := found.WriteText(&out, 0, false); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: no carets like\n%s\nin\n%s", name, test.want, out.String())
		}
	}
}

// What is printed of a finding does not depend on how much stands before it.
func TestExcerptIsAsOfTheWholeFile(t *testing.T) {
	t.Parallel()
	const mistakes = "log {\n  level = \"wran\"\n}\ndestination \"acme\" {\n  type = \"x\"\n}\nqueue {\n  lease = [\n    1,\n  ]\n}\n"
	printed := func(before string) string {
		_, found := Parse([]Source{{"d.hcl", []byte(before + mistakes)}}, Options{})
		var out strings.Builder
		if err := found.WriteText(&out, 0, true); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	short := printed(strings.Repeat("\n", 60))
	long := printed(strings.Repeat("# a line with ä and more\n", 30) + strings.Repeat("\n", 30))
	if short != long || !strings.Contains(short, "in log") || !strings.Contains(short, "line 62") {
		t.Errorf("after empty lines:\n%s\nafter comments:\n%s", short, long)
	}
}
