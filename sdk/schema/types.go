package schema

import (
	"fmt"
	"strings"
)

// maxTypeDepth bounds the nesting of a type expression from a foreign plugin.
const maxTypeDepth = 4

// hclType is a parsed type expression: a scalar, or a list, set or map of one.
type hclType struct {
	name    string
	element *hclType
}

// String is the expression.
func (t hclType) String() string {
	if t.element == nil {
		return t.name
	}
	return t.name + "(" + t.element.String() + ")"
}

// parseType reads the subset of HCL's type expressions that a schema may use.
func parseType(expression string) (hclType, error) {
	return parseTypeDepth(strings.TrimSpace(expression), 0)
}

func parseTypeDepth(expression string, depth int) (hclType, error) {
	if depth > maxTypeDepth {
		return hclType{}, fmt.Errorf("a type nested more than %d deep", maxTypeDepth)
	}
	switch expression {
	case "string", "number", "bool", "any":
		return hclType{name: expression}, nil
	}
	for _, name := range []string{"list", "set", "map"} {
		inner, ok := strings.CutPrefix(expression, name+"(")
		if !ok || !strings.HasSuffix(inner, ")") {
			continue
		}
		element, err := parseTypeDepth(strings.TrimSpace(strings.TrimSuffix(inner, ")")), depth+1)
		if err != nil {
			return hclType{}, err
		}
		return hclType{name: name, element: &element}, nil
	}
	return hclType{}, fmt.Errorf("type %q: want string, number, bool, any, or list, set or map of one", clip(expression, 64))
}
