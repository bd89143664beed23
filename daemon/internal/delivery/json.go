package delivery

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// maxDepth bounds how deep arrays and objects nest. PostgreSQL's own limit is its
// stack, which differs between servers.
const maxDepth = 500

// maxExponent bounds the exponent of a number: jsonb keeps every digit, and holds
// at most 131,072 of them before the decimal point and 16,383 behind it.
const maxExponent = 4000

// checkJSON reports what keeps text from being kept as jsonb; at is the pointer
// of its place in the request. PostgreSQL would refuse it too, but with the whole
// statement, in which other callers' deliveries stand.
func checkJSON(text []byte, at string) *Problem {
	if !json.Valid(text) {
		return malformed(text, at)
	}
	if utf8.Valid(text) && !bytes.Contains(text, []byte(`\u`)) && simpleNumbers(text) {
		return nil
	}
	w := walker{text: text}
	return w.value(at, 0)
}

func malformed(text []byte, at string) *Problem {
	var syntax *json.SyntaxError
	var value json.RawMessage
	if err := json.Unmarshal(text, &value); errors.As(err, &syntax) {
		return problem(CodeMalformedJSON, at, "is not JSON: %v at byte %d", syntax, syntax.Offset)
	}
	return problem(CodeMalformedJSON, at, "is not JSON")
}

// simpleNumbers reports whether text, which is JSON, nests little and holds
// neither a long number nor an exponent.
func simpleNumbers(text []byte) bool {
	depth, digits := 0, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c >= '0' && c <= '9':
			if digits++; digits > maxExponent {
				return false
			}
			continue
		case c == '"':
			i = endOfString(text, i)
		case (c == 'e' || c == 'E') && digits > 0:
			return false
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return false
			}
		case c == ']' || c == '}':
			depth--
		case c == '.':
			continue
		}
		digits = 0
	}
	return true
}

// endOfString returns the index of the quote that ends the string which begins at i.
func endOfString(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i
}

// walker goes through a text that is known to be JSON.
type walker struct {
	text []byte
	i    int
}

func (w *walker) space() {
	for w.i < len(w.text) && strings.IndexByte(" \t\r\n", w.text[w.i]) >= 0 {
		w.i++
	}
}

func (w *walker) value(at string, depth int) *Problem {
	if depth > maxDepth {
		return problem(CodeInvalidPayload, clip(at), "nests deeper than %d levels", maxDepth)
	}
	w.space()
	switch w.text[w.i] {
	case '"':
		_, p := w.string(at)
		return p
	case '{':
		return w.object(at, depth)
	case '[':
		return w.array(at, depth)
	}
	return w.scalar(at)
}

func (w *walker) object(at string, depth int) *Problem {
	for w.i++; ; w.i++ {
		if w.space(); w.text[w.i] == '}' {
			w.i++
			return nil
		}
		name, p := w.string(at)
		if p != nil {
			p.Message = "a member's name " + p.Message
			return p
		}
		w.space()
		w.i++ // the colon
		if p := w.value(at+secret.Pointer(name), depth+1); p != nil {
			return p
		}
		if w.space(); w.text[w.i] == '}' {
			w.i++
			return nil
		}
	}
}

func (w *walker) array(at string, depth int) *Problem {
	w.i++
	for n := 0; ; n++ {
		if w.space(); w.text[w.i] == ']' {
			w.i++
			return nil
		}
		if p := w.value(at+"/"+strconv.Itoa(n), depth+1); p != nil {
			return p
		}
		if w.space(); w.text[w.i] == ',' {
			w.i++
		}
	}
}

// scalar passes a number or a literal.
func (w *walker) scalar(at string) *Problem {
	begin := w.i
	for w.i < len(w.text) && strings.IndexByte(",]} \t\r\n", w.text[w.i]) < 0 {
		w.i++
	}
	text := string(w.text[begin:w.i])
	number, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if len(number) > maxExponent {
		return problem(CodeInvalidPayload, clip(at), "is a number of %d digits; at most %d are kept", len(number), maxExponent)
	}
	if exponent == "" || text == "true" || text == "false" {
		return nil
	}
	if n, err := strconv.Atoi(exponent); err != nil || n > maxExponent || n < -maxExponent {
		return problem(CodeInvalidPayload, clip(at), "is a number with the exponent %s; it must be between -%d and %d", clip(exponent), maxExponent, maxExponent)
	}
	return nil
}

// string passes a string and returns what it says, but for what nobody may say.
func (w *walker) string(at string) (string, *Problem) {
	begin := w.i
	w.i++
	for w.text[w.i] != '"' {
		c := w.text[w.i]
		switch {
		case c == '\\' && w.text[w.i+1] == 'u':
			n, p := w.escape(at)
			if p != nil {
				return "", p
			}
			w.i += n
		case c == '\\':
			w.i += 2
		case c < utf8.RuneSelf:
			w.i++
		default:
			r, n := utf8.DecodeRune(w.text[w.i:])
			if r == utf8.RuneError && n == 1 {
				return "", problem(CodeInvalidPayload, clip(at), "holds bytes that are not UTF-8 (0x%02x at byte %d)", c, w.i)
			}
			w.i += n
		}
	}
	w.i++
	var said string
	if err := json.Unmarshal(w.text[begin:w.i], &said); err != nil {
		return "", problem(CodeMalformedJSON, clip(at), "is not JSON: %v", err)
	}
	return said, nil
}

// escape checks a \u escape and returns its length, with its other half 12.
func (w *walker) escape(at string) (int, *Problem) {
	r := w.hex(w.i)
	switch {
	case r == 0:
		return 0, problem(CodeInvalidPayload, clip(at), `holds a NUL character (\u0000), which cannot be stored`)
	case r >= 0xDC00 && r <= 0xDFFF:
		return 0, loneSurrogate(at, r)
	case r < 0xD800 || r > 0xDFFF:
		return 6, nil
	}
	if w.i+12 > len(w.text) || w.text[w.i+6] != '\\' || w.text[w.i+7] != 'u' {
		return 0, loneSurrogate(at, r)
	}
	if low := w.hex(w.i + 6); low < 0xDC00 || low > 0xDFFF {
		return 0, loneSurrogate(at, r)
	}
	return 12, nil
}

// hex reads the four digits of the escape that begins at i; in JSON they are there.
func (w *walker) hex(i int) uint64 {
	r, _ := strconv.ParseUint(string(w.text[i+2:i+6]), 16, 16)
	return r
}

func loneSurrogate(at string, r uint64) *Problem {
	return problem(CodeInvalidPayload, clip(at), `holds half of a surrogate pair (\u%04x), which is no character`, r)
}

// clip keeps a pointer or a value from a hostile request short.
func clip(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
