package api

import (
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// guardedOperation is an operation and the roles that may call it.
type guardedOperation struct {
	method, path, body string
	roles              string
	fleet              bool // only with a key of all organizations
}

func guardedOperations() []guardedOperation {
	const secrets = "/v1/destinations/billing/secrets"
	return []guardedOperation{
		{"POST", "/v1/deliveries", goodBody, "admin producer", false},
		{"POST", "/v1/deliveries/batch", `{"deliveries":[` + goodBody + `]}`, "admin producer", false},
		{"GET", "/v1/deliveries", "", "admin operator producer viewer", false},
		{"GET", "/v1/deliveries/dlv_1", "", "admin operator producer viewer", false},
		{"POST", "/v1/deliveries/dlv_1/cancel", "", "admin operator", false},
		{"POST", "/v1/deliveries/dlv_1/replay", "", "admin operator", false},
		{"POST", "/v1/artifacts?name=a", "text", "admin producer", false},
		{"GET", "/v1/artifacts", "", "admin operator producer viewer", false},
		{"GET", "/v1/artifacts/art_1", "", "admin operator producer viewer", false},
		{"GET", "/v1/destinations", "", "admin operator producer viewer", false},
		{"POST", "/v1/destinations", `{"label":"a","type":"webhook","config":{}}`, "admin", false},
		{"GET", "/v1/destinations/billing", "", "admin operator producer viewer", false},
		{"PATCH", "/v1/destinations/billing", "{}", "admin", false},
		{"DELETE", "/v1/destinations/billing", "", "admin", false},
		{"POST", "/v1/destinations/billing/enable", "", "admin operator", false},
		{"POST", "/v1/destinations/billing/disable", "", "admin operator", false},
		{"POST", "/v1/destinations/billing/pause", "", "admin operator", false},
		{"POST", "/v1/destinations/billing/resume", "", "admin operator", false},
		{"POST", "/v1/destinations/billing/test", "", "admin operator", false},
		{"POST", "/v1/destinations/billing/replay", "", "admin operator", false},
		{"POST", "/v1/destinations/billing/circuit-breaker/open", "", "admin operator", false},
		{"POST", "/v1/destinations/billing/circuit-breaker/close", "", "admin operator", false},
		{"GET", secrets, "", "admin operator viewer", false},
		{"POST", secrets, "", "admin", false},
		{"POST", secrets + "/rotate", "", "admin", false},
		{"PATCH", secrets + "/whs_1", "{}", "admin", false},
		{"DELETE", secrets + "/whs_1", "", "admin", false},
		{"GET", "/v1/alerts", "", "admin operator viewer", false},
		{"POST", "/v1/alerts/alr_1/acknowledge", "", "admin operator", false},
		{"POST", "/v1/alerts/alr_1/resolve", "", "admin operator", false},
		{"GET", "/v1/lanes", "", "admin operator viewer", false},
		{"GET", "/v1/audit", "", "admin", false},
		{"GET", "/v1/plugins", "", "admin operator viewer", true},
		{"POST", "/v1/keys/rotate", "", "admin", true},
		{"POST", "/v1/reload", "", "admin", true},
		{"GET", "/metrics", "", "admin operator viewer", true},
	}
}

// TestRoles is the table of who may do what, from the outside.
func TestRoles(t *testing.T) {
	t.Parallel()
	for _, role := range []Role{Admin, Operator, Producer, Viewer} {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			a := newTestAPI(t, &fake{})
			keys, err := NewKeys([]Key{{"one", "acme", role, secret.New("token-of-one-organization")}, {"all", AllOrganizations, role, secret.New("token-of-all-of-them")}})
			if err != nil {
				t.Fatal(err)
			}
			a.SetKeys(keys)
			for _, op := range guardedOperations() {
				may := strings.Contains(" "+op.roles+" ", " "+string(role)+" ")
				named := op.path
				if !op.fleet {
					named += map[bool]string{true: "&", false: "?"}[strings.Contains(op.path, "?")] + "organization=globex"
				}
				for _, try := range []struct {
					token, path string
					may         bool
				}{
					{"token-of-one-organization", op.path, may && !op.fleet},
					{"token-of-all-of-them", named, may},
					// What belongs to another organization is closed to every role.
					{"token-of-one-organization", named, may && !op.fleet && named == op.path},
				} {
					got := call(t, a, op.method, try.path, try.token, op.body)
					if got.status < 300 != try.may || !try.may && got.problem.Code != CodeForbidden {
						t.Errorf("%s %s with %s: %d %s, want allowed %v", op.method, try.path, try.token, got.status, got.body, try.may)
					}
				}
			}
		})
	}
}

