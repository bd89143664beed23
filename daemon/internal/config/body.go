package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
	"google.golang.org/protobuf/proto"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/schema/schemahcl"
)

// maxSchemaDepth bounds the nesting of blocks in the schema of a foreign plugin.
const maxSchemaDepth = 10

// compile returns the decoder for a plugin's schema. It is lenient where
// schema.Check is strict, so that Check finds everything else that is wrong at
// the same time.
func compile(s *transportv1.ConfigSchema) (hcldec.Spec, error) {
	if err := checkDepth(s, 0); err != nil {
		return nil, err
	}
	spec, err := schemahcl.ToHCLDec(s)
	if err != nil {
		return nil, fmt.Errorf("the schema of the plugin: %w", err)
	}
	return lenient(spec), nil
}

func checkDepth(s *transportv1.ConfigSchema, depth int) error {
	if depth > maxSchemaDepth {
		return fmt.Errorf("the schema of the plugin nests blocks more than %d deep", maxSchemaDepth)
	}
	for _, b := range s.GetBlocks() {
		if err := checkDepth(b.GetBody(), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// lenient takes from a spec what schema.Check checks as well.
func lenient(spec hcldec.Spec) hcldec.Spec {
	switch spec := spec.(type) {
	case hcldec.ObjectSpec:
		for name, nested := range spec {
			spec[name] = lenient(nested)
		}
	case *hcldec.AttrSpec:
		spec.Required = false
	case *hcldec.BlockSpec:
		spec.Required, spec.Nested = false, lenient(spec.Nested)
	case *hcldec.BlockTupleSpec:
		spec.MinItems, spec.MaxItems, spec.Nested = 0, 0, lenient(spec.Nested)
	}
	return spec
}

// withSecrets returns a copy of the schema in which the attributes at the
// pointers are secret.
func withSecrets(s *transportv1.ConfigSchema, pointers []string) *transportv1.ConfigSchema {
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

// secretPaths returns the JSON Pointers of what the schema declares as secret.
func secretPaths(s *transportv1.ConfigSchema) []string {
	paths := schema.SecretPaths(s) // "target[*].token"
	for i, path := range paths {
		paths[i] = secret.Pointer(strings.Split(strings.ReplaceAll(path, "[*]", ".*"), ".")...)
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
	// failed holds the paths of values that could not be found: what else may
	// be said about them is no news.
	failed map[string]bool
	found  hcl.Diagnostics
}

// body returns the body of config {}; a destination may do without one.
func (d *Destination) body() hcl.Body {
	if d.block == nil {
		return &hclsyntax.Body{SrcRange: d.place, EndRange: d.place}
	}
	return d.block.Body
}

// placesIn returns where the attributes and blocks of a body are.
func placesIn(body hcl.Body) map[string]hcl.Range {
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		return nil
	}
	places := make(map[string]hcl.Range, len(native.Attributes)+len(native.Blocks))
	for name, attribute := range native.Attributes {
		places[name] = attribute.SrcRange
	}
	for _, block := range native.Blocks {
		if _, ok := places[block.Type]; !ok {
			places[block.Type] = block.DefRange()
		}
	}
	return places
}

func (l *loader) decodeBody(spec hcldec.Spec, s *transportv1.ConfigSchema, d *Destination) *decodedBody {
	out := &decodedBody{failed: map[string]bool{}}
	body := d.body()
	ctx := l.context(d.place.Filename)
	if native, ok := body.(*hclsyntax.Body); ok {
		l.keepLiterals(native, s, ctx)
	}
	unknown := l.unknownNames(hcldec.Variables(body, spec))
	value, found := hcldec.Decode(body, spec, ctx)
	out.found = append(unknown, slices.DeleteFunc(found, func(one *hcl.Diagnostic) bool {
		return len(unknown) > 0 && one.Summary == "Unsupported attribute" // HCL's words for the same
	})...)
	value, marks := value.UnmarkDeepWithPaths()
	for _, one := range marks {
		out.marked = append(out.marked, secret.Pointer(pathSteps(one.Path)...))
	}
	known, err := cty.Transform(value, func(path cty.Path, v cty.Value) (cty.Value, error) {
		if v.IsKnown() {
			return v, nil
		}
		out.failed[schemaPath(path).String()] = true
		return cty.NullVal(v.Type()), nil
	})
	if err == nil {
		out.json, err = ctyjson.Marshal(known, known.Type())
	}
	if err != nil {
		out.found = append(out.found, problemAt(body.MissingItemRange(), "Invalid configuration", "It cannot be written as JSON."))
	}
	if len(out.failed) > 0 && !out.found.HasErrors() { // it needs a local that has a mistake
		out.found = append(out.found, problemAt(body.MissingItemRange(), "Value not known", "It needs a value that could not be found, see there."))
	}
	return out
}

// keepLiterals notes the values of the attributes that the schema calls secret,
// before anything can be wrong with them.
func (l *loader) keepLiterals(body *hclsyntax.Body, s *transportv1.ConfigSchema, ctx *hcl.EvalContext) {
	for _, a := range s.GetAttributes() {
		attribute := body.Attributes[a.GetName()]
		if attribute == nil || !a.GetSecret() {
			continue
		}
		if value, diags := attribute.Expr.Value(ctx); !diags.HasErrors() {
			l.keepTexts(value)
		}
	}
	for _, b := range s.GetBlocks() {
		for _, nested := range body.Blocks {
			if nested.Type == b.GetType() {
				l.keepLiterals(nested.Body, b.GetBody(), ctx)
			}
		}
	}
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

// pathSteps returns the steps of a path for a JSON Pointer.
func pathSteps(path cty.Path) []string {
	var steps []string
	for _, step := range schemaPath(path) {
		switch {
		case step.IsIndex && step.Index < 0:
			return append(steps, "*")
		case step.IsIndex:
			steps = append(steps, fmt.Sprint(step.Index))
		case step.IsKey:
			steps = append(steps, step.Key)
		default:
			steps = append(steps, step.Attribute)
		}
	}
	return steps
}

// schemaPath returns a path as package schema writes it. An element of a set
// has no index of its own; it gets -1.
func schemaPath(path cty.Path) schema.Path {
	var out schema.Path
	for _, step := range path {
		switch step := step.(type) {
		case cty.GetAttrStep:
			out = out.Attribute(step.Name)
		case cty.IndexStep:
			switch key, _ := step.Key.UnmarkDeep(); key.Type() {
			case cty.String:
				out = out.Key(key.AsString())
			case cty.Number:
				n, _ := key.AsBigFloat().Int64()
				out = out.Index(int(n))
			default:
				return out.Index(-1)
			}
		}
	}
	return out
}
