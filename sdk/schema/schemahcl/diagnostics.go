package schemahcl

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/deliveryd/deliveryd/sdk/schema"
)

// Diagnostics gives findings the place in body that their path leads to, or as
// far as it leads.
func Diagnostics(body hcl.Body, findings schema.Diagnostics) hcl.Diagnostics {
	diagnostics := make(hcl.Diagnostics, len(findings))
	for i, f := range findings {
		severity := hcl.DiagError
		if f.Warning {
			severity = hcl.DiagWarning
		}
		where := RangeOf(body, f.Path)
		detail := f.Detail
		if detail == "" && len(f.Path) > 0 {
			detail = "At " + f.Path.String() + "."
		}
		diagnostics[i] = &hcl.Diagnostic{Severity: severity, Summary: f.Summary, Detail: detail, Subject: &where}
	}
	return diagnostics
}

// RangeOf finds the source of path in body: the value where there is one, else
// the nearest thing around it.
func RangeOf(body hcl.Body, path schema.Path) hcl.Range {
	native, ok := body.(*hclsyntax.Body)
	if !ok || len(path) == 0 {
		return body.MissingItemRange()
	}
	first, rest := path[0], path[1:]
	if a := native.Attributes[first.Attribute]; a != nil {
		return rangeInExpression(a.Expr, rest, a.SrcRange)
	}
	index := 0
	if len(rest) > 0 && rest[0].IsIndex {
		index, rest = rest[0].Index, rest[1:]
	}
	for _, block := range native.Blocks {
		if block.Type != first.Attribute {
			continue
		}
		if index > 0 {
			index--
			continue
		}
		if len(rest) == 0 {
			return block.DefRange()
		}
		return RangeOf(block.Body, rest)
	}
	return body.MissingItemRange()
}

// rangeInExpression follows indexes and keys into literal lists and maps; what
// an expression computes has no place of its own.
func rangeInExpression(e hclsyntax.Expression, path schema.Path, around hcl.Range) hcl.Range {
	if len(path) == 0 {
		return around
	}
	switch literal := e.(type) {
	case *hclsyntax.TupleConsExpr:
		if path[0].IsIndex && path[0].Index < len(literal.Exprs) {
			element := literal.Exprs[path[0].Index]
			return rangeInExpression(element, path[1:], element.Range())
		}
	case *hclsyntax.ObjectConsExpr:
		for _, item := range literal.Items {
			key, diagnostics := item.KeyExpr.Value(nil)
			if !diagnostics.HasErrors() && key.Type().FriendlyName() == "string" && key.AsString() == path[0].Key {
				return rangeInExpression(item.ValueExpr, path[1:], hcl.RangeBetween(item.KeyExpr.Range(), item.ValueExpr.Range()))
			}
		}
	}
	return around
}
