package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// maxLocalSize bounds the text of one local: "${a}${a}" over a chain of
// locals doubles with each.
const maxLocalSize = 1 << 20

// local is one value of a locals block.
type local struct {
	attribute *hcl.Attribute
	value     cty.Value
	state     evaluation
}

type evaluation int

const (
	evaluationWaiting evaluation = iota
	evaluationRunning
	evaluationDone
)

// addLocals notes the attributes of one locals block.
func (l *loader) addLocals(block *hcl.Block) {
	attributes, diags := block.Body.JustAttributes()
	l.add(diags...)
	for name, attribute := range attributes {
		if other, ok := l.locals[name]; ok {
			l.add(twice(attribute.NameRange, other.attribute.NameRange, fmt.Sprintf("Local %q is given twice", name)))
			continue
		}
		l.locals[name] = &local{attribute: attribute}
	}
}

// twice reports that something was given in two places.
func twice(where, first hcl.Range, summary string) *hcl.Diagnostic {
	if where.Filename == first.Filename && where.Start.Byte < first.Start.Byte {
		where, first = first, where // attributes come in the order of a map
	}
	return problemAt(where, summary, "The other one is at %s.", rangeOf(first))
}

// evaluateLocals evaluates all locals, each after those that it refers to.
func (l *loader) evaluateLocals() {
	values := make(map[string]cty.Value, len(l.locals))
	for _, name := range slices.Sorted(maps.Keys(l.locals)) {
		values[name] = l.evaluateLocal(name)
	}
	l.variables["local"] = cty.ObjectVal(values)
}

// evaluateLocal returns the value of a local; it is unknown when there is a
// mistake in it, which has been reported.
func (l *loader) evaluateLocal(name string) cty.Value {
	one := l.locals[name]
	if one.state != evaluationWaiting {
		return one.value
	}
	one.state, one.value = evaluationRunning, cty.DynamicVal
	values := map[string]cty.Value{}
	for _, traversal := range one.attribute.Expr.Variables() {
		used, ok := localName(traversal)
		if !ok || l.locals[used] == nil {
			continue
		}
		if l.locals[used].state == evaluationRunning {
			l.add(problemAt(traversal.SourceRange(), "Locals refer to each other in a circle",
				"local.%s is needed for its own value.", used))
			one.state = evaluationDone
			return one.value
		}
		values[used] = l.evaluateLocal(used)
	}
	ctx := l.context(one.attribute.Range.Filename).NewChild()
	ctx.Variables = map[string]cty.Value{"local": cty.ObjectVal(values)}
	value, ok := l.evaluate(one.attribute.Expr, ctx)
	if ok && textSize(value) > maxLocalSize {
		l.add(problemAt(one.attribute.Expr.Range(), "Local too large", "The text of a local may have %s at most.", Size(maxLocalSize)))
		ok = false
	}
	if ok {
		one.value = value
	}
	one.state = evaluationDone
	return one.value
}

// evaluate returns the value of an expression; ok is false when it has none,
// which has been reported.
func (l *loader) evaluate(expr hcl.Expression, ctx *hcl.EvalContext) (value cty.Value, ok bool) {
	value, found, ok := l.evaluateQuietly(expr, ctx)
	l.add(found...)
	return value, ok
}

func (l *loader) evaluateQuietly(expr hcl.Expression, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics, bool) {
	if found := l.unknownNames(expr.Variables()); len(found) > 0 {
		return cty.DynamicVal, found, false
	}
	value, found := expr.Value(ctx)
	if found.HasErrors() {
		return cty.DynamicVal, found, false
	}
	unmarked, _ := value.UnmarkDeep()
	return value, found, unmarked.IsWhollyKnown()
}

// unknownNames reports references to what is not there.
func (l *loader) unknownNames(traversals []hcl.Traversal) hcl.Diagnostics {
	return append(l.unknownLocals(traversals), l.unknownDestinations(traversals)...)
}

// unknownLocals reports references to locals that do not exist, which HCL
// would call attributes of an object.
func (l *loader) unknownLocals(traversals []hcl.Traversal) hcl.Diagnostics {
	var found hcl.Diagnostics
	for _, traversal := range traversals {
		name, ok := localName(traversal)
		if !ok || l.locals[name] != nil {
			continue
		}
		if l.incomplete {
			// It may be in the file that does not parse.
			found = append(found, &hcl.Diagnostic{
				Severity: hcl.DiagWarning, Summary: "Unknown local", Subject: traversal.SourceRange().Ptr(),
				Detail: fmt.Sprintf("local.%s is in none of the files that could be read.", name),
			})
			continue
		}
		found = append(found, problemAt(traversal.SourceRange(), "Unknown local", "No locals block has %q.%s",
			name, didYouMean(name, slices.Sorted(maps.Keys(l.locals)))))
	}
	return found
}

// localName returns NAME of a traversal local.NAME.
func localName(traversal hcl.Traversal) (string, bool) {
	if traversal.IsRelative() || traversal.RootName() != "local" {
		return "", false
	}
	return stepName(traversal, 1)
}

// textSize returns the bytes of all strings in a value.
func textSize(value cty.Value) int {
	total := 0
	unmarked, _ := value.UnmarkDeep()
	_ = cty.Walk(unmarked, func(_ cty.Path, v cty.Value) (bool, error) {
		if v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
			total += len(v.AsString())
		}
		return true, nil
	})
	return total
}
