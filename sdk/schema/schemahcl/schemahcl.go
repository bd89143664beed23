// Package schemahcl connects wire schemas with HCL: it makes the decoder spec
// of a schema and finds the place in a file that a diagnostic is about.
//
// It is apart from package schema so that plugins do not link HCL.
package schemahcl

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// ToHCLDec makes the spec that decodes a body described by s. It checks names,
// types, required attributes and numbers of blocks, with file and line; what
// values mean is for schema.Check, which also fills in defaults: both read the
// JSON that cty's json package makes of the decoded value, where null means
// absent. Errors are mistakes in s, which may come from any plugin.
func ToHCLDec(s *transportv1.ConfigSchema) (hcldec.Spec, error) {
	spec := hcldec.ObjectSpec{}
	for _, a := range s.GetAttributes() {
		t, err := typeOf(a.GetType())
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", a.GetName(), err)
		}
		if spec[a.GetName()] != nil {
			return nil, fmt.Errorf("attribute %q is declared twice", a.GetName())
		}
		spec[a.GetName()] = &hcldec.AttrSpec{Name: a.GetName(), Type: t, Required: a.GetRequired()}
	}
	for _, b := range s.GetBlocks() {
		nested, err := ToHCLDec(b.GetBody())
		if err != nil {
			return nil, fmt.Errorf("block %q: %w", b.GetType(), err)
		}
		if spec[b.GetType()] != nil {
			return nil, fmt.Errorf("block %q is declared twice", b.GetType())
		}
		if b.GetMax() <= 1 {
			spec[b.GetType()] = &hcldec.BlockSpec{TypeName: b.GetType(), Nested: nested, Required: b.GetMin() > 0}
			continue
		}
		// A tuple and not a list: elements of type any may differ.
		spec[b.GetType()] = &hcldec.BlockTupleSpec{TypeName: b.GetType(), Nested: nested, MinItems: int(b.GetMin()), MaxItems: int(b.GetMax())}
	}
	return spec, nil
}

// typeOf reads a type expression such as list(string).
func typeOf(expression string) (cty.Type, error) {
	parsed, diagnostics := hclsyntax.ParseExpression([]byte(expression), "type", hcl.InitialPos)
	if diagnostics.HasErrors() {
		return cty.NilType, fmt.Errorf("type %q: %w", expression, diagnostics)
	}
	t, diagnostics := typeexpr.TypeConstraint(parsed)
	if diagnostics.HasErrors() {
		return cty.NilType, fmt.Errorf("type %q: %w", expression, diagnostics)
	}
	return t, nil
}
