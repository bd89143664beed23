package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

// TestReloadOfManyDestinations: of thousands, a reload touches those that changed,
// however the file around them did, and a refused one touches none.
func TestReloadOfManyDestinations(t *testing.T) {
	t.Parallel()
	const many = 2000
	d := startSolo(t)
	var text strings.Builder
	for i := range many {
		fmt.Fprintf(&text, "destination \"acme\" \"d%d\" {\n  type = \"sink\"\n  config {\n    secret  = \"secret-of-%d\"\n    latency = \"%dms\"\n  }\n}\n", i, i, i%7)
	}
	reload := func(config string) (int, *api.ReloadReport) {
		d.write(config)
		status, answer := d.ask(d.token, http.MethodPost, "/v1/reload", "")
		report := new(api.ReloadReport)
		if err := json.Unmarshal([]byte(answer), report); err != nil {
			t.Fatalf("%d %s: %v", status, answer, err)
		}
		return status, report
	}
	// Which transaction wrote a row, and how often its plugin was told anew.
	versions := func() string {
		return d.query(`select string_agg(concat_ws(' ', label, xmin, generation), ',' order by id) from delivery_destinations`)
	}
	if status, report := reload(text.String()); status != http.StatusOK || len(report.Added) != many {
		t.Fatalf("%d, %d added", status, len(report.Added))
	}
	before := versions()
	if status, report := reload("# A comment, and\n# another one.\n\n" + text.String()); status != http.StatusOK || report.Summary != fmt.Sprintf("destinations: %d unchanged", many) || versions() != before {
		t.Errorf("the same again: %d %+v", status, report)
	}
	if status, _ := reload(strings.Replace(text.String(), "3ms", "3 parsecs", 1)); status != http.StatusUnprocessableEntity || versions() != before {
		t.Errorf("with a mistake: %d", status)
	}
	status, report := reload(strings.Replace(text.String(), "secret-of-1234", "another-of-1234", 1))
	if status != http.StatusOK || len(report.Changed) != 1 || report.Changed[0] != "acme/d1234" || len(report.Added)+len(report.Removed) != 0 {
		t.Fatalf("one changed: %d %+v", status, report)
	}
	was, is := strings.Split(before, ","), strings.Split(versions(), ",")
	for i := range was {
		label, _, _ := strings.Cut(is[i], " ")
		if changed := label == "d1234"; changed != (was[i] != is[i]) || changed && !strings.HasSuffix(is[i], " 2") {
			t.Errorf("%s: %s before, %s after", label, was[i], is[i])
		}
	}
}
