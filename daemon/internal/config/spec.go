package config

import (
	"reflect"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
)

// block describes one type of block: what decodes it, documents it, shows it
// and compares it. A block decodes into a Go value, which its attributes and
// nested blocks reach through the pointers that their functions return.
type block struct {
	name       string
	labels     []string
	doc        string
	attributes []attribute
	blocks     []*block
	// plugin is set on config {}, whose content belongs to a plugin.
	plugin bool
	// repeated blocks may occur many times, told apart by their labels.
	repeated bool
	// joins blocks may be given in parts: one per file, each with attributes of
	// its own, so that a file that a program writes can stand beside a person's.
	joins bool
	// checkLabel finds what is wrong with a label.
	checkLabel func(label string) error

	// open returns a pointer to the value that a block of parent decodes into.
	open func(parent any, labels []string) any
	// each returns the values that parent has of this block.
	each func(parent any) []instance

	schema hcl.BodySchema
}

// instance is one block as a Go value: a pointer to it, and its labels.
type instance struct {
	labels []string
	value  any
}

// kind says how an attribute is written in HCL and what Go type it has.
type kind string

const (
	kindString   kind = "string"
	kindBool     kind = "bool"
	kindInt      kind = "integer"
	kindFloat    kind = "number"
	kindDuration kind = "duration"
	kindSize     kind = "size"
	kindStrings  kind = "list of strings"
	kindSecret   kind = "secret string"
	kindKey      kind = "secret key"
	kindKeys     kind = "list of secret keys"
)

// attribute describes one setting.
type attribute struct {
	name string
	doc  string
	kind kind
	// at returns a pointer to the setting in its block's value.
	at func(block any) any

	required bool
	// restart: a change takes effect only when the daemon starts again.
	restart bool
	// least and most bound a number, a duration (ns), a size or a length.
	least, most float64
	bounded     bool
	oneOf       []string
	// zero is what the number 0 stands for where the Go type needs zero for "not given".
	zero    int
	hasZero bool
	zeroDoc string
	// path: relative to the directory of the file it is written in.
	path bool
	// field is the JSON name in a setting.FieldError, where it is not name.
	field string
	// unset describes the default where the Go value cannot.
	unset string
	// check finds what else is wrong with a text; its error must not quote a secret.
	check func(value string) error
}

type option func(*attribute)

func required() option { return func(a *attribute) { a.required = true } }
func restart() option  { return func(a *attribute) { a.restart = true } }
func isPath() option   { return func(a *attribute) { a.path = true } }

func oneOf(values ...string) option { return func(a *attribute) { a.oneOf = values } }
func unset(text string) option      { return func(a *attribute) { a.unset = text } }
func field(name string) option      { return func(a *attribute) { a.field = name } }

func check(f func(string) error) option { return func(a *attribute) { a.check = f } }

// zeroIs makes 0 in HCL mean value, which doc describes.
func zeroIs(value int, doc string) option {
	return func(a *attribute) { a.zero, a.hasZero, a.zeroDoc = value, true, doc }
}

func between[N int | time.Duration | Size | float64](least, most N) option {
	return func(a *attribute) { a.least, a.most, a.bounded = float64(least), float64(most), true }
}

// set describes the attribute name of a block that decodes into a B.
func set[B, V any](name string, at func(*B) *V, doc string, options ...option) attribute {
	a := attribute{
		name: name, doc: doc, kind: kindOf(reflect.TypeFor[V]()),
		at: func(block any) any { return at(block.(*B)) },
	}
	for _, apply := range options {
		apply(&a)
	}
	return a
}

