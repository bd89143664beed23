package config

import (
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
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
			Severity: hcl.DiagWarning, Summary: "A secret in the file", Subject: &where,
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
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // made by assign itself
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

// assign stores a known value without marks in the setting at pointer. Its
// errors never quote the value of a secret setting.
func (l *loader) assign(a *attribute, pointer any, value cty.Value, dir string) error {
	switch a.kind {
	case kindSecret, kindKey, kindKeys:
		return l.assignSecret(a, pointer, value)
	case kindBool:
		converted, err := convert.Convert(value, cty.Bool)
		if err != nil {
			return fmt.Errorf("%s must be true or false", a.name)
		}
		*pointer.(*bool) = converted.True()
		return nil
	case kindInt, kindFloat:
		return assignNumber(a, pointer, value)
	case kindDuration, kindSize:
		return assignQuantity(a, pointer, value)
	case kindStrings:
		list, err := stringList(a, value)
		if err != nil {
			return err
		}
		var errs []error
		for i, text := range list {
			if err := a.checkText(text); err != nil {
				errs = append(errs, &elementError{i, err})
			}
		}
		*pointer.(*[]string) = list
		return errors.Join(errs...)
	default:
		text, err := stringOf(a, value)
		if err != nil {
			return err
		}
		if err := a.checkText(text); err != nil {
			return err
		}
		if a.path {
			if text, err = absolute(dir, text); err != nil {
				return err
			}
		}
		reflect.ValueOf(pointer).Elem().SetString(text)
		return nil
	}
}

func absolute(dir, path string) (string, error) {
	if path == "" {
		return "", errors.New("the path is empty")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding the absolute path: %w", err)
	}
	return absolute, nil
}

func (a *attribute) checkText(text string) error {
	if len(a.oneOf) > 0 && !slices.Contains(a.oneOf, text) {
		return fmt.Errorf("%s is not a %s; want one of %s.%s", shown(text), a.name, strings.Join(a.oneOf, ", "), didYouMean(text, a.oneOf))
	}
	if a.check != nil {
		return a.check(text)
	}
	return nil
}

func (l *loader) assignSecret(a *attribute, pointer any, value cty.Value) error {
	if a.kind == kindKeys {
		list, err := stringList(a, value)
		if err != nil {
			return err
		}
		keys := make([]secret.Key, len(list))
		for i, text := range list {
			l.keepSecret(text)
			if keys[i], err = secret.ParseKey(text); err != nil {
				return &elementError{i, err}
			}
		}
		*pointer.(*[]secret.Key) = keys
		return nil
	}
	text, err := stringOf(a, value)
	if err != nil {
		return err
	}
	l.keepSecret(text)
	if a.kind == kindKey {
		key, err := secret.ParseKey(text)
		if err != nil {
			return err
		}
		*pointer.(*secret.Key) = key
		return nil
	}
	if err := a.checkText(text); err != nil {
		return err
	}
	*pointer.(*secret.Value) = secret.New(text)
	return nil
}

func stringOf(a *attribute, value cty.Value) (string, error) {
	converted, err := convert.Convert(value, cty.String)
	if err != nil {
		return "", fmt.Errorf("%s must be text in quotes, not %s", a.name, value.Type().FriendlyName())
	}
	return converted.AsString(), nil
}

func stringList(a *attribute, value cty.Value) ([]string, error) {
	if value.Type() == cty.String {
		return nil, fmt.Errorf("%s must be a list: [\"...\"]", a.name)
	}
	converted, err := convert.Convert(value, cty.List(cty.String))
	if err != nil {
		return nil, fmt.Errorf("%s must be a list of texts: [\"...\", \"...\"]", a.name)
	}
	list := make([]string, 0, converted.LengthInt())
	for _, element := range converted.AsValueSlice() {
		if element.IsNull() {
			return nil, &elementError{len(list), fmt.Errorf("an element of %s must not be null", a.name)}
		}
		list = append(list, element.AsString())
	}
	return list, nil
}

func assignNumber(a *attribute, pointer any, value cty.Value) error {
	converted, err := convert.Convert(value, cty.Number)
	if err != nil {
		return fmt.Errorf("%s must be a number, not %s", a.name, value.Type().FriendlyName())
	}
	number := converted.AsBigFloat()
	if a.kind == kindFloat {
		f, _ := number.Float64()
		if err := a.inRange(f, shownNumber(number)); err != nil {
			return err
		}
		*pointer.(*float64) = f
		return nil
	}
	n, accuracy := number.Int64()
	if accuracy != big.Exact {
		return fmt.Errorf("%s is %s; it must be a whole number%s", a.name, shownNumber(number), a.rangeText(" from "))
	}
	if n == 0 && a.hasZero {
		*pointer.(*int) = a.zero
		return nil
	}
	if err := a.inRange(float64(n), shownNumber(number)); err != nil {
		return err
	}
	*pointer.(*int) = int(n)
	return nil
}

// shownNumber is a number for an error. One with a huge exponent would take
// minutes to convert.
func shownNumber(n *big.Float) string {
	if exponent := n.MantExp(nil); n.IsInf() || exponent > maxExponent || exponent < -maxExponent {
		return "far out of range"
	}
	return n.Text('g', 10)
}

// assignQuantity stores a duration or a size.
func assignQuantity(a *attribute, pointer any, value cty.Value) error {
	example := map[kind]string{kindDuration: `"30s"`, kindSize: `"10MiB"`}[a.kind]
	if value.Type() != cty.String {
		return fmt.Errorf("%s must be text with a unit, such as %s", a.name, example)
	}
	text := value.AsString()
	var n int64
	if a.kind == kindDuration {
		d, err := ParseDuration(text)
		if err != nil {
			return err
		}
		n = int64(d)
	} else {
		s, err := ParseSize(text)
		if err != nil {
			return err
		}
		n = int64(s)
	}
	if !a.hasZero || n != 0 {
		if err := a.inRange(float64(n), shown(text)); err != nil {
			return err
		}
	}
	switch pointer := pointer.(type) {
	case *time.Duration:
		*pointer = time.Duration(n)
	case *setting.Duration:
		*pointer = setting.Duration(n)
	case *Size:
		*pointer = Size(n)
	case *int64:
		*pointer = n
	}
	return nil
}

func (a *attribute) inRange(n float64, shown string) error {
	if !a.bounded || n >= a.least && n <= a.most {
		return nil
	}
	return fmt.Errorf("%s is %s; it must be%s", a.name, shown, a.rangeText(" "))
}

// rangeText returns the range for people, or "" when there is none.
func (a *attribute) rangeText(before string) string {
	if !a.bounded {
		return ""
	}
	text := fmt.Sprintf("%s%s to %s", before, a.quantity(a.least), a.quantity(a.most))
	if a.hasZero {
		text += fmt.Sprintf(", or 0 for %s", a.zeroDoc)
	}
	return text
}

func (a *attribute) quantity(n float64) string {
	switch a.kind {
	case kindDuration:
		return `"` + formatDuration(time.Duration(n)) + `"`
	case kindSize:
		return `"` + Size(n).String() + `"`
	default:
		return fmt.Sprintf("%v", big.NewFloat(n).Text('f', -1))
	}
}
