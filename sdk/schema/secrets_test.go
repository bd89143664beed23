package schema_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/sdk/schema"
)

const withSecrets = `{"url":"https://a.example","token":"secret-1","auth":{"user":"u","password":"secret-2"},"target":[{"host":"a","token":"secret-3"},{"host":"b","token":"secret-4"}]}`

func TestSecretsAreFoundWhereverTheyAre(t *testing.T) {
	t.Parallel()
	s := of[everything](t)
	if diff := cmp.Diff([]string{"token", "auth.password", "target[*].token"}, schema.SecretPaths(s)); diff != "" {
		t.Error(diff)
	}
	values, err := schema.SecretValues(s, []byte(withSecrets))
	slices.Sort(values)
	if diff := cmp.Diff([]string{"secret-1", "secret-2", "secret-3", "secret-4"}, values); diff != "" || err != nil {
		t.Error(diff, err)
	}
	redacted, err := schema.Redact(s, []byte(withSecrets))
	if err != nil || strings.Contains(string(redacted), "secret-") || strings.Count(string(redacted), schema.Redacted) != 4 || !strings.Contains(string(redacted), `"user":"u"`) {
		t.Errorf("%s, %v", redacted, err)
	}
}

func TestMapSecretsRoundTrip(t *testing.T) {
	t.Parallel()
	s := of[everything](t)
	var paths []string
	hidden, err := schema.MapSecrets(s, []byte(withSecrets), func(p schema.Path, value json.RawMessage) (json.RawMessage, error) {
		paths = append(paths, p.String())
		return json.Marshal(map[string]string{"sealed": string(value)})
	})
	if err != nil || !cmp.Equal(paths, []string{"token", "auth.password", "target[0].token", "target[1].token"}) {
		t.Fatalf("%v, %v", paths, err)
	}
	shown, err := schema.MapSecrets(s, hidden, func(_ schema.Path, value json.RawMessage) (json.RawMessage, error) {
		var sealed map[string]string
		err := json.Unmarshal(value, &sealed)
		return json.RawMessage(sealed["sealed"]), err
	})
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := errors.Join(json.Unmarshal([]byte(withSecrets), &want), json.Unmarshal(shown, &got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := schema.MapSecrets(s, []byte(withSecrets), func(schema.Path, json.RawMessage) (json.RawMessage, error) {
		return nil, errors.New("no key")
	}); err == nil || err.Error() != "token: no key" {
		t.Errorf("error %v", err)
	}
}

func TestJSONSchemaAndMarkdown(t *testing.T) {
	t.Parallel()
	s := of[everything](t)
	text, err := schema.ToJSONSchema(s)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Type                 string
		AdditionalProperties bool
		Required             []string
		Properties           map[string]map[string]any
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	if document.Type != "object" || document.AdditionalProperties || !cmp.Equal(document.Required, []string{"url"}) {
		t.Errorf("%+v", document)
	}
	for name, want := range map[string]string{
		"url":     `{"description":"Where to. More words.","format":"uri","type":"string","x-format":"url"}`,
		"token":   `{"description":"Who I am.","minLength":8,"type":"string","writeOnly":true}`,
		"mode":    `{"default":"safe","description":"How.","enum":["fast","safe"],"type":"string"}`,
		"name":    `{"description":"A name.","maxLength":10,"pattern":"^(?:[a-z]+)$","type":"string"}`,
		"wait":    `{"default":"30s","description":"How long.","type":"string","x-format":"duration","x-maximum":3600,"x-minimum":1}`,
		"retries": `{"default":3,"description":"How often.","maximum":10,"minimum":0,"type":"number"}`,
		"old":     `{"deprecated":true,"description":"Gone.","type":"string","x-deprecated":"use name"}`,
		"tags":    `{"description":"Labels.","items":{"type":"string"},"maxItems":3,"type":"array"}`,
		"headers": `{"additionalProperties":{"type":"string"},"description":"Headers.","type":"object"}`,
		"auth":    `{"additionalProperties":false,"description":"Credentials.","properties":{"password":{"description":"Password.","type":"string","writeOnly":true},"user":{"description":"Name.","type":"string"}},"required":["user","password"],"type":"object"}`,
	} {
		got, err := json.Marshal(document.Properties[name])
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	markdown := schema.ToMarkdown(s)
	for _, line := range []string{
		"| `url` | string, url | **required** | Where to. More words. Example: `\"https://a.example\"`, `\"https://b.example\"`. |",
		"| `wait` | string, duration | `\"30s\"` | How long. From 1s to 1h0m0s. |",
		"| `limit` | string, size | `\"10MiB\"` | How much. At most 1GiB. |",
		"| `old` | string | none | Gone. **Deprecated:** use name |",
		"Block `target` (0 to 2 times): Targets.",
		"### `config.auth`",
		"| `password` | string, secret | **required** | Password. |",
	} {
		if !strings.Contains(markdown, line+"\n") {
			t.Errorf("the Markdown lacks %s:\n%s", line, markdown)
		}
	}
}
