package blackbox_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"testing"
)

// TestStrangersSeeNothing goes over every operation that the daemon's own OpenAPI
// document has, with the keys of another organization, and names what is not
// theirs: whatever they ask, they are shown nothing of it and change nothing.
func TestStrangersSeeNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, settings{policy: `
  health_check {
    interval = "0s"
    idle     = "0s"
  }`}, "acme-declared")
	f.allowStrangers()
	d := f.start()
	theirs := f.belongings(d)
	before := f.rowsOf(organization)
	for _, op := range f.operations(d) {
		for _, role := range []string{"admin", "operator", "producer", "viewer"} {
			for _, ref := range []string{theirs.label, theirs.destination} {
				for _, query := range []string{"", "?organization=" + organization} {
					status, answer := f.callAs(d, "token-of-the-strange-"+role, op.method, theirs.path(op.path, ref)+query, op.body(theirs))
					what := role + ": " + op.method + " " + op.path + query
					if strings.Contains(op.path, "{") && status/100 == 2 {
						t.Errorf("%s of another organization: %d %s", what, status, answer)
					}
					if status >= http.StatusInternalServerError {
						t.Errorf("%s: %d %s", what, status, answer)
					}
					for _, mark := range theirs.marks() {
						if status/100 == 2 && strings.Contains(answer, mark) {
							t.Errorf("%s shows %q: %s", what, mark, answer)
						}
					}
				}
			}
		}
	}
	if after := f.rowsOf(organization); after != before {
		t.Errorf("strangers changed\n%s\nto\n%s", before, after)
	}
}

