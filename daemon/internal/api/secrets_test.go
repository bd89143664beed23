package api

import (
	"context"
	"strings"
	"testing"
)

type fakeSecrets struct{ *fake }

func (f fakeSecrets) answer(c Caller, ref string, body any) (*CreatedSecret, error) {
	f.ref, f.made = ref, body
	return &CreatedSecret{Secret: Secret{ID: "whs_1"}, Value: "whsec_value"}, f.called(c)
}

func (f fakeSecrets) List(_ context.Context, c Caller, ref string) ([]Secret, error) {
	f.ref = ref
	return nil, f.called(c)
}

func (f fakeSecrets) Create(_ context.Context, c Caller, ref string, s *NewSecret) (*CreatedSecret, error) {
	return f.answer(c, ref, *s)
}

func (f fakeSecrets) Rotate(_ context.Context, c Caller, ref string, r *SecretRotation) (*CreatedSecret, error) {
	return f.answer(c, ref, *r)
}

func (f fakeSecrets) Change(_ context.Context, c Caller, ref, id string, change *SecretChange) (*Secret, error) {
	made, err := f.answer(c, ref+"/"+id, *change)
	return &made.Secret, err
}

func (f fakeSecrets) Revoke(_ context.Context, c Caller, ref, id string, force bool) (*Secret, error) {
	made, err := f.answer(c, ref+"/"+id, force)
	return &made.Secret, err
}

func TestSecretsOverHTTP(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	const path = "/v1/destinations/billing/secrets"
	got := call(t, a, "POST", path, acmeAdmin, "")
	if got.status != 201 || !strings.Contains(got.body, `"secret":"whsec_value"`) || !strings.Contains(got.body, `"id":"whs_1"`) {
		t.Errorf("created: %d %s", got.status, got.body)
	}
	if got := call(t, a, "POST", path+"/rotate", acmeAdmin, `{"overlap":"1h","bytes":48}`); got.status != 201 || f.made != (SecretRotation{Overlap: "1h", Bytes: 48}) {
		t.Errorf("rotated: %d %s, asked for %+v", got.status, got.body, f.made)
	}
	if got := call(t, a, "PATCH", path+"/whs_1", acmeAdmin, `{"primary":true}`); got.status != 200 || f.made != (SecretChange{Primary: true}) || f.ref != "billing/whs_1" {
		t.Errorf("changed: %d %s, asked for %+v of %s", got.status, got.body, f.made, f.ref)
	}
	if got := call(t, a, "DELETE", path+"/whs_1?force=true", acmeAdmin, ""); got.status != 200 || f.made != true {
		t.Errorf("revoked: %d %s, forced %v", got.status, got.body, f.made)
	}
	if got := call(t, a, "GET", path, acmeOperator, ""); got.status != 200 || !strings.Contains(got.body, `{"secrets":[]}`) {
		t.Errorf("list: %d %s", got.status, got.body)
	}
	for method, path := range map[string]string{"POST": path, "DELETE": path + "/whs_1", "PATCH": path + "/whs_1"} {
		call(t, a, method, path, acmeOperator, "{}").wantProblem(t, 403, CodeForbidden, "")
	}
	call(t, a, "GET", path, acmeProducer, "").wantProblem(t, 403, CodeForbidden, "")
	call(t, a, "POST", path, acmeAdmin, `{"secrte":"x"}`).wantProblem(t, 422, CodeInvalidRequest, "/secrte")
	call(t, a, "PATCH", path+"/whs_1", acmeAdmin, "").wantProblem(t, 400, CodeMalformedJSON, "")
}

func TestAuditOverHTTP(t *testing.T) {
	t.Parallel()
	f := &fake{}
	a := newTestAPI(t, f)
	if got := call(t, a, "GET", "/v1/audit?actor=api_key:x&target=billing&cursor=17&limit=3", acmeAdmin, ""); got.status != 200 || !strings.Contains(got.body, `{"entries":[]}`) {
		t.Errorf("audit: %d %s", got.status, got.body)
	}
	if want := (AuditFilter{Actor: "api_key:x", Target: "billing", Before: 17, Limit: 3}); f.audit != want {
		t.Errorf("filter %+v, want %+v", f.audit, want)
	}
	call(t, a, "GET", "/v1/audit?cursor=x", acmeAdmin, "").wantProblem(t, 400, CodeInvalidCursor, "cursor")
	call(t, a, "GET", "/v1/audit", acmeOperator, "").wantProblem(t, 403, CodeForbidden, "")
	if got := call(t, a, "GET", "/v1/audit?organization=globex", fleetAdmin, ""); got.status != 200 || !f.callers[len(f.callers)-1].Fleet || f.callers[0].Fleet {
		t.Errorf("a key of all organizations: %d, callers %+v", got.status, f.callers)
	}
}
