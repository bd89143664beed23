package api

import (
	"net/http"
	"slices"
	"strings"
)

// maxTokenSize bounds what is hashed for a stranger. Configuration takes tokens
// up to 512 characters.
const maxTokenSize = 1024

// organizationParameter names the organization that a key of all organizations
// acts for.
const organizationParameter = "organization"

// authenticate finds out who makes a request and for which organization, and
// whether its role may do that.
func (a *API) authenticate(r *request, p permission) *Problem {
	token, problem := bearer(r.http.Header)
	if problem != nil {
		return problem
	}
	caller, ok := a.keys.Load().find(token)
	if !ok {
		return newProblem(http.StatusUnauthorized, CodeUnauthenticated, "The bearer token belongs to no api_key of the configuration in use.")
	}
	caller.RequestID, caller.Fleet = r.id, caller.Organization == AllOrganizations
	if !allowed(caller.Role, p) {
		return newProblem(http.StatusForbidden, CodeForbidden, "The role %q of api_key %q may not %s; that takes the role %s.",
			caller.Role, caller.Key, p, orList(permissions(p)))
	}
	if caller.Organization == AllOrganizations && fleetWide(p) {
		r.caller = caller
		return nil
	}
	if fleetWide(p) {
		return newProblem(http.StatusForbidden, CodeForbidden, "To %s takes an api_key with organization = %q.", p, AllOrganizations)
	}
	r.caller = caller
	return a.chooseOrganization(r)
}

// chooseOrganization lets a key of all organizations say which one it means. Any
// other key has the one that it has, and an attempt to reach another fails even
// where that does not exist.
func (a *API) chooseOrganization(r *request) *Problem {
	var wanted string
	if r.http.URL.RawQuery != "" {
		wanted = r.http.URL.Query().Get(organizationParameter)
	}
	switch {
	case r.caller.Organization != AllOrganizations:
		if wanted != "" && wanted != r.caller.Organization {
			p := newProblem(http.StatusForbidden, CodeForbidden, "api_key %q belongs to another organization than %q.", r.caller.Key, wanted)
			p.Errors = []FieldProblem{{Parameter: organizationParameter, Detail: "leave it out: the key decides"}}
			return p
		}
	case wanted == "":
		p := newProblem(http.StatusBadRequest, CodeInvalidRequest, "api_key %q is for all organizations: say which one you mean with ?organization=NAME.", r.caller.Key)
		p.Errors = []FieldProblem{{Parameter: organizationParameter, Detail: "required with a key of all organizations"}}
		return p
	case wanted == AllOrganizations || len(wanted) > 255:
		p := newProblem(http.StatusBadRequest, CodeInvalidRequest, "The organization must be the name of one organization, at most 255 bytes long.")
		p.Errors = []FieldProblem{{Parameter: organizationParameter, Detail: "must name one organization"}}
		return p
	default:
		r.caller.Organization = wanted
	}
	return nil
}

// bearer takes the token out of the Authorization header, RFC 6750 section 2.1.
func bearer(header http.Header) (string, *Problem) {
	value := header.Get("Authorization")
	if value == "" {
		return "", newProblem(http.StatusUnauthorized, CodeUnauthenticated, "Send the token of an api_key as: Authorization: Bearer TOKEN")
	}
	scheme, token, _ := strings.Cut(value, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxTokenSize {
		return "", newProblem(http.StatusUnauthorized, CodeUnauthenticated, "The Authorization header must be: Bearer TOKEN")
	}
	return token, nil
}

// orList writes roles as `"a", "b" or "c"`.
func orList(roles []Role) string {
	quoted := make([]string, len(roles))
	for i, role := range roles {
		quoted[i] = `"` + string(role) + `"`
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(slices.Concat(quoted[:len(quoted)-2], []string{quoted[len(quoted)-2] + " or " + quoted[len(quoted)-1]}), ", ")
}
