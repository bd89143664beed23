package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	ctyjson "github.com/zclconf/go-cty/cty/json"
	"google.golang.org/protobuf/proto"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// level is one level of a plugin's schema, made ready for decoding HCL. What
// values are allowed is schema.Check's business alone.
type level struct {
	hcl    hcl.BodySchema
	types  map[string]cty.Type
	secret map[string]bool
	blocks map[string]*nested
}

type nested struct {
	level *level
	list  bool
}

// maxSchemaDepth bounds the nesting of blocks in the schema of a foreign plugin.
const maxSchemaDepth = 10

func compile(s *transportv1.ConfigSchema) (*level, error) { return compileLevel(s, 0) }

func compileLevel(s *transportv1.ConfigSchema, depth int) (*level, error) {
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("the schema of the plugin nests blocks more than %d deep", maxSchemaDepth)
	}
	l := &level{types: map[string]cty.Type{}, secret: map[string]bool{}, blocks: map[string]*nested{}}
	for _, a := range s.GetAttributes() {
		expr, diags := hclsyntax.ParseExpression([]byte(a.GetType()), "type", hcl.InitialPos)
		if diags.HasErrors() {
			return nil, fmt.Errorf("the schema of the plugin: attribute %q has the type %q, which is none", a.GetName(), clean(a.GetType(), maxPluginSummary))
		}
		typ, diags := typeexpr.TypeConstraint(expr)
		if diags.HasErrors() {
			return nil, fmt.Errorf("the schema of the plugin: attribute %q has the type %q, which is none", a.GetName(), clean(a.GetType(), maxPluginSummary))
		}
		l.types[a.GetName()], l.secret[a.GetName()] = typ, a.GetSecret()
		l.hcl.Attributes = append(l.hcl.Attributes, hcl.AttributeSchema{Name: a.GetName()})
	}
	for _, b := range s.GetBlocks() {
		below, err := compileLevel(b.GetBody(), depth+1)
		if err != nil {
			return nil, err
		}
		l.blocks[b.GetType()] = &nested{level: below, list: b.GetMax() > 1}
		l.hcl.Blocks = append(l.hcl.Blocks, hcl.BlockHeaderSchema{Type: b.GetType()})
	}
	return l, nil
}

// withSecrets returns a copy of the schema in which the attributes at the
// pointers are secret.
func (l *level) withSecrets(s *transportv1.ConfigSchema, pointers []string) *transportv1.ConfigSchema {
	out, _ := proto.Clone(s).(*transportv1.ConfigSchema)
	for _, pointer := range pointers {
		at := out
		for _, step := range secret.Steps(pointer) {
			if i := slices.IndexFunc(at.GetAttributes(), func(a *transportv1.Attribute) bool { return a.GetName() == step }); i >= 0 {
				at.Attributes[i].Secret = true
				break
			}
			if i := slices.IndexFunc(at.GetBlocks(), func(b *transportv1.Block) bool { return b.GetType() == step }); i >= 0 {
				at = at.Blocks[i].GetBody()
			}
		}
	}
	return out
}

// secretPaths returns the pointers of what the schema declares as secret.
func secretPaths(s *transportv1.ConfigSchema) []string { return secretPathsBelow(s, nil) }

func secretPathsBelow(s *transportv1.ConfigSchema, at []string) []string {
	var paths []string
	for _, a := range s.GetAttributes() {
		if a.GetSecret() {
			paths = append(paths, secret.Pointer(append(at[:len(at):len(at)], a.GetName())...))
		}
	}
	for _, b := range s.GetBlocks() {
		below := append(at[:len(at):len(at)], b.GetType())
		if b.GetMax() > 1 {
			below = append(below, "*")
		}
		paths = append(paths, secretPathsBelow(b.GetBody(), below)...)
	}
	return paths
}

// compact sorts pointers and drops those that repeat, or that lie below another.
func compact(pointers []string) []string {
	slices.Sort(pointers)
	var out []string
	for _, pointer := range pointers {
		if !slices.ContainsFunc(out, func(kept string) bool { return pointer == kept || strings.HasPrefix(pointer, kept+"/") }) {
			out = append(out, pointer)
		}
	}
	return out
}

// decodedBody is the content of a config {}.
type decodedBody struct {
	json   []byte
	marked []string // pointers of what came from env() or file()
	found  hcl.Diagnostics
}

func decodeBody(l *loader, top *level, d *Destination) *decodedBody {
	out := &decodedBody{json: []byte("{}")}
	if d.block == nil {
		return out // a transport may need no configuration; if not, Check says what is missing
	}
	b := &bodyDecoder{loader: l, ctx: l.context(d.block.DefRange.Filename), out: out}
	object := b.body(top, d.block.Body, nil)
	text, err := json.Marshal(object)
	if err != nil {
		out.found = append(out.found, problemAt(d.block.DefRange, "Invalid configuration", "It cannot be written as JSON."))
		return out
	}
	out.json = text
	return out
}

type bodyDecoder struct {
	loader *loader
	ctx    *hcl.EvalContext
	out    *decodedBody
}

