package docs

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const preamble = `# HTTP API

<!-- Written by "make generate" from the OpenAPI document; do not edit. -->

A running daemon serves this as OpenAPI 3.1: ` + "`GET /openapi.json`, `GET /openapi.yaml`" + `. Bodies are JSON in UTF-8; times are RFC 3339. A member or a query parameter that is not listed here is an error, so that a typing mistake is not silence.

**Keys.** Every operation takes ` + "`Authorization: Bearer TOKEN`" + `, where the token is that of an ` + "`api_key`" + ` block of the [configuration](configuration.md). The key decides the organization; only a key with ` + "`organization = \"*\"`" + ` says which one it means, with ` + "`?organization=NAME`" + `. What belongs to another organization is *not found*.

**Ids.** ` + "`X-Request-Id`" + ` of a request (up to 128 visible ASCII characters) is taken over, else one is made; it is in the answer, in a problem and in the daemon's log.

**Without a key:** ` + "`GET /healthz`" + ` (200 while the process lives; never looks at the database), ` + "`GET /readyz`" + ` (200 when work can be sent here, else 503 with the reason), and the two documents above. **With a key of all organizations** and the role admin, operator or viewer: ` + "`GET /metrics`" + `, in the format of Prometheus.

`

// problems explains what OpenAPI has no place for. docs_test.go checks that no
// code of the program is missing.
const problems = `## Problems

An error is RFC 9457: ` + "`application/problem+json`" + ` as in [Problem](#problem). Decide on ` + "`code`" + `; its meaning never changes, while texts may.

| status | code | meaning, and what to do |
|---|---|---|
| 400 | ` + "`malformed_json`" + ` | the body is not JSON; line and column are named |
| 400, 406, 422 | ` + "`invalid_request`" + ` | a parameter, header or member is wrong; ` + "`errors`" + ` names each |
| 400 | ` + "`invalid_cursor`" + ` | the cursor is not the ` + "`next_cursor`" + ` of a page with the same filter |
| 401 | ` + "`unauthenticated`" + ` | no token, or one of no key of the configuration in use |
| 403 | ` + "`forbidden`" + ` | the key's role may not do this, or it belongs to another organization |
| 404 | ` + "`not_found`" + ` | nothing of that name in this organization |
| 405 | ` + "`method_not_allowed`" + ` | the header Allow lists what the path takes |
| 408 | ` + "`request_timeout`" + ` | the body came too slowly |
| 409 | ` + "`idempotency_conflict`" + ` | the key was used with a different request |
| 409 | ` + "`conflict`, `not_replayable`, `not_cancellable`" + ` | it is not in a state in which this can be done |
| 409 | ` + "`managed_by_config`" + ` | the configuration decides this: change the file and reload |
| 409 | ` + "`label_taken`" + ` | the organization has a destination of that label |
| 409 | ` + "`deliveries_wait`" + ` | the destination is not deleted while deliveries wait; ` + "`force=true`" + ` makes dead letters of them |
| 409 | ` + "`last_secret`" + ` | without it nothing could be sent; ` + "`force=true`" + ` holds the deliveries until there is another |
| 409 | ` + "`too_many_secrets`" + ` | 10 are usable already: revoke one |
| 413 | ` + "`body_too_large`, `payload_too_large`, `artifact_too_large`" + ` | more than ` + "`http.max_body`, `submit.max_payload` or `artifacts.max_size`" + ` |
| 415 | ` + "`unsupported_media_type`" + ` | send ` + "`Content-Type: application/json`" + ` |
| 422 | ` + "`unknown_destination`, `destination_disabled`, `no_destination`, `no_default_destination`, `too_many_destinations`" + ` | nothing was queued for any destination |
| 422 | ` + "`unknown_artifact`, `artifact_not_ready`" + ` | the organization has no such artifact, or its upload has not ended; nothing was queued |
| 422 | ` + "`artifact_mismatch`" + ` | the upload differs from the size or digest that was announced; nothing was kept |
| 422 | ` + "`invalid_payload`, `invalid_priority`, `invalid_schedule`, `invalid_expiry`" + ` | nothing was queued |
| 422 | ` + "`invalid_configuration`" + ` | the reload was refused; ` + "`errors`" + ` has file, line and snippet of each mistake |
| 422 | ` + "`destination_misconfigured`" + ` | the plugin refuses the destination's configuration |
| 500 | ` + "`internal_error`" + ` | the daemon's log says why, under ` + "`request_id`" + ` |
| 503 | ` + "`unavailable`, `overloaded`, `transport_unavailable`" + ` | try again after ` + "`Retry-After`" + ` seconds, with the same idempotency key |

`

func (d *openAPI) write(page *bytes.Buffer) {
	page.WriteString(preamble)
	page.WriteString("| operation | | roles |\n|---|---|---|\n")
	for _, tag := range d.tags() {
		for _, op := range d.operations(tag) {
			fmt.Fprintf(page, "| [`%s %s`](#%s) | %s | %s |\n", op.method, op.path, anchor(op.title()), cell(op.Summary), op.roles())
		}
	}
	page.WriteString("\n")
	for _, tag := range d.tags() {
		fmt.Fprintf(page, "## %s\n\n", tag)
		for _, op := range d.operations(tag) {
			op.write(page)
		}
	}
	page.WriteString(problems)
	page.WriteString("## Types\n\nMembers in bold are always there (in an answer) or required (in a request).\n\n")
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		d.Components.Schemas[name].write(page, name)
	}
}

