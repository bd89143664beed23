// Package nametemplate makes names of files and keys of objects from a template
// with placeholders, such as "{yyyy}/{mm}/{delivery_id}.{ext}".
//
// What a placeholder brings is chosen by producers: it must never leave its place
// in the name, add a directory or lead to another one. A name is the same at
// every attempt of a delivery, so that the next one finds what the last one wrote.
package nametemplate

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Template is a name with placeholders.
type Template struct {
	parts []string // text and names of placeholders in turn, text first
}

// Source is what the placeholders of a name stand for.
type Source struct {
	Delivery *transport.Delivery
	// Destination is the label of the destination.
	Destination string
	// SHA256 is the digest of what is written.
	SHA256 []byte
}

// Placeholders lists what a template may hold: {id} is unique for a delivery and
// destination, {delivery_id} is shared by all destinations of a submission,
// {filename} is an artifact's name or the type of a payload with its extension,
// the date and time are when the delivery was accepted, in UTC.
func Placeholders() []string {
	return []string{
		"{id}", "{delivery_id}", "{organization}", "{destination}", "{type}", "{filename}", "{ext}", "{sha256}",
		"{yyyy}", "{mm}", "{dd}", "{hh}", "{mi}", "{ss}",
	}
}

// Parse reads a template. Slashes separate directories; whether there may be any,
// and whether the first one may be the root, is the caller's to say. Its errors
// are for who wrote the template.
func Parse(text string) (*Template, error) {
	switch {
	case text == "":
		return nil, errors.New("it is empty")
	case !utf8.ValidString(text):
		return nil, errors.New("it is not valid UTF-8")
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == '\\' }):
		return nil, errors.New("it holds control characters or backslashes")
	case slices.Contains(strings.Split(text, "/"), ".."):
		return nil, errors.New(`it holds "..", which leads to another directory`)
	}
	t := &Template{}
	for {
		before, rest, found := strings.Cut(text, "{")
		if strings.Contains(before, "}") {
			return nil, errors.New("a } without its {")
		}
		t.parts = append(t.parts, before)
		if !found {
			return t, nil
		}
		name, after, closed := strings.Cut(rest, "}")
		switch {
		case !closed:
			return nil, errors.New("a { without its }")
		case !slices.Contains(Placeholders(), "{"+name+"}"):
			return nil, fmt.Errorf("there is no placeholder {%.40s}", name)
		}
		t.parts = append(t.parts, name)
		text = after
	}
}

// Has reports whether the template holds a placeholder, named without braces.
func (t *Template) Has(placeholder string) bool {
	for i := 1; i < len(t.parts); i += 2 {
		if t.parts[i] == placeholder {
			return true
		}
	}
	return false
}

// Unique reports whether no two deliveries, and no two destinations of one, can
// share a name.
func (t *Template) Unique() bool {
	return t.Has("id") || t.Has("delivery_id") && t.Has("destination")
}

// Expand makes the name. quote keeps a value in its place: Escape or Replace. It
// has as many directories as the template.
func (t *Template) Expand(of Source, quote func(value string) string) string {
	var b strings.Builder
	for i, part := range t.parts {
		if i%2 == 1 {
			part = quote(of.value(part))
		}
		b.WriteString(part)
	}
	return b.String()
}

func (of Source) value(placeholder string) string {
	d := of.Delivery
	switch placeholder {
	case "id":
		return d.ID
	case "delivery_id":
		return d.DeliveryID
	case "organization":
		return d.OrganizationID
	case "destination":
		return of.Destination
	case "type":
		return d.Type
	case "filename":
		return fileName(d)
	case "ext":
		return extension(d)
	case "sha256":
		return hex.EncodeToString(of.SHA256)
	}
	return d.CreatedAt.UTC().Format(layout(placeholder))
}

func layout(placeholder string) string {
	switch placeholder {
	case "yyyy":
		return "2006"
	case "mm":
		return "01"
	case "dd":
		return "02"
	case "hh":
		return "15"
	case "mi":
		return "04"
	default:
		return "05"
	}
}
