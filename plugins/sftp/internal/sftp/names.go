package sftp

import (
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	// maxValue bounds what one placeholder brings, in bytes.
	maxValue = 150
	// maxName bounds a file name; the file systems of servers take 255 bytes, and
	// the temporary name is longer than the final one.
	maxName = 220
)

// names are the values of the placeholders for one delivery.
type names map[string]string

func placeholders() []string {
	return []string{"id", "delivery_id", "organization", "destination", "type", "filename", "ext", "sha256", "yyyy", "mm", "dd", "hh", "mi", "ss"}
}

func namesOf(in transport.Instance, d *transport.Delivery, digest []byte) names {
	filename := "delivery.json"
	if d.Type != "" {
		filename = d.Type + ".json"
	}
	if d.Artifact != nil {
		filename = d.Artifact.Name
	}
	at := d.CreatedAt.UTC()
	if at.IsZero() {
		at = time.Unix(0, 0).UTC()
	}
	n := names{
		"id": d.ID, "delivery_id": d.DeliveryID, "organization": d.OrganizationID, "destination": in.Label, "type": d.Type,
		"filename": filename, "ext": strings.TrimPrefix(path.Ext(filename), "."), "sha256": hex.EncodeToString(digest),
		"yyyy": at.Format("2006"), "mm": at.Format("01"), "dd": at.Format("02"), "hh": at.Format("15"), "mi": at.Format("04"), "ss": at.Format("05"),
	}
	if n["ext"] == "" {
		n["ext"] = "bin"
	}
	for key, value := range n {
		n[key] = harmless(value)
	}
	return n
}

// harmless makes a value that is one part of a name and no more: what producers
// name must not choose the directory.
func harmless(value string) string {
	value = strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r == unicode.ReplacementChar || unicode.IsControl(r) || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(value, "_"))
	if strings.Trim(value, ". ") == "" {
		return "_"
	}
	if len(value) <= maxValue {
		return value
	}
	// The end of a name tells what it is.
	ext := path.Ext(value)
	if len(ext) > 20 {
		ext = ""
	}
	return strings.ToValidUTF8(value[:maxValue-len(ext)], "") + ext
}

// template is text with placeholders.
type template struct {
	parts []string // text and names of placeholders in turn, text first
}

// parseTemplate reads a template; its attribute is named in the finding.
func parseTemplate(attribute, text string, slashes bool) (*template, *transport.Diagnostic) {
	wrong := func(format string, args ...any) *transport.Diagnostic {
		d := schema.Errorf(schema.At(attribute), format, args...).WithDetail("Placeholders: {%s}.", strings.Join(placeholders(), "}, {"))
		return &d
	}
	if text == "" {
		return nil, wrong("it is empty")
	}
	if !slashes && strings.ContainsAny(text, "/\\") {
		return nil, wrong("a file name holds no slash: the directory has an attribute of its own")
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return nil, wrong("it holds control characters")
	}
	for part := range strings.SplitSeq(text, "/") {
		if part == ".." || !slashes && part == "." {
			return nil, wrong("%q is no name", part)
		}
	}
	t := &template{}
	for {
		before, rest, found := strings.Cut(text, "{")
		t.parts = append(t.parts, before)
		if strings.Contains(before, "}") {
			return nil, wrong("a } without its {")
		}
		if !found {
			return t, nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, wrong("a { without its }")
		}
		if !slices.Contains(placeholders(), name) {
			return nil, wrong("there is no placeholder {%s}", name)
		}
		t.parts = append(t.parts, name)
		text = after
	}
}

// expand fills the placeholders in. No value is empty or made of dots alone, so
// none can lead out of the directory.
func (t *template) expand(n names) string {
	var b strings.Builder
	for i, part := range t.parts {
		if i%2 == 1 {
			part = n[part]
		}
		b.WriteString(part)
	}
	return b.String()
}

// filenameOf is expand for a file name, within the bound.
func (t *template) filenameOf(n names) string {
	name := t.expand(n)
	if len(name) <= maxName {
		return name
	}
	ext := path.Ext(name)
	if len(ext) > 20 {
		ext = ""
	}
	return strings.ToValidUTF8(name[:maxName-len(ext)], "") + ext
}