func (op *operation) title() string { return op.method + " " + op.path }

func (op *operation) roles() string {
	text := strings.Join(op.Roles, ", ")
	if op.AllOrganizations {
		text += "; of all organizations"
	}
	return text
}

func (op *operation) write(page *bytes.Buffer) {
	fmt.Fprintf(page, "### %s\n\n%s.", op.title(), op.Summary)
	if op.Description != "" {
		page.WriteString(" " + op.Description)
	}
	fmt.Fprintf(page, " *Roles: %s.*\n\n", op.roles())
	if body, ok := op.RequestBody.Content["application/json"]; ok {
		fmt.Fprintf(page, "Body: %s.\n\n", body.Schema.text())
	}
	// The organization is a matter of every operation; the preamble has it.
	own := slices.DeleteFunc(slices.Clone(op.Parameters), func(p parameter) bool { return p.Name == "organization" })
	if len(own) > 0 {
		page.WriteString("| parameter | in | type | meaning |\n|---|---|---|---|\n")
		for _, p := range own {
			fmt.Fprintf(page, "| %s | %s | %s | %s |\n", name(p.Name, p.Required), p.In, cell(p.Schema.text()), cell(sentence(p.Description, p.Schema)))
		}
		page.WriteString("\n")
	}
	op.writeResponses(page)
}

func (op *operation) writeResponses(page *bytes.Buffer) {
	var refused []string
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		if status >= "300" {
			refused = append(refused, status)
			continue
		}
		fmt.Fprintf(page, "%s: ", status)
		if body, ok := op.Responses[status].Content["application/json"]; ok {
			fmt.Fprintf(page, "%s. ", body.Schema.text())
		} else {
			page.WriteString("no body. ")
		}
	}
	fmt.Fprintf(page, "[Problems](#problems): %s.\n\n", strings.Join(refused, ", "))
}

func (s *schema) write(page *bytes.Buffer, title string) {
	fmt.Fprintf(page, "### %s\n\n", title)
	if s.Description != "" {
		fmt.Fprintf(page, "%s.\n\n", strings.TrimSuffix(s.Description, "."))
	}
	if len(s.Properties) == 0 {
		fmt.Fprintf(page, "%s\n\n", s.text())
		return
	}
	page.WriteString("| member | type | meaning |\n|---|---|---|\n")
	names := slices.SortedFunc(maps.Keys(s.Properties), func(a, b string) int {
		// Required members first: they are what a reader has to know.
		if ra, rb := slices.Contains(s.Required, a), slices.Contains(s.Required, b); ra != rb {
			if ra {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, member := range names {
		p := s.Properties[member]
		fmt.Fprintf(page, "| %s | %s | %s |\n", name(member, slices.Contains(s.Required, member)), cell(p.text()), cell(sentence(p.Description, p)))
	}
	page.WriteString("\n")
}

func name(text string, required bool) string {
	if required {
		return "**`" + text + "`**"
	}
	return "`" + text + "`"
}

// text names the type for people.
func (s *schema) text() string {
	switch {
	case s == nil:
		return "any JSON"
	case s.Ref != "":
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		return "[" + name + "](#" + anchor(name) + ")"
	case len(s.OneOf) > 0:
		var all []string
		for _, one := range s.OneOf {
			all = append(all, one.text())
		}
		return strings.Join(all, " or ")
	case len(s.Enum) > 0:
		var all []string
		for _, one := range s.Enum {
			all = append(all, "`"+fmt.Sprint(one)+"`")
		}
		return strings.Join(all, ", ")
	}
	types := slices.DeleteFunc(slices.Clone(s.Type), func(t string) bool { return t == "null" })
	text := strings.Join(types, " or ")
	switch {
	case text == "":
		return "any JSON"
	case text == "array":
		return "list of " + s.Items.text()
	case s.Format == "date-time":
		return "time"
	}
	return text
}

// sentence is a description with the bounds of a value.
func sentence(description string, s *schema) string {
	var parts []string
	if description != "" {
		parts = append(parts, strings.TrimSuffix(description, "."))
	}
	if s != nil {
		parts = append(parts, s.bounds()...)
	}
	return strings.Join(parts, "; ")
}

func (s *schema) bounds() []string {
	var all []string
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		all = append(all, number(*s.Minimum)+" to "+number(*s.Maximum))
	case s.Maximum != nil:
		all = append(all, "at most "+number(*s.Maximum))
	case s.Minimum != nil && *s.Minimum != 0:
		all = append(all, "at least "+number(*s.Minimum))
	}
	if s.MaxLength != nil {
		all = append(all, fmt.Sprintf("at most %d characters", *s.MaxLength))
	}
	if s.Default != nil {
		all = append(all, fmt.Sprintf("default `%v`", s.Default))
	}
	return all
}

func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// cell fits a text into a table.
func cell(text string) string {
	return strings.NewReplacer("\n", " ", "|", `\|`).Replace(text)
}

// anchor is what GitHub makes of a heading.
func anchor(heading string) string {
	var out strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ', r == '-':
			out.WriteByte('-')
		case r == '_', r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			out.WriteRune(r)
		}
	}
	return out.String()
}
