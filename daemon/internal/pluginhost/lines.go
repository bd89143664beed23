package pluginhost

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

const (
	maxLineBytes  = 8 << 10 // of one line; the rest of it is dropped
	maxLogFields  = 32
	maxFieldBytes = 1 << 10
	tailLines     = 4
	// A stack dump of a hung plugin comes as a burst; a flood does not end.
	logLinesPerSecond = 200
	logLinesBurst     = 2000
)

// readLines calls emit for each line of r, without its end, until r ends. Of a
// line longer than maxLineBytes it gives the head and the number of bytes cut.
// bufio.Scanner would stop at such a line and leave the writer hanging.
func readLines(r io.Reader, emit func(line []byte, cut int)) {
	in := bufio.NewReaderSize(r, maxLineBytes)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			head := bytes.Clone(line)
			var cut int
			cut, err = discardLine(in)
			emit(head, cut)
		} else if len(line) > 0 {
			emit(bytes.TrimRight(line, "\r\n"), 0)
		}
		if err != nil {
			return
		}
	}
}

// discardLine skips the rest of a line and gives its length without the end.
func discardLine(in *bufio.Reader) (n int, err error) {
	for {
		rest, err := in.ReadSlice('\n')
		n += len(bytes.TrimSuffix(rest, []byte("\n")))
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
	}
}

// pluginLog takes what a plugin writes into the daemon's log: parsed without
// trust, bounded in size and rate, cleaned of control characters and secrets.
// It remembers the last lines, which mostly say why a process ended.
type pluginLog struct {
	logger hclog.Logger
	least  hclog.Level
	redact func(string) string
	show   func(string) string // redact, for what a caller may be shown

	mu      sync.Mutex
	limiter *rate.Limiter
	dropped uint64 // since the last report
	total   uint64 // dropped since the start
	crashed bool   // a Go panic was seen: all that follows belongs to it
	tail    []string
}

func newPluginLog(logger hclog.Logger, least hclog.Level, redact, show func(string) string) *pluginLog {
	return &pluginLog{logger: logger, least: least, redact: redact, show: show, limiter: rate.NewLimiter(logLinesPerSecond, logLinesBurst)}
}

// stderr takes one line of standard error.
func (l *pluginLog) stderr(line []byte, cut int) {
	if len(line) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := l.parse(line)
	if cut > 0 {
		entry.fields = append(entry.fields, "bytes_cut", cut)
	}
	l.remember(entry.message)
	l.write(entry)
}

// stdout takes one line that a plugin wrote to standard output, where only the
// handshake belongs: prints of libraries and child processes, mostly.
func (l *pluginLog) stdout(line []byte, cut int) {
	if len(line) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := logEntry{level: hclog.Info, message: string(line), fields: []any{"stream", "stdout"}}
	if cut > 0 {
		entry.fields = append(entry.fields, "bytes_cut", cut)
	}
	l.write(entry)
}

func (l *pluginLog) write(entry logEntry) {
	if l.least == hclog.Off || entry.level < l.least {
		return
	}
	if !l.limiter.Allow() {
		l.dropped++
		l.total++
		return
	}
	l.reportDropped()
	for i, field := range entry.fields {
		if text, ok := field.(string); ok {
			entry.fields[i] = l.clean(text, maxFieldBytes)
		}
	}
	l.logger.Log(entry.level, l.clean(entry.message, maxLineBytes), entry.fields...)
}

func (l *pluginLog) reportDropped() {
	if l.dropped == 0 {
		return
	}
	l.logger.Warn("plugin wrote too many log lines", "lines_dropped", l.dropped, "lines_per_second", logLinesPerSecond)
	l.dropped = 0
}

// finish reports what was dropped since the last line that got through.
func (l *pluginLog) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reportDropped()
}

