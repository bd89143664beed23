package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// TestDestinationOperations: each reaches its service with the reference, the
// parameters and the body that the caller gave, and answers with its status.
func TestDestinationOperations(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	for _, c := range []struct {
		method, path, body string
		did, ref           string
		made               any
		status             int
	}{
		{"GET", "/billing", "", "get", "billing", nil, 200},
		{"GET", "/12", "", "get", "12", nil, 200},
		{"GET", "/caf%C3%A9%20%2F1", "", "get", "café /1", nil, 200},
		{"POST", "/billing/pause", "", "pause", "billing", nil, 200},
		{"POST", "/billing/resume", "", "resume", "billing", nil, 200},
		{"POST", "/billing/enable", "", "enable", "billing", nil, 200},
		{"POST", "/billing/disable", "", "disable", "billing", "", 200},
		{"POST", "/billing/disable?reason=moved+away", "", "disable", "billing", "moved away", 200},
		{"POST", "/billing/circuit-breaker/open?reason=upgrade", "", "open breaker", "billing", "upgrade", 200},
		{"POST", "/billing/circuit-breaker/close", "", "close breaker", "billing", nil, 200},
		{"POST", "/billing/test", "", "test", "billing", false, 200},
		{"POST", "/billing/test?ping=true", "", "test", "billing", true, 200},
		{"DELETE", "/billing", "", "delete", "billing", false, 200},
		{"DELETE", "/billing?force=true", "", "delete", "billing", true, 200},
	} {
		*f = fake{}
		got := call(t, a, c.method, "/v1/destinations"+c.path, acmeAdmin, c.body)
		if got.status != c.status || f.did != c.did || f.ref != c.ref || f.made != c.made {
			t.Errorf("%s %s: %d %s: did %q to %q with %v", c.method, c.path, got.status, got.body, f.did, f.ref, f.made)
		}
		if len(f.callers) != 1 || f.callers[0].Organization != "acme" || f.callers[0].Key != "acme-admin" {
			t.Errorf("%s %s: callers %+v", c.method, c.path, f.callers)
		}
	}
}

func TestCreateAndUpdateDestination(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	got := call(t, a, "POST", "/v1/destinations", acmeAdmin,
		`{"label":"billing","type":"webhook","description":"d","icon":"i","instructions":"s","default":true,"config":{"url":"https://x.example","n":1.50},"settings":{"concurrency":3}}`)
	made, _ := f.made.(NewDestination)
	if got.status != http.StatusCreated || made.Label != "billing" || made.Type != "webhook" || made.Description != "d" || made.Icon != "i" || made.Instructions != "s" ||
		!made.Default || string(made.Config) != `{"url":"https://x.example","n":1.50}` || string(made.Settings) != `{"concurrency":3}` {
		t.Errorf("created: %d %s, asked for %+v", got.status, got.body, made)
	}
	got = call(t, a, "PATCH", "/v1/destinations/billing", acmeAdmin, `{"description":"","default":false,"config":{"url":null}}`)
	patch, _ := f.made.(DestinationPatch)
	if got.status != http.StatusOK || f.ref != "billing" || patch.Description == nil || *patch.Description != "" || patch.Default == nil || *patch.Default ||
		patch.Icon != nil || patch.Instructions != nil || string(patch.Config) != `{"url":null}` || patch.Settings != nil {
		t.Errorf("updated: %d %s, asked for %+v", got.status, got.body, patch)
	}
	if got := call(t, a, "PATCH", "/v1/destinations/billing", acmeAdmin, `{}`); got.status != http.StatusOK {
		t.Errorf("an empty patch: %d %s", got.status, got.body)
	}
}

func TestDestinationMistakes(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               Code
		place              string
	}{
		"unknown member":       {"POST", "", `{"label":"a","type":"webhook","config":{},"lable":1}`, 422, CodeInvalidRequest, "/lable"},
		"default is text":      {"POST", "", `{"label":"a","type":"webhook","config":{},"default":"yes"}`, 422, CodeInvalidRequest, "/default"},
		"no body":              {"POST", "", "", 400, CodeMalformedJSON, ""},
		"half a body":          {"POST", "", `{"label":`, 400, CodeMalformedJSON, ""},
		"patch without body":   {"PATCH", "/billing", "", 400, CodeMalformedJSON, ""},
		"patch of the label":   {"PATCH", "/billing", `{"label":"b"}`, 422, CodeInvalidRequest, "/label"},
		"force is no boolean":  {"DELETE", "/billing?force=perhaps", "", 422, CodeInvalidRequest, "force"},
		"unknown parameter":    {"DELETE", "/billing?forced=true", "", 422, CodeInvalidRequest, "forced"},
		"long reference":       {"GET", "/" + long, "", 422, CodeInvalidRequest, "ref"},
		"long reason":          {"POST", "/billing/disable?reason=" + strings.Repeat("x", 1001), "", 422, CodeInvalidRequest, "reason"},
		"ping is no boolean":   {"POST", "/billing/test?ping=2", "", 422, CodeInvalidRequest, "ping"},
		"a method that is not": {"PUT", "/billing", "{}", 405, CodeMethodNotAllowed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			call(t, a, c.method, "/v1/destinations"+c.path, acmeAdmin, c.body).wantProblem(t, c.status, c.code, c.place)
		})
	}
	call(t, a, "POST", "/v1/destinations", acmeAdmin, `{"label":"a","type":"webhook","config":{"x":"`+strings.Repeat("x", 1<<20)+`"}}`).wantProblem(t, 413, CodeBodyTooLarge, "")
	call(t, a, "POST", "/v1/destinations", acmeAdmin, `{}`, "Content-Type", "text/plain").wantProblem(t, 415, CodeUnsupportedMediaType, "Content-Type")
	if len(f.callers) > 0 {
		t.Errorf("the service was asked nevertheless: %s %s", f.did, f.ref)
	}
}

