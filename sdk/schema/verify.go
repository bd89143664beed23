package schema

import (
	"errors"
	"fmt"
	"strings"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// maxDepth bounds the nesting of blocks, maxNames the names on one level.
const (
	maxDepth = 8
	maxNames = 500
)

// Verify checks a schema that a plugin declares: names, types, a description
// everywhere, formats, patterns, and defaults that are valid themselves. The
// host must call it before it trusts a foreign schema. It reports all mistakes.
func Verify(s *transportv1.ConfigSchema) error {
	return errors.Join(verify("", s, 0)...)
}

func verify(prefix string, s *transportv1.ConfigSchema, depth int) (problems []error) {
	if depth > maxDepth {
		return []error{fmt.Errorf("%sblocks are nested more than %d deep", prefix, maxDepth)}
	}
	if len(s.GetAttributes())+len(s.GetBlocks()) > maxNames {
		return []error{fmt.Errorf("%smore than %d attributes and blocks", prefix, maxNames)}
	}
	seen := map[string]bool{}
	name := func(kind, name, description string) {
		switch {
		case !attrName.MatchString(name):
			problems = append(problems, fmt.Errorf("%s%s %q: want a name of lower case letters, digits and '_', starting with a letter", prefix, kind, clip(name, 64)))
		case seen[name]:
			problems = append(problems, fmt.Errorf("%s%s %q is declared twice", prefix, kind, name))
		case strings.TrimSpace(description) == "":
			problems = append(problems, fmt.Errorf("%s%s %q has no description", prefix, kind, name))
		}
		seen[name] = true
	}
	for _, a := range s.GetAttributes() {
		name("attribute", a.GetName(), a.GetDescription())
		if _, err := parseType(a.GetType()); err != nil {
			problems = append(problems, fmt.Errorf("%sattribute %q: %w", prefix, a.GetName(), err))
			continue
		}
		if err := checkAttribute(a); err != nil {
			problems = append(problems, fmt.Errorf("%s%w", prefix, err))
		}
	}
	for _, b := range s.GetBlocks() {
		name("block", b.GetType(), b.GetDescription())
		if b.GetMax() < 1 || b.GetMin() > b.GetMax() {
			problems = append(problems, fmt.Errorf("%sblock %q may be given %d to %d times", prefix, b.GetType(), b.GetMin(), b.GetMax()))
		}
		problems = append(problems, verify(prefix+b.GetType()+": ", b.GetBody(), depth+1)...)
	}
	return problems
}
