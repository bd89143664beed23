package pluginhost

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"
)

// anyLine makes lines as a hostile plugin would write them.
func anyLine() *rapid.Generator[[]byte] {
	return rapid.OneOf(
		rapid.SliceOfN(rapid.Byte(), 0, 40),
		rapid.Custom(func(t *rapid.T) []byte {
			value := rapid.SampledFrom([]string{`1`, `null`, `"text"`, `{"a":{"b":[1,2]}}`, `true`, `"\u001b[31m"`, `[]`, `1e400`, `"panic"`})
			key := rapid.SampledFrom([]string{"@message", "@level", "@timestamp", "@module", "msg", "level", "time", "k", "\\n"})
			var line strings.Builder
			line.WriteByte('{')
			for i := range rapid.IntRange(0, 40).Draw(t, "pairs") {
				if i > 0 {
					line.WriteByte(',')
				}
				fmt.Fprintf(&line, `"%s":%s`, key.Draw(t, "key"), value.Draw(t, "value"))
			}
			line.WriteByte('}')
			return []byte(line.String())
		}),
		rapid.Custom(func(t *rapid.T) []byte {
			prefix := rapid.SampledFrom([]string{"panic: ", "[WARN] ", "[ERROR]", "fatal error: ", "{", "{}", `{"@message":"m"}x`}).Draw(t, "prefix")
			return append([]byte(prefix), rapid.SliceOf(rapid.Byte()).Draw(t, "rest")...)
		}),
	)
}

// TestAnyLineIsLoggedSafely: whatever the plugin writes, nothing panics, and
// each line in the log is bounded, printable and one line.
func TestAnyLineIsLoggedSafely(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var out bytes.Buffer
		logger := hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Trace})
		log := newPluginLog(logger, hclog.Trace, func(s string) string { return strings.ReplaceAll(s, "text", "") }, nil)
		lines := rapid.SliceOfN(anyLine(), 1, 8).Draw(t, "lines")
		for _, line := range lines {
			log.stderr(line, 0)
			log.stdout(line, 3)
		}
		log.finish()
		if strings.Contains(out.String(), "text") {
			t.Fatalf("not redacted: %q", out.String())
		}
		if n := strings.Count(out.String(), "\n"); n > 2*len(lines) {
			t.Fatalf("%d lines made %d: %q", len(lines), n, out.String())
		}
		for line := range strings.Lines(out.String()) {
			if !utf8.ValidString(line) || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				t.Fatalf("not printable: %q", line)
			}
		}
		if words := log.lastWords(); len(words) > maxFieldBytes || !utf8.ValidString(words) {
			t.Fatalf("last words %q", words)
		}
	})
}

func TestParsedLines(t *testing.T) {
	t.Parallel()
	tests := map[string]logEntry{
		`{"@level":"warn","@message":"m","@timestamp":"2026-01-01T00:00:00Z","b":2,"a":"x"}`: {hclog.Warn, "m", []any{"a", "x", "b", 2.0}},
		`{"level":"ERROR","msg":"m","time":"now"}`:                                           {hclog.Error, "m", nil},
		`{"@level":"off","@message":"m"}`:                                                    {hclog.Info, "m", nil},
		`{"@message":1}`:                                                                     {hclog.Info, `{"@message":1}`, nil},
		`{"@message":"m"`:                                                                    {hclog.Info, `{"@message":"m"`, nil},
		`[WARN] careful`:                                                                     {hclog.Warn, `[WARN] careful`, nil},
		`[TRACE] step`:                                                                       {hclog.Trace, `[TRACE] step`, nil},
		`panic: nil map`:                                                                     {hclog.Error, `panic: nil map`, nil},
		`plain`:                                                                              {hclog.Info, `plain`, nil},
		`{"msg":"m","k":[1]}`:                                                                {hclog.Info, "m", []any{"k", "[1]"}},
	}
	for line, want := range tests {
		got := newPluginLog(hclog.NewNullLogger(), hclog.Info, same, same).parse([]byte(line))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(logEntry{})); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
}

func TestLastWordsOfACrashAreItsFirst(t *testing.T) {
	t.Parallel()
	log := newPluginLog(hclog.NewNullLogger(), hclog.Info, same, same)
	for _, line := range []string{"starting", "panic: index out of range", "", "goroutine 1 [running]:", "main.main()", "exit status 2"} {
		log.stderr([]byte(line), 0)
	}
	if got := log.lastWords(); got != "panic: index out of range" {
		t.Errorf("last words %q", got)
	}
	log = newPluginLog(hclog.NewNullLogger(), hclog.Info, same, same)
	for i := range 9 {
		log.stderr(fmt.Appendf(nil, "line %d", i), 0)
	}
	if got := log.lastWords(); got != "line 5; line 6; line 7; line 8" {
		t.Errorf("last words %q", got)
	}
}

// TestReadersOfLinesAgree: the reader of pipes and the writer for go-plugin's
// streams cut any stream into the same lines as a simple model does.
func TestReadersOfLinesAgree(t *testing.T) {
	t.Parallel()
	type cutLine struct {
		Text string
		Cut  int
	}
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		for range rapid.IntRange(0, 6).Draw(t, "lines") {
			n := rapid.OneOf(rapid.IntRange(0, 20), rapid.IntRange(maxLineBytes-2, maxLineBytes+2), rapid.IntRange(0, 5*maxLineBytes)).Draw(t, "length")
			stream = append(stream, bytes.Repeat([]byte{'x'}, n)...)
			stream = append(stream, '\n')
		}
		var model []cutLine
		for line := range bytes.Lines(stream) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			kept := min(len(line), maxLineBytes)
			model = append(model, cutLine{string(line[:kept]), len(line) - kept})
		}
		var written []cutLine
		w := &lineWriter{emit: func(line []byte, cut int) { written = append(written, cutLine{string(line), cut}) }}
		for rest := stream; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if diff := cmp.Diff(model, written); diff != "" {
			t.Fatalf("written: %s", diff)
		}
		var read []cutLine
		readLines(bytes.NewReader(stream), func(line []byte, cut int) { read = append(read, cutLine{string(line), cut}) })
		if diff := cmp.Diff(model, read); diff != "" {
			t.Fatalf("read: %s", diff)
		}
	})
}

func TestLevelFilterAndRate(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := newPluginLog(hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Trace}), hclog.Warn, same, same)
	for range 3 * logLinesBurst {
		log.stderr([]byte("[INFO] below the level, costs nothing of the rate"), 0)
	}
	log.stderr([]byte("[WARN] first"), 0)
	for range 3 * logLinesBurst {
		log.stderr([]byte("[ERROR] flood"), 0)
	}
	log.finish()
	if strings.Contains(out.String(), "below") || !strings.Contains(out.String(), "first") {
		t.Error("the level was not applied")
	}
	reported := uint64(0)
	for _, rest := range strings.Split(out.String(), "lines_dropped=")[1:] {
		var n uint64
		if _, err := fmt.Sscan(rest, &n); err != nil {
			t.Fatal(err)
		}
		reported += n
	}
	if dropped := log.droppedLines(); dropped < logLinesBurst || reported != dropped {
		t.Errorf("%d dropped, %d reported", dropped, reported)
	}
	off := newPluginLog(log.logger, hclog.Off, same, same)
	out.Reset()
	off.stderr([]byte("[ERROR] nothing"), 0)
	if out.Len() != 0 {
		t.Errorf("logged although off: %q", out.String())
	}
}

func same(text string) string { return text }