// TestDestinationErrors: what the service refuses reaches the caller, what went
// wrong inside does not.
func TestDestinationErrors(t *testing.T) {
	t.Parallel()
	conflict := NewProblem(http.StatusConflict, "managed_by_config", "it is declared in a.hcl")
	for name, c := range map[string]struct {
		err    error
		status int
		code   Code
	}{
		"not found":  {fmt.Errorf("destination: %w", store.ErrNotFound), 404, CodeNotFound},
		"conflict":   {fmt.Errorf("changing: %w", conflict), 409, "managed_by_config"},
		"no plugin":  {NewProblem(http.StatusServiceUnavailable, "transport_unavailable", "it does not run"), 503, "transport_unavailable"},
		"no storage": {fmt.Errorf("reading: %w", store.ErrUnavailable), 503, CodeUnavailable},
		"unexpected": {errors.New("password=hunter2"), 500, CodeInternal},
	} {
		a := newTestAPI(t, &fake{fail: c.err})
		for _, op := range [][3]string{
			{"GET", "", ""},
			{"GET", "/a", ""},
			{"POST", "", `{"label":"a","type":"webhook","config":{}}`},
			{"PATCH", "/a", "{}"},
			{"DELETE", "/a", ""},
			{"POST", "/a/pause", ""},
			{"POST", "/a/resume", ""},
			{"POST", "/a/enable", ""},
			{"POST", "/a/disable", ""},
			{"POST", "/a/test", ""},
			{"POST", "/a/circuit-breaker/open", ""},
			{"POST", "/a/circuit-breaker/close", ""},
			{"GET", "/a/secrets", ""},
			{"POST", "/a/secrets", ""},
			{"POST", "/a/secrets/rotate", ""},
			{"PATCH", "/a/secrets/whs_1", "{}"},
			{"DELETE", "/a/secrets/whs_1", ""},
		} {
			got := call(t, a, op[0], "/v1/destinations"+op[1], acmeAdmin, op[2])
			if got.status != c.status || got.problem.Code != c.code || strings.Contains(got.body, "hunter2") || strings.Contains(got.body, "whsec_") {
				t.Errorf("%s, %s %s: %d %s", name, op[0], op[1], got.status, got.body)
			}
			if (got.header.Get("Retry-After") != "") != (c.status == 503) {
				t.Errorf("%s, %s %s: Retry-After is %q", name, op[0], op[1], got.header.Get("Retry-After"))
			}
		}
	}
}

// TestNothingIsAList: where there is nothing, there is an empty list and not null.
func TestNothingIsAList(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	for path, want := range map[string]string{
		"/v1/destinations": `{"destinations":[]}`, "/v1/lanes": `{"lanes":[]}`, "/v1/alerts": `{"alerts":[]}`,
		"/v1/destinations/a/secrets": `{"secrets":[]}`, "/v1/audit": `{"entries":[]}`,
	} {
		if got := call(t, a, "GET", path, acmeAdmin, ""); got.status != 200 || strings.TrimSpace(got.body) != want {
			t.Errorf("%s: %d %s, want %s", path, got.status, got.body, want)
		}
	}
	if got := call(t, a, "GET", "/v1/plugins", fleetAdmin, ""); strings.TrimSpace(got.body) != `{"plugins":[]}` {
		t.Errorf("plugins: %d %s", got.status, got.body)
	}
	got := call(t, a, "POST", "/v1/keys/rotate", fleetAdmin, "")
	var report KeyRotation
	if err := json.Unmarshal([]byte(got.body), &report); err != nil || got.status != 200 || !report.Done || report.Secrets != 2 || !strings.Contains(got.body, `"unopened":[]`) {
		t.Errorf("keys: %d %s, %v", got.status, got.body, err)
	}
}

// TestAFailedTestIsAnAnswer: the steps come as they were taken.
func TestAFailedTestIsAnAnswer(t *testing.T) {
	t.Parallel()
	got := call(t, newTestAPI(t, &fake{}), "POST", "/v1/destinations/a/test", acmeOperator, "")
	var result TestResult
	if err := json.Unmarshal([]byte(got.body), &result); err != nil || got.status != 200 || result.OK || len(result.Steps) != 2 || result.Steps[1].Code != "tcp.refused" {
		t.Errorf("%d %s, %v", got.status, got.body, err)
	}
}