// allowStrangers adds an administrator, and keys of all roles of another organization.
func (f *fleet) allowStrangers() {
	f.t.Helper()
	f.allowAdmin()
	text, err := os.ReadFile(f.configPath)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, role := range []string{"admin", "operator", "producer", "viewer"} {
		text = append(text, `
api_key "strange-`+role+`" {
  organization = "umbrella"
  role         = "`+role+`"
  token        = "token-of-the-strange-`+role+`"
}
`...)
	}
	if err := os.WriteFile(f.configPath, text, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// belongings are things of one organization.
type belongings struct {
	label, destination, delivery, deadLetter, secret, artifact, alert string
}

func (b belongings) marks() []string {
	return []string{b.label, b.delivery, b.deadLetter, b.secret, b.artifact, b.alert, "acme-declared", "acme-payload"}
}

// path fills in what a path asks for.
func (b belongings) path(path, ref string) string {
	id := b.delivery
	switch {
	case strings.Contains(path, "/alerts/"):
		id = b.alert
	case strings.Contains(path, "/artifacts/"):
		id = b.artifact
	case strings.Contains(path, "/secrets/"):
		id = b.secret
	}
	return strings.NewReplacer("{ref}", ref, "{id}", id, "{secret}", b.secret).Replace(path)
}

// belongings gives the organization one of everything; nothing of it moves any more.
func (f *fleet) belongings(d *daemon) (b belongings) {
	f.t.Helper()
	b.label = "acme-made"
	made := f.administer(d, http.MethodPost, "/v1/destinations", `{"label":"acme-made","type":"webhook","config":{"url":"`+f.receiver.url+`/acme-made","secret":"`+f.receiver.secret+`"}}`)
	b.destination = number(made["id"])
	f.administer(d, http.MethodPost, "/v1/destinations/acme-made/pause", "")
	secret, _ := f.administer(d, http.MethodPost, "/v1/destinations/acme-made/secrets", `{}`)["id"].(string)
	b.secret = secret
	send := func() string {
		id, _ := f.administer(d, http.MethodPost, "/v1/deliveries", `{"destinations":["acme-made"],"payload":{"type":"test","data":"acme-payload"}}`)["id"].(string)
		return id
	}
	b.delivery, b.deadLetter = send(), send()
	f.await("a dead letter", `with d as (update delivery_queue set status = 'failed', failure_reason = 'acme-payload' where delivery_id = $1 returning 1) select count(*) from d`, b.deadLetter)
	status, answer := f.callAs(d, "token-of-the-admin", http.MethodPost, "/v1/artifacts?name=acme-payload", []byte("acme-payload"))
	var uploaded struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &uploaded); err != nil || uploaded.ID == "" {
		f.t.Fatalf("uploading: %d %s", status, answer)
	}
	b.artifact, b.alert = uploaded.ID, "alr_of_acme"
	f.await("an alert", `with a as (insert into alerts (id, organization_id, event, destination_id, label, status, severity, message, first_seen_at, last_seen_at)
		values ($1, $2, 'hold', $3::text::int, 'acme-made', 'open', 'high', 'acme-payload', now(), now()) returning 1) select count(*) from a`, b.alert, organization, b.destination)
	return b
}

func number(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// rowsOf is all that operators can change of an organization.
func (f *fleet) rowsOf(organization string) string {
	f.t.Helper()
	text, err := f.look(`
select string_agg(line, e'\n' order by line) from (
  select 'destination ' || concat_ws(' ', label, generation, resets, disabled, paused_at, breaker_forced_at, is_default, description, config, settings) as line from delivery_destinations where organization_id = $1
  union all select 'secret ' || concat_ws(' ', s.id, s.is_active, s.is_primary, s.expires_at) from webhook_secrets s
  union all select 'row ' || concat_ws(' ', id, status, retry_count, attempt_count, updated_at) from delivery_queue where organization_id = $1
  union all select 'alert ' || concat_ws(' ', id, status, acknowledged_by) from alerts where organization_id = $1
  union all select 'artifact ' || concat_ws(' ', id, name) from artifacts where organization_id = $1
  union all select 'audit ' || concat_ws(' ', id, action) from audit_log where organization_id = $1) x`, organization)
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// operation is one of the API's.
type operation struct{ method, path string }

// body is one that would do something.
func (o operation) body(theirs belongings) []byte {
	switch {
	case o.method == http.MethodGet || o.method == http.MethodDelete:
		return nil
	case o.path == "/v1/deliveries":
		return []byte(`{"destinations":["` + theirs.label + `"],"payload":{"type":"test","data":1}}`)
	case o.path == "/v1/deliveries/batch":
		return []byte(`{"deliveries":[{"destinations":[` + theirs.destination + `],"payload":{"type":"test","data":1}}]}`)
	case o.path == "/v1/destinations/{ref}":
		return []byte(`{"description":"strange"}`)
	}
	return []byte(`{}`)
}

// operations are all that the daemon says it has, but for what concerns no
// organization.
func (f *fleet) operations(d *daemon) (all []operation) {
	f.t.Helper()
	var document struct {
		Paths map[string]map[string]struct {
			Fleet bool `json:"x-all-organizations"`
		}
	}
	status, answer := f.callAs(d, "token-of-the-admin", http.MethodGet, "/openapi.json", nil)
	if err := json.Unmarshal([]byte(answer), &document); err != nil || len(document.Paths) < 20 {
		f.t.Fatalf("reading the OpenAPI document: %d, %d paths, %v", status, len(document.Paths), err)
	}
	for path, methods := range document.Paths {
		for method, op := range methods {
			one := operation{strings.ToUpper(method), path}
			if !op.Fleet {
				all = append(all, one)
			} else if status, answer := f.callAs(d, "token-of-the-strange-admin", one.method, one.path, nil); status != http.StatusForbidden {
				f.t.Errorf("%s %s, which concerns all organizations: %d %s, want 403", one.method, one.path, status, answer)
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].path+all[i].method < all[j].path+all[j].method })
	return all
}

// callAs makes a request with a token and returns status and body of its answer.
func (f *fleet) callAs(d *daemon, token, method, path string, body []byte) (status int, answer string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, d.url+path, bytes.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
