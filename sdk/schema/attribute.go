package schema

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// kind is what an attribute holds, or the elements of a list or map.
type kind string

const (
	kindString kind = "string"
	kindBool   kind = "bool"
	kindNumber kind = "number"
)

// scalar gives the kind of t and the format that its Go type implies.
func scalar(t reflect.Type) (k kind, format string, ok bool) {
	if isDuration(t) {
		return kindString, FormatDuration, true
	}
	if isSize(t) {
		return kindString, FormatSize, true
	}
	switch t.Kind() {
	case reflect.String:
		return kindString, "", true
	case reflect.Bool:
		return kindBool, "", true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64:
		return kindNumber, "", true
	default:
		return "", "", false
	}
}

// typeOf gives the HCL type expression of t, the kind of its elements and the
// format that the Go type implies.
func typeOf(t reflect.Type) (expression string, k kind, format string, err error) {
	element, form := t, "%s"
	switch {
	case t.Kind() == reflect.Slice:
		element, form = t.Elem(), "list(%s)"
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		element, form = t.Elem(), "map(%s)"
	case t.Kind() == reflect.Pointer:
		element = t.Elem()
	}
	k, format, ok := scalar(element)
	if !ok {
		return "", "", "", fmt.Errorf("type %s cannot be an attribute", t)
	}
	return fmt.Sprintf(form, k), k, format, nil
}

func attributeOf(f field) (*transportv1.Attribute, error) {
	expression, k, format, err := typeOf(f.typ)
	if err != nil {
		return nil, err
	}
	a := &transportv1.Attribute{
		Name: f.name, Type: expression, Description: f.tag.Get("doc"), Required: f.required, Secret: f.secret,
		Format: format, Pattern: f.tag.Get("pattern"), Deprecated: f.tag.Get("deprecated"),
	}
	if given := f.tag.Get("format"); given != "" {
		a.Format = given
	}
	if enum := f.tag.Get("enum"); enum != "" {
		a.Enum = strings.Split(enum, ",")
	}
	if examples := f.tag.Get("example"); examples != "" {
		a.Examples = strings.Split(examples, " | ")
	}
	bounds, err := boundsOf(f, boundKind(expression, a.Format))
	if err != nil {
		return nil, err
	}
	a.Min, a.Max = bounds.min, bounds.max
	if text, ok := f.tag.Lookup("default"); ok {
		if a.DefaultJson, err = defaultJSON(text, expression, k); err != nil {
			return nil, err
		}
	}
	return a, checkAttribute(a)
}

func boundKind(expression, format string) kind {
	if expression == "string" && (format == FormatDuration || format == FormatSize) {
		return kind(format)
	}
	return kindNumber
}

type bounds struct{ min, max *float64 }

func boundsOf(f field, k kind) (b bounds, err error) {
	if b.min, err = boundOf(f, "min", k); err != nil {
		return b, err
	}
	b.max, err = boundOf(f, "max", k)
	return b, err
}

// boundOf reads a min or max tag: durations count in seconds, sizes in bytes.
func boundOf(f field, tag string, k kind) (*float64, error) {
	text, ok := f.tag.Lookup(tag)
	if !ok {
		return nil, nil
	}
	var value float64
	var err error
	switch k {
	case FormatDuration:
		var d time.Duration
		d, err = time.ParseDuration(text)
		value = d.Seconds()
	case FormatSize:
		var n Size
		n, err = ParseSize(text)
		value = float64(n)
	default:
		value, err = strconv.ParseFloat(text, 64)
	}
	if err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
		return nil, fmt.Errorf("attribute %q: tag %s:%q cannot be read", f.name, tag, text)
	}
	return &value, nil
}

// defaultJSON reads a default tag: plain text for scalars, JSON for lists and maps.
func defaultJSON(text, expression string, k kind) ([]byte, error) {
	switch {
	case expression == string(kindString):
		return json.Marshal(text)
	case !json.Valid([]byte(text)):
		return nil, fmt.Errorf("default %q: want JSON of type %s (%s)", text, expression, k)
	default:
		return []byte(text), nil
	}
}

// checkAttribute finds contradictions in an attribute, whoever declared it.
func checkAttribute(a *transportv1.Attribute) error {
	if a.GetFormat() != "" && !slices.Contains(formats(), a.GetFormat()) {
		return fmt.Errorf("attribute %q: unknown format %q; want one of %s", a.GetName(), a.GetFormat(), strings.Join(formats(), ", "))
	}
	if _, err := regexp.Compile(a.GetPattern()); err != nil {
		return fmt.Errorf("attribute %q: pattern: %w", a.GetName(), err)
	}
	if a.Min != nil && a.Max != nil && a.GetMin() > a.GetMax() {
		return fmt.Errorf("attribute %q: min %v is greater than max %v", a.GetName(), a.GetMin(), a.GetMax())
	}
	if len(a.GetDefaultJson()) == 0 {
		return nil
	}
	switch {
	case a.GetRequired():
		return fmt.Errorf("attribute %q is required and has a default", a.GetName())
	case a.GetSecret():
		return fmt.Errorf("attribute %q is secret and has a default, which everybody could read", a.GetName())
	}
	value, err := parse(a.GetDefaultJson())
	if err != nil {
		return fmt.Errorf("attribute %q: default: %w", a.GetName(), err)
	}
	c := checker{}
	c.attribute(At(a.GetName()), a, value)
	if c.diagnostics.HasErrors() {
		return fmt.Errorf("attribute %q: its default is not valid: %s", a.GetName(), c.diagnostics)
	}
	return nil
}

func formats() []string {
	return []string{FormatURL, FormatDuration, FormatSize, FormatEmail, FormatHost, FormatHostPort, FormatPath, FormatPEM, FormatCIDR}
}
