package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// MaxConfigBytes bounds a configuration: certificates fit, payloads do not.
	MaxConfigBytes = 1 << 20
	// maxDiagnostics bounds what one check reports.
	maxDiagnostics = 100
)

// Check checks a JSON object against s, whatever language the plugin is written
// in, and gives the object with defaults filled in. The filled object is nil
// when a diagnostic is an error. No diagnostic holds the value of an attribute
// that is secret.
func Check(s *transportv1.ConfigSchema, config []byte) (filled []byte, diagnostics Diagnostics) {
	if len(bytes.TrimSpace(config)) == 0 {
		config = []byte("{}")
	}
	if len(config) > MaxConfigBytes {
		return nil, Diagnostics{Errorf(nil, "the configuration is %d bytes long; at most %d are allowed", len(config), MaxConfigBytes)}
	}
	value, err := parse(config)
	if err != nil {
		return nil, Diagnostics{Errorf(nil, "the configuration is not JSON: %v", err)}
	}
	c := checker{}
	object := c.body(nil, s, value)
	if c.diagnostics.HasErrors() {
		return nil, c.diagnostics
	}
	filled, err = json.Marshal(object)
	if err != nil {
		return nil, append(c.diagnostics, Errorf(nil, "encoding the configuration: %v", err))
	}
	return filled, c.diagnostics
}

// parse reads one JSON value; numbers keep their digits.
func parse(text []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the value")
	}
	return value, nil
}

type checker struct {
	diagnostics Diagnostics
	secret      bool // the attribute at hand must not be quoted
}

func (c *checker) add(d Diagnostic) {
	if len(c.diagnostics) < maxDiagnostics {
		c.diagnostics = append(c.diagnostics, d)
	}
}

// body checks one level and gives it with defaults.
func (c *checker) body(at Path, s *transportv1.ConfigSchema, value any) map[string]any {
	object, ok := value.(map[string]any)
	if !ok {
		c.add(Errorf(at, "want an object, have %s", nameOf(value)))
		return nil
	}
	c.unknown(at, s, object)
	filled := make(map[string]any, len(s.GetAttributes())+len(s.GetBlocks()))
	for _, a := range s.GetAttributes() {
		if v, ok := c.present(at, a, object); ok {
			filled[a.GetName()] = v
		}
	}
	for _, b := range s.GetBlocks() {
		if v := c.blocks(at.Attribute(b.GetType()), b, object[b.GetType()]); v != nil {
			filled[b.GetType()] = v
		}
	}
	return filled
}

func (c *checker) unknown(at Path, s *transportv1.ConfigSchema, object map[string]any) {
	known := namesOf(s)
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if slices.Contains(known, name) {
			continue
		}
		d := Errorf(at.Attribute(name), "unsupported attribute or block %q", clip(name, 64))
		switch suggestion := nearest(name, known); {
		case suggestion != "":
			d.Detail = fmt.Sprintf("did you mean %q?", suggestion)
		case len(known) == 0:
			d.Detail = "none is supported here"
		default:
			d.Detail = "supported here: " + strings.Join(known, ", ")
		}
		c.add(d)
	}
}

func namesOf(s *transportv1.ConfigSchema) []string {
	var names []string
	for _, a := range s.GetAttributes() {
		names = append(names, a.GetName())
	}
	for _, b := range s.GetBlocks() {
		names = append(names, b.GetType())
	}
	return names
}

// present gives the value of a, or its default; false means absent.
func (c *checker) present(at Path, a *transportv1.Attribute, object map[string]any) (any, bool) {
	at = at.Attribute(a.GetName())
	value := object[a.GetName()]
	if value == nil {
		if a.GetRequired() {
			c.add(Errorf(at, "missing required attribute %q", a.GetName()).WithDetail("%s", firstSentence(a.GetDescription())))
		}
		if len(a.GetDefaultJson()) == 0 {
			return nil, false
		}
		value, err := parse(a.GetDefaultJson())
		if err != nil {
			c.add(Errorf(at, "the plugin's default for %q is not JSON", a.GetName()))
		}
		return value, err == nil && value != nil
	}
	if a.GetDeprecated() != "" {
		c.add(Warningf(at, "%q is deprecated", a.GetName()).WithDetail("%s", a.GetDeprecated()))
	}
	c.attribute(at, a, value)
	return value, true
}

// attribute checks the value of one attribute.
func (c *checker) attribute(at Path, a *transportv1.Attribute, value any) {
	c.secret = a.GetSecret()
	t, err := parseType(a.GetType())
	if err != nil {
		c.add(Errorf(at, "the plugin declares %q with %v", a.GetName(), err))
		return
	}
	if text, ok := value.(string); ok && text == "" && a.GetRequired() {
		c.add(Errorf(at, "%q must not be empty", a.GetName()).WithDetail("%s", firstSentence(a.GetDescription())))
		return
	}
	if !c.conforms(at, t, value) {
		return
	}
	c.bounds(at, a, t, value)
	c.leaves(at, a, value)
}

// conforms checks the type.
func (c *checker) conforms(at Path, t hclType, value any) bool {
	switch t.name {
	case "any":
		return true
	case "string":
		_, ok := value.(string)
		return ok || c.wrongType(at, t, value)
	case "bool":
		_, ok := value.(bool)
		return ok || c.wrongType(at, t, value)
	case "number":
		n, ok := value.(json.Number)
		if !ok {
			return c.wrongType(at, t, value)
		}
		if f, err := n.Float64(); err != nil || math.IsInf(f, 0) {
			c.add(Errorf(at, "the number is out of range"))
			return false
		}
		return true
	case "list", "set":
		list, ok := value.([]any)
		if !ok {
			return c.wrongType(at, t, value)
		}
		for i, element := range list {
			ok = c.conforms(at.Index(i), *t.element, element) && ok
		}
		return ok
	default: // map
		object, ok := value.(map[string]any)
		if !ok {
			return c.wrongType(at, t, value)
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			ok = c.conforms(at.Key(key), *t.element, object[key]) && ok
		}
		return ok
	}
}

