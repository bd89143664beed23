package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/hashicorp/go-hclog"
)

// lines decodes a JSON log.
func lines(t *testing.T, log string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(log) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("log line %q is not JSON: %v", line, err)
		}
		all = append(all, record)
	}
	return all
}

func TestLogRedactsEveryField(t *testing.T) {
	t.Parallel()
	const key = `whsec_s3cr3t"value\with/escapes`
	for _, format := range []Format{FormatJSON, FormatText} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log := NewLog(Options{Output: &out, Format: format})
			before := log.With("bound", key)
			forget := log.Know(key)
			before.Info("message with "+key, "attribute", key, "error", errors.New("refused: "+key), slog.Group("g", "k", key))
			if got := out.String(); strings.Contains(got, "s3cr3t") {
				t.Errorf("log shows the secret: %s", got)
			}
			if !strings.Contains(out.String(), secret.Redacted) {
				t.Errorf("nothing stands in the secret's place: %s", out.String())
			}
			out.Reset()
			if forget(); log.Redact("no "+key) != "no "+key {
				t.Error("what is no secret any more is replaced")
			}
		})
	}
}

// A caller's guess that is replaced would tell him that he guessed right.
func TestShortSecretsAreNotRedactedInWhatIsShown(t *testing.T) {
	t.Parallel()
	log := NewLog(Options{Output: io.Discard})
	forget := log.Know("hunter2", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZI")
	const text = "hunter2 whsec_MfKQ9r8GKYqrTwjUPD8ILPZI"
	if got := log.RedactShown(text); got != "hunter2 ***" {
		t.Errorf("shown %q", got)
	}
	if got := log.Redact(text); got != "*** ***" {
		t.Errorf("logged %q", got)
	}
	if forget(); log.RedactShown(text) != text {
		t.Errorf("forgotten, and shown %q", log.RedactShown(text))
	}
}

func TestLogLevelChangesForLoggersMadeBefore(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := NewLog(Options{Output: &out, Format: FormatJSON})
	child := log.With("component", "x")
	child.Debug("hidden")
	log.SetLevel(slog.LevelDebug)
	child.Debug("shown")
	log.SetLevel(slog.LevelError)
	child.Warn("hidden again")
	records := lines(t, out.String())
	if len(records) != 1 || records[0]["msg"] != "shown" || records[0]["component"] != "x" {
		t.Errorf("log holds %v, want the one record that was at or above the level of its time", records)
	}
}

func TestFormatAutoIsJSONWhereNobodyReadsAlong(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	NewLog(Options{Output: &out}).Info("hello")
	at, err := time.Parse(time.RFC3339Nano, lines(t, out.String())[0]["time"].(string))
	if err != nil || at.Location() != time.UTC {
		t.Errorf("time is %v (%v), want RFC 3339 in UTC", at, err)
	}
}

func TestDurationsHaveTheirUnit(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	NewLog(Options{Output: &out, Format: FormatJSON}).With("bound", time.Second).Info("m", "took", 1500*time.Millisecond)
	if r := lines(t, out.String())[0]; r["took"] != "1.5s" || r["bound"] != "1s" {
		t.Errorf("record is %v", r)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]slog.Level{"trace": LevelTrace, "DEBUG": slog.LevelDebug, "Info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError} {
		if got, err := ParseLevel(text); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	if _, err := ParseLevel("verbose"); err == nil || !strings.Contains(err.Error(), `"verbose"`) {
		t.Errorf("ParseLevel of nonsense: %v, want an error that names it", err)
	}
	if f, err := ParseFormat("JSON"); err != nil || f != FormatJSON {
		t.Errorf("ParseFormat = %v, %v", f, err)
	}
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("ParseFormat took xml")
	}
}

func TestHCLogBridge(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := NewLog(Options{Output: &out, Format: FormatJSON, Level: LevelTrace})
	bridge := HCLog(log.Logger).Named("plugin").Named("webhook").With("pid", 7)
	bridge.Trace("first", "n", 1)
	bridge.Warn("second", "odd")
	bridge.Error("third", 5, "value", "hex", hclog.Fmt("%x", 255))
	if _, err := bridge.StandardWriter(nil).Write([]byte("from the standard logger\r\n")); err != nil {
		t.Fatal(err)
	}
	records := lines(t, out.String())
	if len(records) != 4 {
		t.Fatalf("%d records, want 4: %s", len(records), out.String())
	}
	for i, want := range []struct {
		level, msg, key string
		value           any
	}{
		{"TRACE", "first", "n", 1.0},
		{"WARN", "second", hclog.MissingKey, "odd"},
		{"ERROR", "third", "hex", "ff"},
		{"INFO", "from the standard logger", "logger", "plugin.webhook"},
	} {
		r := records[i]
		if r["level"] != want.level || r["msg"] != want.msg || r[want.key] != want.value || r["logger"] != "plugin.webhook" || r["pid"] != 7.0 {
			t.Errorf("record %d is %v, want %+v", i, r, want)
		}
	}
	log.SetLevel(slog.LevelWarn)
	if bridge.IsInfo() || !bridge.IsWarn() || bridge.GetLevel() != hclog.Warn {
		t.Errorf("the bridge does not follow the log's level: info %v warn %v level %v", bridge.IsInfo(), bridge.IsWarn(), bridge.GetLevel())
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := NewRegistry("1.2.3", "abc")
	reload := NewReload(registry)
	handler := MetricsHandler(registry, slog.New(slog.DiscardHandler))
	scrape := func() string {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	at := time.UnixMilli(1_700_000_000_500)
	reload.Done(at, nil)
	good := scrape()
	for _, want := range []string{
		`deliveryd_build_info{revision="abc",version="1.2.3"} 1`, "deliveryd_config_reload_success 1",
		"deliveryd_config_reload_success_timestamp_seconds 1.7000000005e+09", "go_goroutines ",
	} {
		if !strings.Contains(good, want) {
			t.Errorf("scrape lacks %q", want)
		}
	}
	reload.Done(at.Add(time.Hour), errors.New("line 3"))
	bad := scrape()
	if !strings.Contains(bad, "deliveryd_config_reload_success 0") || !strings.Contains(bad, "timestamp_seconds 1.7000000005e+09") {
		t.Error("a failed reload must clear the success and leave the time of the configuration in use")
	}
}
