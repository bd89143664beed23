package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// HCLog returns an hclog.Logger that writes to logger, for go-plugin and other
// code that knows only hclog. The name of the hclog logger becomes the attribute
// "logger"; levels are those of logger, and SetLevel does nothing, since one
// setting decides for the whole daemon.
func HCLog(logger *slog.Logger) hclog.Logger { return &bridge{logger: logger} }

type bridge struct {
	logger *slog.Logger
	name   string
	args   []any
}

var _ hclog.Logger = (*bridge)(nil)

func toSlog(level hclog.Level) slog.Level {
	switch level {
	case hclog.Trace:
		return LevelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

func (b *bridge) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.Off {
		return
	}
	ctx := context.Background()
	if !b.logger.Enabled(ctx, toSlog(level)) {
		return
	}
	all := make([]any, 0, len(args)+2)
	if b.name != "" {
		all = append(all, "logger", b.name)
	}
	b.logger.Log(ctx, toSlog(level), msg, append(all, pairs(args)...)...)
}

// pairs makes every key a string and gives a last value without a key the one
// that hclog itself uses; slog would print both as !BADKEY.
func pairs(args []any) []any {
	clean := make([]any, 0, len(args)+1)
	if len(args)%2 != 0 {
		args = append(slices.Clone(args[:len(args)-1]), hclog.MissingKey, args[len(args)-1])
	}
	for i := 0; i < len(args); i += 2 {
		key, ok := args[i].(string)
		if !ok {
			key = hclog.MissingKey
		}
		value := args[i+1]
		if format, ok := value.(hclog.Format); ok && len(format) > 0 {
			if verb, ok := format[0].(string); ok {
				value = fmt.Sprintf(verb, format[1:]...)
			}
		}
		clean = append(clean, key, value)
	}
	return clean
}

func (b *bridge) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }
func (b *bridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b *bridge) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b *bridge) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b *bridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *bridge) enabled(level slog.Level) bool {
	return b.logger.Enabled(context.Background(), level)
}

func (b *bridge) IsTrace() bool { return b.enabled(LevelTrace) }
func (b *bridge) IsDebug() bool { return b.enabled(slog.LevelDebug) }
func (b *bridge) IsInfo() bool  { return b.enabled(slog.LevelInfo) }
func (b *bridge) IsWarn() bool  { return b.enabled(slog.LevelWarn) }
func (b *bridge) IsError() bool { return b.enabled(slog.LevelError) }

func (b *bridge) ImpliedArgs() []any { return b.args }
func (b *bridge) Name() string       { return b.name }

func (b *bridge) With(args ...any) hclog.Logger {
	return &bridge{logger: b.logger.With(pairs(args)...), name: b.name, args: append(slices.Clone(b.args), args...)}
}

func (b *bridge) Named(name string) hclog.Logger {
	if b.name != "" {
		name = b.name + "." + name
	}
	return b.ResetNamed(name)
}

func (b *bridge) ResetNamed(name string) hclog.Logger {
	return &bridge{logger: b.logger, name: name, args: b.args}
}

func (b *bridge) SetLevel(hclog.Level) {}

func (b *bridge) GetLevel() hclog.Level {
	for level := hclog.Trace; level < hclog.Error; level++ {
		if b.enabled(toSlog(level)) {
			return level
		}
	}
	return hclog.Error
}

func (b *bridge) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(b.StandardWriter(o), "", 0)
}

func (b *bridge) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	level := hclog.Info
	if o != nil && o.ForceLevel != hclog.NoLevel {
		level = o.ForceLevel
	}
	return &lineWriter{bridge: b, level: level}
}

type lineWriter struct {
	bridge *bridge
	level  hclog.Level
}

func (w *lineWriter) Write(line []byte) (int, error) {
	w.bridge.Log(w.level, string(bytes.TrimRight(line, " \t\r\n")))
	return len(line), nil
}