func (c *checker) wrongType(at Path, t hclType, value any) bool {
	c.add(Errorf(at, "want %s, have %s", t, nameOf(value)))
	return false
}

// bounds checks min and max; conforms said that the type is right.
func (c *checker) bounds(at Path, a *transportv1.Attribute, t hclType, value any) {
	if a.Min == nil && a.Max == nil {
		return
	}
	var measure float64
	of := ""
	switch v := value.(type) {
	case json.Number:
		measure, _ = v.Float64()
	case string:
		n, unit, err := measureString(a.GetFormat(), v)
		if err != nil {
			return // leaves reports it
		}
		measure, of = n, unit
	case []any:
		measure, of = float64(len(v)), "elements"
	case map[string]any:
		measure, of = float64(len(v)), "elements"
	default:
		return
	}
	if a.Min != nil && measure < a.GetMin() {
		c.add(Errorf(at, "%s is less than the minimum of %s", c.quantity(measure, of), quantity(a.GetMin(), of)))
	}
	if a.Max != nil && measure > a.GetMax() {
		c.add(Errorf(at, "%s is more than the maximum of %s", c.quantity(measure, of), quantity(a.GetMax(), of)))
	}
}

func measureString(format, text string) (float64, string, error) {
	switch format {
	case FormatDuration:
		d, err := ParseDuration(text)
		return d.Seconds(), "seconds", err
	case FormatSize:
		n, err := ParseSize(text)
		return float64(n), "bytes", err
	default:
		return float64(utf8.RuneCountInString(text)), "characters", nil
	}
}

func (c *checker) quantity(value float64, unit string) string {
	if c.secret && unit == "" {
		return "the value"
	}
	return quantity(value, unit)
}

func quantity(value float64, unit string) string {
	switch unit {
	case "seconds":
		return time.Duration(value * float64(time.Second)).String()
	case "bytes":
		return Size(value).String()
	default:
		return strings.TrimSpace(fmt.Sprintf("%g %s", value, unit))
	}
}

// leaves applies enum, format and pattern to a scalar or to each element.
func (c *checker) leaves(at Path, a *transportv1.Attribute, value any) {
	switch v := value.(type) {
	case []any:
		for i, element := range v {
			c.leaves(at.Index(i), a, element)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			c.leaves(at.Key(key), a, v[key])
		}
	case string:
		c.leaf(at, a, v)
	case json.Number:
		c.enum(at, a, v.String())
	}
}

func (c *checker) leaf(at Path, a *transportv1.Attribute, text string) {
	c.enum(at, a, text)
	if a.GetFormat() != "" && (text != "" || a.GetRequired()) {
		if err := checkFormat(a.GetFormat(), text); err != nil {
			if c.secret {
				err = fmt.Errorf("want %s", formatHint(a.GetFormat()))
			}
			c.add(Errorf(at, "%s", err))
		}
	}
	if a.GetPattern() == "" {
		return
	}
	// Anchored here: "the whole value must match" is the contract.
	pattern, err := regexp.Compile(`\A(?:` + a.GetPattern() + `)\z`)
	if err != nil {
		c.add(Errorf(at, "the plugin declares a pattern that is no regular expression"))
		return
	}
	if !pattern.MatchString(text) {
		c.add(Errorf(at, "%s does not match the pattern %s", c.quote(text), a.GetPattern()))
	}
}

func (c *checker) enum(at Path, a *transportv1.Attribute, text string) {
	if len(a.GetEnum()) == 0 || slices.Contains(a.GetEnum(), text) {
		return
	}
	d := Errorf(at, "%s is not allowed", c.quote(text))
	d.Detail = "want one of " + strings.Join(a.GetEnum(), ", ")
	if suggestion := nearest(text, a.GetEnum()); suggestion != "" && !c.secret {
		d.Detail += fmt.Sprintf("; did you mean %q?", suggestion)
	}
	c.add(d)
}

func (c *checker) quote(text string) string {
	if c.secret {
		return "the value"
	}
	return fmt.Sprintf("%q", clip(text, 64))
}

// blocks checks one block type; nil means that there is none.
func (c *checker) blocks(at Path, b *transportv1.Block, value any) any {
	if value == nil {
		if b.GetMin() > 0 {
			c.add(Errorf(at, "missing required block %q", b.GetType()).WithDetail("%s", firstSentence(b.GetDescription())))
		}
		return nil
	}
	if b.GetDeprecated() != "" {
		c.add(Warningf(at, "block %q is deprecated", b.GetType()).WithDetail("%s", b.GetDeprecated()))
	}
	if b.GetMax() <= 1 {
		return c.body(at, b.GetBody(), value)
	}
	list, ok := value.([]any)
	if !ok {
		c.add(Errorf(at, "want a list of objects, have %s", nameOf(value)))
		return nil
	}
	if len(list) < int(b.GetMin()) || len(list) > int(b.GetMax()) {
		c.add(Errorf(at, "%d blocks of type %q; want %d to %d", len(list), b.GetType(), b.GetMin(), b.GetMax()))
		return nil
	}
	filled := make([]any, len(list))
	for i, one := range list {
		filled[i] = c.body(at.Index(i), b.GetBody(), one)
	}
	return filled
}

func nameOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a bool"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	default:
		return "an object"
	}
}
