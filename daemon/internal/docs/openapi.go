package docs

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// openAPI is what the page shows of an OpenAPI 3.1 document.
type openAPI struct {
	Paths      map[string]map[string]*operation
	Components struct{ Schemas map[string]*schema }
}

type operation struct {
	method, path string

	Summary     string
	Description string
	Tags        []string
	Parameters  []parameter
	RequestBody struct {
		Content map[string]struct{ Schema *schema }
	}
	Responses        map[string]response
	Roles            []string `json:"x-roles"`
	AllOrganizations bool     `json:"x-all-organizations"`
}

type parameter struct {
	Name, In, Description string
	Required              bool
	Schema                *schema
}

type response struct {
	Content map[string]struct{ Schema *schema }
}

// schema is a JSON Schema, as far as huma writes it from Go types.
type schema struct {
	Ref         string `json:"$ref"`
	Type        typeNames
	Format      string
	Description string
	Properties  map[string]*schema
	Required    []string
	Items       *schema
	OneOf       []*schema
	Enum        []any
	Default     any
	Minimum     *float64
	Maximum     *float64
	MinLength   *int
	MaxLength   *int
	MinItems    *int
	MaxItems    *int
}

// typeNames is a type, or several of which null may be one.
type typeNames []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *typeNames) UnmarshalJSON(text []byte) error {
	if text[0] == '[' {
		return json.Unmarshal(text, (*[]string)(t))
	}
	var one string
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	*t = typeNames{one}
	return nil
}

func parse(text []byte) (*openAPI, error) {
	document := new(openAPI)
	if err := json.Unmarshal(text, document); err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	return document, nil
}

// operations lists all operations of a tag, by path and then in the order in
// which people think of methods.
func (d *openAPI) operations(tag string) []*operation {
	var all []*operation
	for path, item := range d.Paths {
		for method, op := range item {
			if slices.Contains(op.Tags, tag) {
				op.method, op.path = strings.ToUpper(method), path
				all = append(all, op)
			}
		}
	}
	order := []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
	slices.SortFunc(all, func(a, b *operation) int {
		if a.path != b.path {
			return strings.Compare(a.path, b.path)
		}
		return slices.Index(order, a.method) - slices.Index(order, b.method)
	})
	return all
}

// tags lists the tags in use.
func (d *openAPI) tags() []string {
	var all []string
	for _, item := range d.Paths {
		for _, op := range item {
			all = append(all, op.Tags...)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	// What most readers come for goes first; a tag that nobody thought of goes last.
	first := []string{"Deliveries", "Artifacts", "Destinations", "Daemon"}
	slices.SortStableFunc(all, func(a, b string) int {
		return rank(first, a) - rank(first, b)
	})
	return all
}

func rank(first []string, tag string) int {
	if at := slices.Index(first, tag); at >= 0 {
		return at
	}
	return len(first)
}
