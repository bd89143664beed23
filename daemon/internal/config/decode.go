package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// decodeFiles decodes the blocks of all files into the configuration.
func (l *loader) decodeFiles(bodies []*hclsyntax.Body) {
	spec := root()
	schema := spec.schema
	schema.Blocks = append(slices.Clone(schema.Blocks), hcl.BlockHeaderSchema{Type: "locals"})
	contents := make([]*hcl.BodyContent, len(bodies))
	for i, body := range bodies {
		contents[i] = l.content(body, &schema, body.SrcRange.Filename)
		for _, block := range contents[i].Blocks {
			if block.Type == "locals" {
				l.addLocals(block)
			}
		}
	}
	l.declareDestinations(contents)
	l.evaluateLocals()
	for _, content := range contents {
		l.decodeBlocks(spec, content.Blocks, l.config, "")
	}
}

// content is body.Content without what may only seem to be missing.
func (l *loader) content(body hcl.Body, schema *hcl.BodySchema, file string) *hcl.BodyContent {
	content, found := body.Content(schema)
	for _, one := range found {
		if l.broken[file] && one.Summary == "Missing required argument" {
			continue
		}
		l.add(one)
	}
	return content
}

// decodeBlocks decodes the blocks in a block of type spec into parent. path
// tells where that is.
func (l *loader) decodeBlocks(spec *block, blocks hcl.Blocks, parent any, path string) {
	for _, one := range blocks {
		i := slices.IndexFunc(spec.blocks, func(b *block) bool { return b.name == one.Type })
		if i < 0 {
			continue // locals
		}
		nested := spec.blocks[i]
		name := path + "\x00" + one.Type + "\x00" + strings.Join(one.Labels, "\x00")
		if first, ok := l.first[name]; ok {
			if nested.joins && first.Filename != one.DefRange.Filename {
				l.decodeBlock(nested, one, l.opened[name], name)
				continue
			}
			l.add(twice(one.DefRange, first, describe(one)+" is given twice"))
			continue
		}
		l.first[name] = one.DefRange
		if nested.plugin {
			if d, ok := parent.(*Destination); ok {
				d.block = one
			}
			continue
		}
		l.checkLabels(nested, one)
		value := nested.open(parent, one.Labels)
		if sourced, ok := value.(interface{ setSource(hcl.Range) }); ok {
			sourced.setSource(one.DefRange)
		}
		l.sources[value] = one.DefRange
		if nested.joins {
			l.opened[name] = value
		}
		l.decodeBlock(nested, one, value, name)
	}
}

func (p *Plugin) setSource(r hcl.Range) { p.Source = rangeOf(r) }

func (k *APIKey) setSource(r hcl.Range) { k.Source = rangeOf(r) }

func (d *Destination) setSource(r hcl.Range) { d.Source, d.place = rangeOf(r), r }

// describe returns how a block begins: `destination "acme" "billing"`.
func describe(b *hcl.Block) string {
	text := b.Type
	for _, label := range b.Labels {
		text += fmt.Sprintf(" %q", label)
	}
	return text
}

// decodeBlock decodes one block into value.
func (l *loader) decodeBlock(spec *block, b *hcl.Block, value any, path string) {
	file := b.DefRange.Filename
	content := l.content(b.Body, &spec.schema, file)
	ctx := l.context(file)
	for i := range spec.attributes {
		a := &spec.attributes[i]
		if given, ok := content.Attributes[a.name]; ok {
			l.decodeAttribute(a, given, value, ctx)
		}
	}
	l.decodeBlocks(spec, content.Blocks, value, path)
}

// decodeAttribute decodes one attribute into the setting of block's value.
func (l *loader) decodeAttribute(a *attribute, given *hcl.Attribute, block any, ctx *hcl.EvalContext) {
	pointer := a.at(block)
	if first, ok := l.sources[pointer]; ok {
		l.add(twice(given.NameRange, first, a.name+" is given twice"))
		return
	}
	l.sources[pointer] = given.Range
	if l.brokenAt(given.Range) {
		return // what is left of it after a syntax error says nothing
	}
	marked, ok := l.evaluate(given.Expr, ctx)
	if !ok {
		return
	}
	value, marks := marked.UnmarkDeep()
	where := given.Expr.Range()
	if len(marks) > 0 && !a.secret() {
		l.add(problemAt(where, "A secret where it would be shown",
			"%s is not a secret setting: it appears in logs and in the API. The value comes from %s. If it may be shown, say so: nonsensitive(...).",
			a.name, origins(marks)))
		return
	}
	if value.IsNull() {
		delete(l.sources, pointer)
		if a.required {
			l.add(problemAt(where, "Missing value", "%s is required; it must not be null.", a.name))
		}
		return
	}
	if err := l.assign(a, pointer, value, filepath.Dir(given.Range.Filename)); err != nil {
		for _, one := range eachError(err) {
			l.add(problemAt(elementRange(given.Expr, one), "Invalid "+a.name, "%s", a.sentence(one)))
		}
		return
	}
	if len(marks) == 0 && (a.kind == kindKey || a.name == "token") {
		l.add(&hcl.Diagnostic{
			Severity: hcl.DiagWarning, Summary: "A secret in the file", Subject: &where, Extra: about{},
			Detail: fmt.Sprintf("Whoever can read the file, its copies and its history knows this %s. Write env(\"NAME\") or trimspace(file(\"PATH\")).", a.name),
		})
	}
}

// brokenAt reports whether a syntax error lies in a place.
func (l *loader) brokenAt(where hcl.Range) bool {
	return l.broken[where.Filename] && slices.ContainsFunc(l.syntax, func(d *hcl.Diagnostic) bool {
		return d.Subject != nil && d.Subject.Overlaps(where)
	})
}

// sentence is an error's text with a capital and a full stop.
func sentence(err error) string {
	text := err.Error()
	if text == "" {
		return ""
	}
	if !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "?") {
		text += "."
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// sentence is sentence, but leaves the attribute's own name as it is written.
func (a *attribute) sentence(err error) string {
	if strings.HasPrefix(err.Error(), a.name+" ") {
		return a.name + strings.TrimPrefix(sentence(err), strings.ToUpper(a.name[:1])+a.name[1:])
	}
	return sentence(err)
}

// eachError returns the errors that errors.Join joined, or err alone.
func eachError(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// elementError is an error about one element of a list.
type elementError struct {
	index int
	err   error
}

func (e *elementError) Error() string { return e.err.Error() }
func (e *elementError) Unwrap() error { return e.err }

// elementRange returns the range of the element that err is about, or of the
// whole expression.
func elementRange(expr hcl.Expression, err error) hcl.Range {
	var element *elementError
	if errors.As(err, &element) {
		if list, diags := hcl.ExprList(expr); !diags.HasErrors() && element.index < len(list) {
			return list[element.index].Range()
		}
	}
	return expr.Range()
}
