package blackbox_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// reloads is how many reloads follow each other under load.
const reloads = 50

// edit is one way in which an operator changes the configuration.
type edit struct {
	name  string
	valid bool
	text  func(config string, nth int) string
}

// edits are what the reloads go through, in turn. d00 to d02 are under load.
func edits(secrets [2]string) []edit {
	of := func(label string) string { return fmt.Sprintf("destination %q %q {\n", organization, label) }
	add := func(label, line string) func(string, int) string {
		return func(config string, nth int) string {
			return strings.Replace(config, of(label), of(label)+strings.ReplaceAll(line, "N", fmt.Sprint(nth))+"\n", 1)
		}
	}
	more := func(text string) func(string, int) string {
		return func(config string, nth int) string {
			return config + strings.ReplaceAll(text, "N", fmt.Sprint(nth)) + "\n"
		}
	}
	return []edit{
		{"URL", true, func(config string, nth int) string {
			return strings.Replace(config, `/d00"`, fmt.Sprintf(`/d00?version=%d"`, nth), 1)
		}},
		{"syntax error", false, more(`destination "acme" {{{`)},
		{"secret", true, func(config string, nth int) string {
			at := strings.Index(config, of("d01"))
			return config[:at] + strings.Replace(config[at:], `env("SECRET")`, fmt.Sprintf("%q", secrets[nth/2%2]), 1)
		}},
		{"value out of range", false, add("d03", "concurrency = 0")},
		{"concurrency", true, add("d02", "concurrency = 1N")},
		{"refused by the plugin", false, func(config string, _ int) string {
			return strings.Replace(config, "http://", "gopher://", 1)
		}},
		{"limits", true, add("d03", "circuit_breaker { failures = 1N }\nrate_limit { events = 50000 }")},
		{"missing file", false, more(`locals { gone = file("no-such-file-N") }`)},
		{"egress", true, func(config string, nth int) string {
			return strings.Replace(config, `["127.0.0.0/8"]`, fmt.Sprintf(`["127.0.0.0/8", "192.168.%d.0/24"]`, nth), 1)
		}},
		{"one more, and log level", true, more("destination \"acme\" \"extra-N\" {\n  type = \"webhook\"\n  config {\n    url    = \"https://extra.example/N\"\n    secret = env(\"SECRET\")\n  }\n}")},
	}
}

// TestReloadsUnderLoad changes the configuration fifty times in a row while
// deliveries go on, half of the time with a mistake in it: nothing is lost, nothing
// comes twice, no attempt fails, and a refused configuration changes nothing.
func TestReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{destinations: 8, work: 2 * time.Millisecond})
	other, err := signature.GenerateSecret(24)
	if err != nil {
		t.Fatal(err)
	}
	// The peer takes both secrets, as it must while one is rotated.
	both, err := signature.NewVerifier([]string{f.receiver.secret, other})
	if err != nil {
		t.Fatal(err)
	}
	f.receiver.verify = func(req *http.Request, body []byte) error { return both.Verify(req.Header, body) }
	d := f.start()
	load := f.startLoad(false, d)
	f.receiver.awaitMore(t, 50)
	all := edits([2]string{other, f.receiver.secret})
	for nth := range reloads {
		one := all[nth%len(all)]
		before := f.stored()
		outcome := `"configuration reloaded"`
		if !one.valid {
			outcome = "the old one stays in effect"
		}
		f.reloadWith(d, one.text(f.config(), nth), outcome)
		after := f.stored()
		if !one.valid && after != before {
			t.Errorf("reload %d (%s) was refused, and changed destinations:\n%s\n%s", nth, one.name, before, after)
		}
		if one.valid && after == before && one.name != "egress" {
			t.Errorf("reload %d (%s) changed nothing:\n%s", nth, one.name, after)
		}
		f.receiver.awaitMore(t, 5)
	}
	load.stop()
	result := f.settle()
	t.Logf("%d deliveries through %d reloads", result.accepted, reloads)
	for key, one := range result.duplicates {
		t.Errorf("%s arrived %d times: %v", key, len(one.times), one.times)
	}
	for _, secret := range []string{f.receiver.secret, other, f.token, f.key} {
		if d.said(0, secret) {
			t.Errorf("the log holds the secret %s", secret)
		}
	}
	failed, err := f.look(`select coalesce(string_agg(attempts::text, '; '), '') from (select attempts from delivery_logs where jsonb_array_length(attempts) <> 1 limit 3) a`)
	if err != nil || failed != "" {
		t.Errorf("attempts that failed during a reload: %.2000s %v", failed, err)
	}
}

// reloadWith replaces the configuration, tells the daemon by SIGHUP and waits for
// the outcome in its log.
func (f *fleet) reloadWith(d *daemon, config, outcome string) {
	f.t.Helper()
	fresh := filepath.Join(f.dir, "fresh")
	if err := os.WriteFile(fresh, []byte(config), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(fresh, f.configPath); err != nil {
		f.t.Fatal(err)
	}
	mark := d.mark()
	d.signal(syscall.SIGHUP)
	d.awaitLogAfter(mark, outcome)
}

// stored is what the tables say of the destinations, but for what their use changes.
func (f *fleet) stored() string {
	f.t.Helper()
	text, err := f.look(`select string_agg(concat_ws(' ', label, generation, disabled, disabled_reason, md5(config::text || settings::text)), '; ' order by label) from delivery_destinations`)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}