// TestRolesCoverEveryOperation keeps the table of TestRoles whole.
func TestRolesCoverEveryOperation(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, op := range guardedOperations() {
		path, _, _ := strings.Cut(op.path, "?")
		known[op.method+" "+path] = true
	}
	names := strings.NewReplacer("{ref}", "billing", "/secrets/{id}", "/secrets/whs_1", "/deliveries/{id}", "/deliveries/dlv_1",
		"/artifacts/{id}", "/artifacts/art_1", "/alerts/{id}", "/alerts/alr_1")
	for path, item := range newTestAPI(t, &fake{}).huma.OpenAPI().Paths {
		for method, op := range map[string]string{"GET": id(item.Get), "POST": id(item.Post), "PUT": id(item.Put), "PATCH": id(item.Patch), "DELETE": id(item.Delete)} {
			if op != "" && !known[method+" "+names.Replace(path)] {
				t.Errorf("%s %s (%s) is not in the table of roles", method, names.Replace(path), op)
			}
		}
	}
}

func TestEveryOperationIsGuarded(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	n := 0
	for path, item := range a.huma.OpenAPI().Paths {
		for _, op := range []struct{ method, id string }{{"GET", id(item.Get)}, {"POST", id(item.Post)}, {"PUT", id(item.Put)}, {"PATCH", id(item.Patch)}, {"DELETE", id(item.Delete)}} {
			if op.id == "" {
				continue
			}
			n++
			got := call(t, a, op.method, strings.NewReplacer("{id}", "x", "{ref}", "x").Replace(path), "", "")
			got.wantProblem(t, 401, CodeUnauthenticated, "")
			if got.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: 401 without WWW-Authenticate", path)
			}
		}
	}
	if n < 11 {
		t.Errorf("only %d operations were found", n)
	}
	call(t, a, "GET", "/metrics", "", "").wantProblem(t, 401, CodeUnauthenticated, "")
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	for name, header := range map[string]string{
		"none":         "",
		"basic":        "Basic dXNlcjpwYXNz",
		"empty":        "Bearer ",
		"unknown":      "Bearer token-of-nobody",
		"prefix":       "Bearer " + acmeProducer[:len(acmeProducer)-1],
		"longer":       "Bearer " + acmeProducer + "x",
		"other case":   "Bearer " + strings.ToUpper(acmeProducer),
		"enormous":     "Bearer " + strings.Repeat("x", 5000),
		"name not key": "Bearer acme-producer",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := call(t, a, "GET", "/v1/destinations", "", "", "Authorization", header)
			got.wantProblem(t, 401, CodeUnauthenticated, "")
			if strings.Contains(got.body, acmeProducer[:10]) {
				t.Errorf("the answer shows a token: %s", got.body)
			}
		})
	}
	if got := call(t, a, "GET", "/v1/destinations", "", "", "Authorization", "bearer  "+acmeProducer); got.status != 200 {
		t.Errorf("scheme in lower case: %d", got.status)
	}
}

func TestOrganizationComesFromTheKey(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	call(t, a, "GET", "/v1/destinations?organization=globex", acmeAdmin, "").wantProblem(t, 403, CodeForbidden, "organization")
	if got := call(t, a, "GET", "/v1/destinations?organization=acme", acmeAdmin, ""); got.status != 200 {
		t.Errorf("naming one's own organization: %d", got.status)
	}
	call(t, a, "GET", "/v1/destinations", fleetAdmin, "").wantProblem(t, 400, CodeInvalidRequest, "organization")
	call(t, a, "GET", "/v1/destinations?organization=*", fleetAdmin, "").wantProblem(t, 400, CodeInvalidRequest, "organization")
	f.callers = nil
	if got := call(t, a, "GET", "/v1/destinations?organization=globex", fleetAdmin, ""); got.status != 200 || f.callers[0].Organization != "globex" {
		t.Errorf("a key of all organizations: %d, callers %+v", got.status, f.callers)
	}
}

func TestKeysChangeAtOnce(t *testing.T) {
	t.Parallel()
	a := newTestAPI(t, &fake{})
	keys, err := NewKeys([]Key{{"new", "acme", Viewer, secret.New("a-token-that-is-new")}})
	if err != nil {
		t.Fatal(err)
	}
	a.SetKeys(keys)
	call(t, a, "GET", "/v1/destinations", acmeViewer, "").wantProblem(t, 401, CodeUnauthenticated, "")
	if got := call(t, a, "GET", "/v1/destinations", "a-token-that-is-new", ""); got.status != 200 {
		t.Errorf("new key: %d %s", got.status, got.body)
	}
}

func TestNewKeysRefusesSharedAndMissingTokens(t *testing.T) {
	t.Parallel()
	_, err := NewKeys([]Key{{"a", "acme", Viewer, secret.New("the-same-token")}, {"b", "globex", Admin, secret.New("the-same-token")}})
	if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"b"`) || strings.Contains(err.Error(), "the-same-token") {
		t.Errorf("two keys with one token: %v", err)
	}
	if _, err := NewKeys([]Key{{"a", "acme", "somebody", secret.New("the-token-of-a")}}); err == nil || !strings.Contains(err.Error(), `"somebody"`) {
		t.Errorf("a role that there is not: %v", err)
	}
	if _, err := NewKeys([]Key{{"a", "acme", Viewer, secret.New("")}}); err == nil {
		t.Error("a key without a token was taken")
	}
}
