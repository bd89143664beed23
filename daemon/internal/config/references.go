package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// destination.ORGANIZATION.LABEL is the label of a destination that is declared:
// wherever a destination is named, a reference to one that is not there is a
// mistake with a place, and not a name that nobody knows at three in the morning.

// declareDestinations makes the destinations of all files known to expressions.
func (l *loader) declareDestinations(contents []*hcl.BodyContent) {
	for _, content := range contents {
		for _, block := range content.Blocks {
			if block.Type != "destination" || len(block.Labels) != 2 {
				continue
			}
			organization, label := block.Labels[0], block.Labels[1]
			if l.declared[organization] == nil {
				l.declared[organization] = map[string]cty.Value{}
			}
			l.declared[organization][label] = cty.StringVal(label)
		}
	}
	organizations := make(map[string]cty.Value, len(l.declared))
	for name, labels := range l.declared {
		organizations[name] = cty.ObjectVal(labels)
	}
	l.variables["destination"] = cty.ObjectVal(organizations)
}

// unknownDestinations reports references to destinations that no block declares,
// which HCL would call attributes of an object.
func (l *loader) unknownDestinations(traversals []hcl.Traversal) hcl.Diagnostics {
	var found hcl.Diagnostics
	for _, traversal := range traversals {
		if traversal.IsRelative() || traversal.RootName() != "destination" {
			continue
		}
		text := l.unknownDestination(traversal)
		if text == "" {
			continue
		}
		one := problemAt(traversal.SourceRange(), "Unknown destination", "%s", text)
		if l.incomplete { // it may be in the file that does not parse
			one.Severity = hcl.DiagWarning
		}
		found = append(found, one)
	}
	return found
}

// unknownDestination says what is wrong with a reference, "" if nothing is.
func (l *loader) unknownDestination(traversal hcl.Traversal) string {
	organization, ok := stepName(traversal, 1)
	label, both := stepName(traversal, 2)
	if !ok || !both || len(traversal) > 3 {
		return "A reference to a destination is destination.ORGANIZATION.LABEL; it is the label."
	}
	labels, ok := l.declared[organization]
	if !ok {
		return fmt.Sprintf("No destination block has the organization %q.%s", organization, didYouMean(organization, slices.Sorted(maps.Keys(l.declared))))
	}
	if _, ok := labels[label]; !ok {
		return fmt.Sprintf("No destination block has the labels %q %q.%s", organization, label, didYouMean(label, slices.Sorted(maps.Keys(labels))))
	}
	return ""
}

// stepName returns the n-th step of a traversal as a name: .NAME or ["NAME"].
func stepName(traversal hcl.Traversal, n int) (string, bool) {
	if len(traversal) <= n {
		return "", false
	}
	switch step := traversal[n].(type) {
	case hcl.TraverseAttr:
		return step.Name, true
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String && step.Key.IsKnown() && !step.Key.IsNull() {
			return step.Key.AsString(), true
		}
	}
	return "", false
}
