package api

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

func id(op *huma.Operation) string {
	if op == nil {
		return ""
	}
	return op.OperationID
}

func TestOpenAPIDocument(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, nil)
	got := call(t, a, "GET", "/openapi.json", "", "")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			RequestBody struct {
				Required bool
				Content  map[string]struct{ Schema map[string]any }
			}
			Responses map[string]struct{ Content map[string]any }
			Security  []map[string][]string
		}
		Components struct {
			Schemas map[string]struct {
				Properties map[string]map[string]any
				Required   []string
			}
		}
	}
	if err := json.Unmarshal([]byte(got.body), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("openapi is %q", doc.OpenAPI)
	}
	submit := doc.Paths["/v1/deliveries"]["post"]
	if !submit.RequestBody.Required || submit.RequestBody.Content["application/json"].Schema["$ref"] != "#/components/schemas/Submission" {
		t.Errorf("the submission's body is not documented: %+v", submit.RequestBody)
	}
	if doc.Components.Schemas["Submission"].Properties["priority"]["maximum"] != 10.0 {
		t.Errorf("the submission's schema lacks the bounds of priority: %v", doc.Components.Schemas["Submission"])
	}
	for path, item := range doc.Paths {
		for method, op := range item {
			if len(op.Security) != 1 {
				t.Errorf("%s %s: the document does not say that a key is needed", method, path)
			}
			if _, ok := op.Responses["401"].Content[problemMediaType]; !ok {
				t.Errorf("%s %s: the document does not show the problem of 401", method, path)
			}
		}
	}
	if yaml := call(t, a, "GET", "/openapi.yaml", "", ""); yaml.status != 200 || !strings.Contains(yaml.body, "submit-delivery") {
		t.Errorf("yaml: %d", yaml.status)
	}
}
