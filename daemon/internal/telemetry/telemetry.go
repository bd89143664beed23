// Package telemetry sets up what an operator sees of the daemon: its log and its
// metrics. It must never let a known secret through, block the work that it
// reports on for longer than one write, or know anything of deliveries: what is
// measured belongs to the package that does it.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"golang.org/x/term"
)

// LevelTrace is below slog's lowest level: hclog, and with it plugins, has one
// more. It prints as "TRACE".
const LevelTrace = slog.LevelDebug - 4

// Format is how log lines are written.
type Format string

// The formats of a log. FormatAuto is text where the output is a terminal, JSON
// elsewhere.
const (
	FormatAuto Format = "auto"
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// Options says where the log goes and what it shows.
type Options struct {
	// Output receives one Write per line. Defaults to os.Stderr.
	Output io.Writer
	// Format is auto, text or json. Defaults to auto.
	Format Format
	// Level is the lowest level that is written. Defaults to info.
	Level slog.Level
}

// Log is a logger whose level and known secrets change while it is in use. It is
// safe for concurrent use.
type Log struct {
	*slog.Logger
	level  slog.LevelVar
	known  *secret.Redactor
	full   atomic.Bool // not all secrets found room in known
	output io.Writer
}

// NewLog returns a log.
func NewLog(o Options) *Log {
	if o.Output == nil {
		o.Output = os.Stderr
	}
	log := &Log{output: o.Output, known: secret.NewRedactor()}
	log.level.Set(o.Level)
	options := &slog.HandlerOptions{Level: &log.level, ReplaceAttr: attr(isTerminal(o.Output))}
	// slog's handlers write each record with a single call, so redacting what is
	// written finds a secret in whatever field it stands, the message included.
	if useText(o) {
		log.Logger = slog.New(slog.NewTextHandler((*redacting)(log), options))
	} else {
		log.Logger = slog.New(slog.NewJSONHandler((*redacting)(log), options))
	}
	return log
}

// SetLevel changes the lowest level that is written, also for loggers made
// before.
func (l *Log) SetLevel(level slog.Level) { l.level.Set(level) }

// Know makes the log replace secrets until forget is called.
func (l *Log) Know(secrets ...string) (forget func()) {
	forget, all := l.known.Add(secrets...)
	if !all && l.full.CompareAndSwap(false, true) {
		l.Warn("the secrets in use are more than the log has room for: the latest are not replaced in it")
	}
	return forget
}

// ParseLevel reads trace, debug, info, warn or error.
func ParseLevel(text string) (slog.Level, error) {
	switch strings.ToLower(text) {
	case "trace":
		return LevelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is not a log level: give trace, debug, info, warn or error", text)
}

// ParseFormat reads auto, text or json.
func ParseFormat(text string) (Format, error) {
	switch f := Format(strings.ToLower(text)); f {
	case FormatAuto, FormatText, FormatJSON:
		return f, nil
	}
	return "", fmt.Errorf("%q is not a log format: give auto, text or json", text)
}

func useText(o Options) bool {
	switch o.Format {
	case FormatText:
		return true
	case FormatJSON:
		return false
	default:
		return isTerminal(o.Output)
	}
}

func isTerminal(output io.Writer) bool {
	file, ok := output.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// attr names the trace level, and shortens the time where a person reads along.
func attr(terminal bool) func([]string, slog.Attr) slog.Attr {
	return func(groups []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // in JSON it would be a number without its unit
			return slog.String(a.Key, a.Value.Duration().String())
		}
		if len(groups) > 0 {
			return a
		}
		switch a.Key {
		case slog.LevelKey:
			if level, ok := a.Value.Any().(slog.Level); ok && level <= LevelTrace {
				return slog.String(slog.LevelKey, "TRACE")
			}
		case slog.TimeKey:
			if terminal && a.Value.Kind() == slog.KindTime {
				return slog.String(slog.TimeKey, a.Value.Time().Format("15:04:05.000"))
			}
			return slog.Time(slog.TimeKey, a.Value.Time().UTC().Truncate(time.Microsecond))
		}
		return a
	}
}

// redacting is the Log as its handler's output.
type redacting Log

func (r *redacting) Write(line []byte) (int, error) {
	if _, err := io.WriteString(r.output, r.known.Text(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Redact replaces the secrets in a text that is on its way to the log: before it
// is cut, since a secret cut in half would not be found any more.
func (l *Log) Redact(text string) string { return l.known.Text(text) }

// RedactShown replaces the secrets in a text that a caller may be shown, but for
// short ones; see [secret.Redactor.LongText].
func (l *Log) RedactShown(text string) string { return l.known.LongText(text) }
