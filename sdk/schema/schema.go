// Package schema turns a Go struct with tags into the wire schema of a
// destination's config {}, checks JSON against any wire schema, and decodes it.
//
// One declaration drives parsing, validation, documentation, forms and the list
// of secrets. The package must never link HCL: plugins import it, and package
// schemahcl does that for the daemon.
//
// A struct field is an attribute when its type is string, bool, a number,
// time.Duration, Size, a slice of those, or a map from string to one of them. A
// nested struct is a block, a slice of structs a repeated block; an embedded
// struct adds its fields to the level that it is in. Tags:
//
//	config:"name,required,secret"  name is required; the options are not
//	doc:"..."                      required: what it means, Markdown
//	default:"30s"                  value when absent
//	enum:"a,b"                     allowed values
//	format:"url"                   url, duration, size, email, host, hostport, path, pem, cidr
//	pattern:"^[a-z]+$"             RE2 that the whole value must match
//	min:"1" max:"10"               of a number, duration, size, length, or count of blocks
//	deprecated:"use b"             gives a warning
//	example:"\"https://...\""      HCL expression; several are separated by " | "
package schema

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Size is a number of bytes, written "512", "64KiB", "10MB" or "1.5GiB".
type Size int64

// DefaultMaxBlocks bounds a repeated block without a max tag.
const DefaultMaxBlocks = 100

// Formats that an attribute of type string may have.
const (
	FormatURL      = "url"
	FormatDuration = "duration"
	FormatSize     = "size"
	FormatEmail    = "email"
	FormatHost     = "host"
	FormatHostPort = "hostport"
	FormatPath     = "path"
	FormatPEM      = "pem"
	FormatCIDR     = "cidr"
)

var attrName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func isDuration(t reflect.Type) bool { return t == reflect.TypeFor[time.Duration]() }

func isSize(t reflect.Type) bool { return t == reflect.TypeFor[Size]() }

// Of gives the schema of struct C. Errors name the field and what is wrong
// with its tags.
func Of[C any]() (*transportv1.ConfigSchema, error) {
	return OfType(reflect.TypeFor[C]())
}

// OfType is Of for a type that is known only at run time.
func OfType(t reflect.Type) (*transportv1.ConfigSchema, error) {
	return schemaOf(t, nil)
}

func schemaOf(t reflect.Type, seen []reflect.Type) (*transportv1.ConfigSchema, error) {
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("type %s: want a struct", t)
	}
	for _, outer := range seen {
		if outer == t {
			return nil, fmt.Errorf("type %s contains itself", t)
		}
	}
	fields, err := fieldsOf(t)
	if err != nil {
		return nil, err
	}
	s := &transportv1.ConfigSchema{}
	names := map[string]bool{}
	for _, f := range fields {
		if names[f.name] {
			return nil, fmt.Errorf("field %s.%s: the name %q is taken", t, f.goName, f.name)
		}
		names[f.name] = true
		if f.block != nil {
			b, err := blockOf(f, append(seen, t))
			if err != nil {
				return nil, fmt.Errorf("field %s.%s: %w", t, f.goName, err)
			}
			s.Blocks = append(s.Blocks, b)
			continue
		}
		a, err := attributeOf(f)
		if err != nil {
			return nil, fmt.Errorf("field %s.%s: %w", t, f.goName, err)
		}
		s.Attributes = append(s.Attributes, a)
	}
	return s, nil
}

// field is one struct field with its tag read.
type field struct {
	goName           string
	name             string
	index            []int
	typ              reflect.Type
	block            reflect.Type // struct type of a block, else nil
	repeated         bool
	required, secret bool
	tag              reflect.StructTag
}

// fieldsOf lists the fields of t, those of embedded structs included.
func fieldsOf(t reflect.Type) ([]field, error) {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
			inner, err := fieldsOf(sf.Type)
			if err != nil {
				return nil, err
			}
			for _, f := range inner {
				f.index = append([]int{i}, f.index...)
				fields = append(fields, f)
			}
			continue
		}
		if !sf.IsExported() || sf.Tag.Get("config") == "-" {
			continue
		}
		f, err := fieldOf(sf)
		if err != nil {
			return nil, fmt.Errorf("field %s.%s: %w", t, sf.Name, err)
		}
		f.index = []int{i}
		fields = append(fields, f)
	}
	return fields, nil
}

func fieldOf(sf reflect.StructField) (field, error) {
	parts := strings.Split(sf.Tag.Get("config"), ",")
	f := field{goName: sf.Name, name: parts[0], typ: sf.Type, tag: sf.Tag}
	if !attrName.MatchString(f.name) {
		return f, fmt.Errorf("name %q in its config tag: want lower case letters, digits and '_', starting with a letter", f.name)
	}
	for _, option := range parts[1:] {
		switch option {
		case "required":
			f.required = true
		case "secret":
			f.secret = true
		default:
			return f, fmt.Errorf("option %q in its config tag: want required or secret", option)
		}
	}
	if strings.TrimSpace(sf.Tag.Get("doc")) == "" {
		return f, fmt.Errorf("attribute %q has no doc tag", f.name)
	}
	f.block, f.repeated = blockType(sf.Type)
	return f, nil
}

// blockType finds the struct behind a block field.
func blockType(t reflect.Type) (block reflect.Type, repeated bool) {
	if t.Kind() == reflect.Slice {
		t, repeated = t.Elem(), true
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	return t, repeated
}

func blockOf(f field, seen []reflect.Type) (*transportv1.Block, error) {
	if f.secret {
		return nil, fmt.Errorf("block %q is marked secret: mark its attributes", f.name)
	}
	body, err := schemaOf(f.block, seen)
	if err != nil {
		return nil, err
	}
	b := &transportv1.Block{Type: f.name, Description: f.tag.Get("doc"), Max: 1, Body: body, Deprecated: f.tag.Get("deprecated")}
	if f.repeated {
		b.Max = DefaultMaxBlocks
	}
	if f.required {
		b.Min = 1
	}
	bounds, err := boundsOf(f, kindNumber)
	if err != nil {
		return nil, err
	}
	if bounds.min != nil {
		b.Min = uint32(*bounds.min)
	}
	if bounds.max != nil {
		b.Max = uint32(*bounds.max)
	}
	if !f.repeated && b.Max != 1 {
		return nil, fmt.Errorf("block %q may be given %d times: want a slice", f.name, b.Max)
	}
	if b.Min > b.Max {
		return nil, fmt.Errorf("block %q: min %d is greater than max %d", f.name, b.Min, b.Max)
	}
	return b, nil
}