// body turns one level into a JSON object; at is the path to it.
func (b *bodyDecoder) body(l *level, body hcl.Body, at []string) map[string]any {
	content, found := body.Content(&l.hcl)
	b.out.found = append(b.out.found, found...)
	object := map[string]any{}
	for name, attribute := range content.Attributes {
		if value, ok := b.attribute(l, attribute, append(at[:len(at):len(at)], name)); ok {
			object[name] = value
		}
	}
	first := map[string]*hcl.Block{}
	for _, block := range content.Blocks {
		below := append(at[:len(at):len(at)], block.Type)
		if !l.blocks[block.Type].list {
			if other := first[block.Type]; other != nil {
				b.out.found = append(b.out.found, twice(block.DefRange, other.DefRange, describe(block)+" is given twice"))
				continue
			}
			first[block.Type] = block
			object[block.Type] = b.body(l.blocks[block.Type].level, block.Body, below)
			continue
		}
		list, _ := object[block.Type].([]any)
		object[block.Type] = append(list, b.body(l.blocks[block.Type].level, block.Body, append(below, fmt.Sprint(len(list)))))
	}
	return object
}

// attribute returns a value as JSON; ok is false when there is none.
func (b *bodyDecoder) attribute(l *level, attribute *hcl.Attribute, at []string) (json.RawMessage, bool) {
	marked, found, ok := b.loader.evaluateQuietly(attribute.Expr, b.ctx)
	b.out.found = append(b.out.found, found...)
	if !ok {
		if !found.HasErrors() { // it needs a local that has a mistake
			b.out.found = append(b.out.found, problemAt(attribute.Expr.Range(), "Value not known", "It needs a value that could not be found, see there."))
		}
		return nil, false
	}
	if l.secret[attribute.Name] {
		b.loader.keepTexts(marked)
	}
	typ := l.types[attribute.Name]
	converted, err := convert.Convert(marked, typ)
	if err != nil {
		b.out.found = append(b.out.found, problemAt(attribute.Expr.Range(), "Invalid "+attribute.Name,
			"%s must be %s, not %s.", attribute.Name, typeexpr.TypeString(typ), typeName(marked)))
		return nil, false
	}
	value, marks := converted.UnmarkDeepWithPaths()
	for _, one := range marks {
		b.out.marked = append(b.out.marked, secret.Pointer(append(at[:len(at):len(at)], pathSteps(one.Path)...)...))
	}
	if value.IsNull() {
		return nil, false
	}
	text, err := ctyjson.Marshal(value, value.Type())
	if err != nil {
		b.out.found = append(b.out.found, problemAt(attribute.Expr.Range(), "Invalid "+attribute.Name, "It cannot be written as JSON."))
		return nil, false
	}
	return text, true
}

// keepTexts notes every string in a value as a secret.
func (l *loader) keepTexts(value cty.Value) {
	unmarked, _ := value.UnmarkDeep()
	_ = cty.Walk(unmarked, func(_ cty.Path, v cty.Value) (bool, error) {
		if v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
			l.keepSecret(v.AsString())
		}
		return true, nil
	})
}

func typeName(value cty.Value) string {
	unmarked, _ := value.Unmark()
	return unmarked.Type().FriendlyName()
}

func pathSteps(path cty.Path) []string {
	var steps []string
	for _, step := range path {
		switch step := step.(type) {
		case cty.GetAttrStep:
			steps = append(steps, step.Name)
		case cty.IndexStep:
			switch key, _ := step.Key.Unmark(); key.Type() {
			case cty.String:
				steps = append(steps, key.AsString())
			case cty.Number:
				steps = append(steps, key.AsBigFloat().Text('f', 0))
			default: // an element of a set has no key of its own
				return append(steps, "*")
			}
		}
	}
	return steps
}

// rangeAt returns the place in the file that a path of the configuration leads
// to, or the nearest thing around it that is in the file.
func (d *Destination) rangeAt(path schema.Path) hcl.Range {
	if d.block == nil {
		return d.place
	}
	body, ok := d.block.Body.(*hclsyntax.Body)
	where := d.block.DefRange
	for i := 0; ok && i < len(path); i++ {
		name := path[i].Attribute
		if attribute, found := body.Attributes[name]; found && name != "" {
			return elementAt(attribute, path[i+1:])
		}
		blocks := slices.DeleteFunc(slices.Clone(body.Blocks), func(b *hclsyntax.Block) bool { return b.Type != name })
		if len(blocks) == 0 {
			return where
		}
		n := 0
		if i+1 < len(path) && path[i+1].IsIndex {
			i++
			n = min(max(path[i].Index, 0), len(blocks)-1)
		}
		body, where = blocks[n].Body, blocks[n].DefRange()
	}
	return where
}

// elementAt returns the place of an element of an attribute's value.
func elementAt(attribute *hclsyntax.Attribute, path schema.Path) hcl.Range {
	expr := hcl.Expression(attribute.Expr)
	if len(path) == 0 {
		return attribute.SrcRange
	}
	for _, step := range path {
		below := elementOf(expr, step)
		if below == nil {
			break
		}
		expr = below
	}
	return expr.Range()
}

func elementOf(expr hcl.Expression, step schema.Step) hcl.Expression {
	if step.IsIndex {
		list, diags := hcl.ExprList(expr)
		if diags.HasErrors() || step.Index < 0 || step.Index >= len(list) {
			return nil
		}
		return list[step.Index]
	}
	pairs, diags := hcl.ExprMap(expr)
	if diags.HasErrors() {
		return nil
	}
	name := step.Key
	if !step.IsKey {
		name = step.Attribute
	}
	for _, pair := range pairs {
		key, diags := pair.Key.Value(nil)
		if !diags.HasErrors() && key.Type() == cty.String && key.IsKnown() && !key.IsNull() && !key.IsMarked() && key.AsString() == name {
			return pair.Value
		}
	}
	return nil
}
