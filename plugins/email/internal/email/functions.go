package email

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	texttemplate "text/template"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
)

// functions are what templates may call beside Go's own; those of Go that can
// make a value grow from step to step are bounded.
func functions() map[string]any {
	return map[string]any{
		"upper": strings.ToUpper, "lower": strings.ToLower, "trim": strings.TrimSpace,
		"truncate": truncate, "default": defaultTo, "date": formatDate, "json": toJSON, "size": func(n int64) string { return schema.Size(n).String() },
		"join": join, "get": lookup,
		"print": bound(fmt.Sprint), "println": bound(fmt.Sprintln), "printf": printf,
		"html": bound(texttemplate.HTMLEscaper), "js": bound(texttemplate.JSEscaper), "urlquery": bound(texttemplate.URLQueryEscaper),
	}
}

// bound refuses arguments that are too long together before it makes a text of
// them: one value named a thousand times costs nothing but the naming.
func bound(do func(...any) string) func(...any) (string, error) {
	return func(args ...any) (string, error) {
		if !fit(0, args) {
			return "", errTooLong
		}
		return limited(do(args...))
	}
}

func fit(n int, args []any) bool {
	for _, arg := range args {
		if text, ok := arg.(string); ok {
			n += len(text)
		} else {
			n += len(fmt.Sprint(arg))
		}
		if n > maxValue {
			return false
		}
	}
	return true
}

// printf is fmt.Sprintf without the indexes of arguments and the widths taken from
// them, which let a short format make a text of any length.
func printf(format string, args ...any) (string, error) {
	n, width, verb := 0, 0, false
	for _, r := range format {
		switch {
		case r == '%':
			verb, width = !verb, 0
		case !verb:
		case r == '*' || r == '[':
			return "", errors.New("printf: * and [n] are not supported")
		case r >= '0' && r <= '9':
			if width = 10*width + int(r-'0'); width > maxValue {
				return "", errTooLong
			}
		default: // a flag, the dot before a precision, or the verb itself
			n, width = n+width, 0
			verb = strings.ContainsRune("+-# .", r)
		}
		if n > maxValue {
			return "", errTooLong
		}
	}
	if !fit(n+len(format), args) {
		return "", errTooLong
	}
	return limited(fmt.Sprintf(format, args...))
}

func limited(s string) (string, error) {
	if len(s) > maxValue {
		return "", errTooLong
	}
	return s, nil
}

func truncate(n int, s string) string {
	runes := []rune(s)
	if n < 0 || len(runes) <= n {
		return s
	}
	return string(runes[:n]) + "…"
}

func defaultTo(fallback, value any) any {
	if value == nil || value == "" || value == json.Number("") {
		return fallback
	}
	return value
}

func formatDate(layout string, value any) (string, error) {
	switch v := value.(type) {
	case time.Time:
		return v.UTC().Format(layout), nil
	case string:
		at, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return "", fmt.Errorf("want a time such as 2026-01-02T15:04:05Z")
		}
		return at.UTC().Format(layout), nil
	}
	return "", fmt.Errorf("want a time, have %T", value)
}

// toJSON indents what is short: nesting makes a text of a MiB out of a few KiB.
func toJSON(value any) (string, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	if len(text) > maxValue {
		return "", errTooLong
	}
	deep, depth := 0, 0
	for _, c := range text {
		switch c {
		case '{', '[':
			depth++
			deep = max(deep, depth)
		case '}', ']':
			depth--
		}
	}
	if deep > 32 { // some of them in strings, perhaps: then it is not indented either
		return string(text), nil
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return "", err
	}
	return limited(indented.String())
}

func join(separator string, list []any) (string, error) {
	if len(separator)*len(list) > maxValue || !fit(len(separator)*len(list), list) {
		return "", errTooLong
	}
	parts := make([]string, len(list))
	for i, one := range list {
		parts[i] = fmt.Sprint(one)
	}
	return limited(strings.Join(parts, separator))
}

// lookup finds a field that may be absent: {{get .Data "customer.name"}}, or
// {{get .Data "lines.0.total"}} in a list.
func lookup(value any, path string) any {
	for step := range strings.SplitSeq(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(v) {
				return ""
			}
			value = v[i]
		default:
			return ""
		}
	}
	if value == nil {
		return ""
	}
	return value
}
