package direct

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Field is a header of one request.
type Field struct{ Name, Value string }

// Template is what requests to one target have in common, checked and written once.
type Template struct {
	// Request has method, URL, host and header. It must not change.
	Request *http.Request

	valid bool
	key   key
	line  string   // request line and Host
	rest  []header // the request's own
	whole string   // line and rest
}

type header struct{ name, lines string }

// NewTemplate prepares r, which has no body. What HTTP does not allow in it is
// refused by Do.
func NewTemplate(r *http.Request) *Template {
	t := &Template{Request: r, key: keyOf(r.URL), valid: validRequest(r)}
	// Of a URL that was parsed nothing can end the line, and its RequestURI escapes spaces.
	t.line = r.Method + " " + r.URL.RequestURI() + " HTTP/1.1\r\nHost: " + r.Host
	for name, values := range r.Header {
		h := header{name: name}
		for _, value := range values {
			h.lines += "\r\n" + name + ": " + value
		}
		t.rest = append(t.rest, h)
	}
	slices.SortFunc(t.rest, func(a, b header) int { return strings.Compare(a.name, b.name) })
	t.whole = t.line
	for _, h := range t.rest {
		t.whole += h.lines
	}
	return t
}

// validRequest is what net/http checks of a request before it sends it.
func validRequest(r *http.Request) bool {
	if !httpguts.ValidHeaderFieldName(r.Method) || !httpguts.ValidHostHeader(r.Host) {
		return false
	}
	for name, values := range r.Header {
		for _, value := range values {
			if !(Field{name, value}).valid() {
				return false
			}
		}
	}
	return true
}

func (f Field) valid() bool {
	return httpguts.ValidHeaderFieldName(f.Name) && httpguts.ValidHeaderFieldValue(f.Value)
}

// Header is the header of a request with fields, each of which takes the place of
// those of its name. It is the caller's.
func (t *Template) Header(fields []Field) http.Header {
	h := make(http.Header, len(t.rest)+len(fields))
	for name, values := range t.Request.Header {
		h[name] = values
	}
	values := make([]string, len(fields))
	for i, f := range fields {
		values[i] = f.Value
		h[f.Name] = values[i : i+1 : i+1]
	}
	return h
}

// append writes a request.
func (t *Template) append(out []byte, fields []Field, body []byte) []byte {
	out = t.appendHead(out, fields)
	for _, f := range fields {
		out = append(out, "\r\n"...)
		out = append(out, f.Name...)
		out = append(out, ": "...)
		out = append(out, f.Value...)
	}
	out = append(out, "\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(out, "\r\n\r\n"...)
	return append(out, body...)
}

// appendHead writes what is the same in all requests, less what fields replace.
func (t *Template) appendHead(out []byte, fields []Field) []byte {
	replaced := func(name string) bool {
		return slices.ContainsFunc(fields, func(f Field) bool { return f.Name == name })
	}
	if !slices.ContainsFunc(t.rest, func(h header) bool { return replaced(h.name) }) {
		return append(out, t.whole...)
	}
	out = append(out, t.line...)
	for _, h := range t.rest {
		if !replaced(h.name) {
			out = append(out, h.lines...)
		}
	}
	return out
}
