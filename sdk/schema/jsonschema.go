package schema

import (
	"encoding/json"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// ToJSONSchema gives s as JSON Schema, draft 2020-12. What JSON Schema cannot
// say (sizes, host:port, the bounds of a duration) is under "x-format" and in
// the description; Check remains the judge.
func ToJSONSchema(s *transportv1.ConfigSchema) ([]byte, error) {
	document := objectSchema(s)
	document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	return json.MarshalIndent(document, "", "  ")
}

func objectSchema(s *transportv1.ConfigSchema) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, a := range s.GetAttributes() {
		properties[a.GetName()] = attributeSchema(a)
		if a.GetRequired() {
			required = append(required, a.GetName())
		}
	}
	for _, b := range s.GetBlocks() {
		body := objectSchema(b.GetBody())
		if b.GetMax() > 1 {
			body = map[string]any{"type": "array", "items": body, "minItems": b.GetMin(), "maxItems": b.GetMax()}
		}
		body["description"] = b.GetDescription()
		if b.GetDeprecated() != "" {
			body["deprecated"] = true
		}
		properties[b.GetType()] = body
		if b.GetMin() > 0 {
			required = append(required, b.GetType())
		}
	}
	object := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		object["required"] = required
	}
	return object
}

func attributeSchema(a *transportv1.Attribute) map[string]any {
	t, err := parseType(a.GetType())
	if err != nil {
		t = hclType{name: "any"}
	}
	schema, leaf := typeSchema(t)
	constrain(leaf, a)
	bound(schema, t, a)
	schema["description"] = a.GetDescription()
	if len(a.GetDefaultJson()) > 0 {
		schema["default"] = json.RawMessage(a.GetDefaultJson())
	}
	if a.GetSecret() {
		schema["writeOnly"] = true
	}
	if a.GetDeprecated() != "" {
		schema["deprecated"] = true
		schema["x-deprecated"] = a.GetDeprecated()
	}
	return schema
}

// typeSchema gives the schema of a type and the part of it that describes the
// innermost element.
func typeSchema(t hclType) (schema, leaf map[string]any) {
	switch t.name {
	case "any":
		schema = map[string]any{}
	case "bool":
		schema = map[string]any{"type": "boolean"}
	case "list", "set":
		element, innermost := typeSchema(*t.element)
		schema = map[string]any{"type": "array", "items": element}
		if t.name == "set" {
			schema["uniqueItems"] = true
		}
		return schema, innermost
	case "map":
		element, innermost := typeSchema(*t.element)
		return map[string]any{"type": "object", "additionalProperties": element}, innermost
	default:
		schema = map[string]any{"type": t.name}
	}
	return schema, schema
}

// constrain applies what holds for each element.
func constrain(leaf map[string]any, a *transportv1.Attribute) {
	if len(a.GetEnum()) > 0 {
		leaf["enum"] = a.GetEnum()
	}
	if a.GetPattern() != "" {
		leaf["pattern"] = "^(?:" + a.GetPattern() + ")$"
	}
	if a.GetFormat() == "" {
		return
	}
	leaf["x-format"] = a.GetFormat()
	if standard := map[string]string{FormatURL: "uri", FormatEmail: "email"}[a.GetFormat()]; standard != "" {
		leaf["format"] = standard
	}
}

// bound applies min and max to what they measure.
func bound(schema map[string]any, t hclType, a *transportv1.Attribute) {
	least, most := "minimum", "maximum"
	switch {
	case t.name == "list" || t.name == "set":
		least, most = "minItems", "maxItems"
	case t.name == "map":
		least, most = "minProperties", "maxProperties"
	case t.name == "string" && (a.GetFormat() == FormatDuration || a.GetFormat() == FormatSize):
		least, most = "x-minimum", "x-maximum"
	case t.name == "string":
		least, most = "minLength", "maxLength"
	}
	if a.Min != nil {
		schema[least] = a.GetMin()
	}
	if a.Max != nil {
		schema[most] = a.GetMax()
	}
}