// kindOf panics for a type that decode does not know: a mistake in the table.
func kindOf(t reflect.Type) kind {
	switch t {
	case reflect.TypeFor[secret.Value]():
		return kindSecret
	case reflect.TypeFor[secret.Key]():
		return kindKey
	case reflect.TypeFor[[]secret.Key]():
		return kindKeys
	case reflect.TypeFor[[]string]():
		return kindStrings
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[setting.Duration]():
		return kindDuration
	case reflect.TypeFor[Size](), reflect.TypeFor[int64]():
		return kindSize
	}
	switch t.Kind() {
	case reflect.String:
		return kindString
	case reflect.Bool:
		return kindBool
	case reflect.Int:
		return kindInt
	case reflect.Float64:
		return kindFloat
	}
	panic("config: no attribute can be a " + t.String())
}

func (a *attribute) secret() bool {
	return a.kind == kindSecret || a.kind == kindKey || a.kind == kindKeys
}

// jsonName is the attribute's name in a setting.FieldError.
func (a *attribute) jsonName() string {
	if a.field != "" {
		return a.field
	}
	return a.name
}

// single describes a block that may occur once in a P.
func single[P, B any](name string, at func(*P) *B, doc string, members ...any) *block {
	b := &block{
		name: name, doc: doc,
		open: func(parent any, _ []string) any { return at(parent.(*P)) },
		each: func(parent any) []instance { return []instance{{value: at(parent.(*P))}} },
	}
	return b.with(members)
}

// optional describes a block that may occur once in a P and is nil otherwise.
func optional[P, B any](name string, at func(*P) **B, doc string, members ...any) *block {
	b := &block{
		name: name, doc: doc,
		open: func(parent any, _ []string) any {
			*at(parent.(*P)) = new(B)
			return *at(parent.(*P))
		},
		each: func(parent any) []instance {
			if value := *at(parent.(*P)); value != nil {
				return []instance{{value: value}}
			}
			return nil
		},
	}
	return b.with(members)
}

// labelled describes a block with labels that may occur many times in a P.
func labelled[P, B any](name string, labels []string, list func(*P) *[]*B, create func(labels []string) *B, labelsOf func(*B) []string, doc string, members ...any) *block {
	b := &block{
		name: name, labels: labels, doc: doc, repeated: true, checkLabel: checkName,
		open: func(parent any, labels []string) any {
			value := create(labels)
			*list(parent.(*P)) = append(*list(parent.(*P)), value)
			return value
		},
		each: func(parent any) []instance {
			values := *list(parent.(*P))
			instances := make([]instance, len(values))
			for i, value := range values {
				instances[i] = instance{labelsOf(value), value}
			}
			return instances
		},
	}
	return b.with(members)
}

// with adds attributes and nested blocks in their order and builds the HCL schema.
func (b *block) with(members []any) *block {
	for _, member := range members {
		switch member := member.(type) {
		case attribute:
			b.attributes = append(b.attributes, member)
		case []attribute:
			b.attributes = append(b.attributes, member...)
		case *block:
			b.blocks = append(b.blocks, member)
		case []*block:
			b.blocks = append(b.blocks, member...)
		default:
			panic("config: " + b.name + " has a member that is neither attribute nor block")
		}
	}
	for _, a := range b.attributes {
		b.schema.Attributes = append(b.schema.Attributes, hcl.AttributeSchema{Name: a.name, Required: a.required})
	}
	for _, nested := range b.blocks {
		b.schema.Blocks = append(b.schema.Blocks, hcl.BlockHeaderSchema{Type: nested.name, LabelNames: nested.labels})
	}
	return b
}

// walk calls visit for every attribute of value and of the blocks in it, with
// the path of the block: its names and labels.
func (b *block) walk(value any, path []string, visit func(path []string, a *attribute, pointer any)) {
	for i := range b.attributes {
		a := &b.attributes[i]
		visit(path, a, a.at(value))
	}
	for _, nested := range b.blocks {
		if nested.plugin {
			continue
		}
		for _, one := range nested.each(value) {
			below := append(append(path[:len(path):len(path)], nested.name), one.labels...)
			nested.walk(one.value, below, visit)
		}
	}
}
