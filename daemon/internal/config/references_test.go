package config

import (
	"strings"
	"testing"
)

func TestReferencesToDestinations(t *testing.T) {
	t.Parallel()
	c, diags := Parse([]Source{
		{"a.hcl", []byte(base + "locals {\n  audit = destination.acme.audit\n}\n")},
		{"b.hcl", []byte("destination \"acme\" \"audit\" {\n  type = \"hook\"\n}\ndestination \"acme\" \"my orders\" {\n  type        = \"hook\"\n  description = \"beside ${local.audit} and ${destination[\"acme\"][\"my orders\"]}\"\n}\n")},
	}, Options{LookupEnv: lookup(testEnv())})
	if diags.HasErrors() {
		t.Fatal(diags.Err())
	}
	if got, want := c.Destinations[1].Description, "beside audit and my orders"; got != want {
		t.Errorf("description = %q, want %q", got, want)
	}
	for expression, want := range map[string]string{
		"destination.acme.adit":        `No destination block has the labels "acme" "adit". Did you mean "audit"?`,
		"destination.acne.audit":       `No destination block has the organization "acne". Did you mean "acme"?`,
		"destination.acme":             "destination.ORGANIZATION.LABEL",
		"destination.acme.audit.label": "destination.ORGANIZATION.LABEL",
		"destination":                  "destination.ORGANIZATION.LABEL",
	} {
		for where, text := range map[string]string{
			"of a setting": "destination \"acme\" \"audit\" {\n  type        = \"hook\"\n  description = " + expression + "\n}\n",
			"of a local":   "destination \"acme\" \"audit\" { type = \"hook\" }\nlocals { x = " + expression + " }\n",
			"of a plugin":  "destination \"acme\" \"audit\" {\n  type = \"hook\"\n  config {\n    url = \"https://x.example/${" + expression + "}\"\n  }\n}\n",
		} {
			c, diags := parseText(base + text)
			diags = diags.Join(c.Resolve(t.Context(), newTransports(t), ResolveOptions{}))
			if err := diags.Err(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "Unsupported attribute") {
				t.Errorf("%s, %s: %v, want %q", expression, where, err, want)
			}
		}
	}
}