// droppedLines counts the lines that were dropped since the process started.
func (l *pluginLog) droppedLines() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// remember keeps the last lines, but of a Go panic the first: what follows it
// is a stack.
func (l *pluginLog) remember(message string) {
	if l.crashed && len(l.tail) > 0 {
		return
	}
	if isCrash(message) {
		l.crashed = true
		l.tail = l.tail[:0]
	}
	if len(l.tail) == tailLines {
		l.tail = slices.Delete(l.tail, 0, 1)
	}
	l.tail = append(l.tail, clip(message, 256))
}

// lastWords gives what the plugin said last, for errors.
func (l *pluginLog) lastWords() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clean(strings.Join(l.tail, "; "), maxFieldBytes)
}

// clean makes hostile text fit for logs and errors. Redaction comes before
// clipping, or a secret cut in half would slip through.
func (l *pluginLog) clean(text string, limit int) string {
	return clip(printable(l.redact(text)), limit)
}

// shown is clean for what a caller may be shown.
func (l *pluginLog) shown(text string, limit int) string {
	return clip(printable(l.show(text)), limit)
}

type logEntry struct {
	level   hclog.Level
	message string
	fields  []any
}

func (l *pluginLog) parse(line []byte) logEntry {
	if line[0] == '{' {
		if entry, ok := parseJSONLine(line); ok {
			return entry
		}
	}
	message := string(line)
	level := levelOfPrefix(message)
	if l.crashed || isCrash(message) {
		level = hclog.Error
	}
	return logEntry{level: level, message: message}
}

func isCrash(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "SIGABRT: ")
}

// levelOfPrefix knows the convention of "[WARN] text". Other lines are info.
func levelOfPrefix(line string) hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Warn, hclog.Error} {
		if strings.HasPrefix(line, "["+strings.ToUpper(level.String())+"]") {
			return level
		}
	}
	return hclog.Info
}

// parseJSONLine reads a line of hclog or slog. Every value may be of any type:
// go-plugin's own reader panics on {"@message": 1}.
func parseJSONLine(line []byte) (logEntry, bool) {
	var values map[string]any
	if err := json.Unmarshal(line, &values); err != nil {
		return logEntry{}, false
	}
	message, ok := takeString(values, "@message", "msg")
	if !ok {
		return logEntry{}, false
	}
	entry := logEntry{level: hclog.Info, message: message}
	if name, ok := takeString(values, "@level", "level"); ok {
		if level := hclog.LevelFromString(name); level != hclog.NoLevel && level != hclog.Off {
			entry.level = level
		}
	}
	for _, known := range []string{"@timestamp", "time", "@caller"} {
		delete(values, known) // the daemon's log has its own
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(entry.fields) >= 2*maxLogFields {
			break
		}
		entry.fields = append(entry.fields, clip(printable(name), 64), fieldText(values[name]))
	}
	return entry, true
}

// takeString takes the first of names that holds a string out of values.
func takeString(values map[string]any, names ...string) (string, bool) {
	for _, name := range names {
		if text, ok := values[name].(string); ok {
			delete(values, name)
			return text, true
		}
	}
	return "", false
}

func fieldText(value any) any {
	switch value := value.(type) {
	case string, float64, bool, nil:
		return value
	default:
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Sprintf("%T", value)
		}
		return string(text)
	}
}

// printable replaces what could forge log lines or steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r != utf8.RuneError && unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}

// clip cuts text to at most limit bytes, at the boundary of a character.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// lineWriter is an io.Writer that hands over lines. go-plugin writes into it
// what a plugin prints to the os.Stdout and os.Stderr that it has replaced.
type lineWriter struct {
	emit    func(line []byte, cut int)
	pending []byte
	cut     int
}

// Write never fails: a log line that is too long must not end the stream.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		p = rest
		kept := min(len(line), maxLineBytes-len(w.pending))
		w.pending = append(w.pending, line[:kept]...)
		w.cut += len(line) - kept
		if ended {
			w.emit(bytes.TrimRight(w.pending, "\r"), w.cut)
			w.pending, w.cut = w.pending[:0], 0
		}
	}
	return n, nil
}
