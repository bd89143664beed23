package outcome

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits that the plugin contract gives for a failure's code and message.
// A plugin need not keep to them.
const (
	maxCode    = 64
	maxMessage = 1024
)

// describe returns a failure for people, "code: message".
func describe(in *Input) string {
	code, message := clean(in.Code, maxCode), clean(in.Message, maxMessage)
	switch {
	case code == "" && message == "":
		name := strings.TrimPrefix(in.Class.String(), "CLASS_")
		return "failed without an explanation (" + name + ")"
	case message == "":
		return code
	case code == "":
		return message
	}
	return code + ": " + message
}

// clean makes a plugin's text fit for a text column and for a line of a log:
// PostgreSQL refuses NUL and broken UTF-8, with which one result would make the
// transaction of a whole batch of outcomes fail for ever.
func clean(s string, limit int) string {
	s = s[:min(len(s), limit)] // a character cut in two is broken UTF-8 now
	if !strings.ContainsFunc(s, unfit) {
		return strings.TrimSpace(s)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unfit(r) {
			return ' '
		}
		return r
	}, s))
}

// unfit reports control characters, and what ranging over a string makes of
// broken UTF-8.
func unfit(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }
