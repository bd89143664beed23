package webhook

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// minSecret is the length from which a secret is looked for: replacing shorter
// ones would only destroy the excerpt.
const minSecret = 8

const redacted = "[redacted]"

// redactor removes secrets that a peer sends back, as an endpoint does that
// answers with what it was sent.
type redactor struct{ forms [][]byte } // the longest first, where one holds another

func newRedactor(kept []transport.Secret, c *Config) *redactor {
	r := &redactor{}
	for _, s := range kept {
		r.add(s.Key)
	}
	r.add(c.Secret)
	for _, value := range c.SecretHeaders {
		r.add(value)
	}
	switch {
	case c.Basic != nil:
		r.add(c.Basic.Password)
		r.add(basicCredentials(c.Basic))
	case c.Bearer != nil:
		r.add(c.Bearer.Token)
	case c.APIKey != nil:
		r.add(c.APIKey.Value)
	case c.OAuth2 != nil:
		r.add(c.OAuth2.ClientSecret)
	}
	return r
}

// add notes the forms in which a secret comes back: as it is, in JSON with and
// without the slash escaped, in a URL, and in base64.
func (r *redactor) add(secret string) {
	if len(secret) < minSecret {
		return
	}
	list := []string{secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))}
	if quoted, err := json.Marshal(secret); err == nil {
		inner := string(quoted[1 : len(quoted)-1])
		list = append(list, inner, strings.ReplaceAll(inner, "/", `\/`))
	}
	for _, form := range list {
		if known := func(have []byte) bool { return string(have) == form }; !slices.ContainsFunc(r.forms, known) {
			r.forms = append(r.forms, []byte(form))
		}
	}
	slices.SortStableFunc(r.forms, func(a, b []byte) int { return len(b) - len(a) })
}

// clean removes the secrets, and the token of this request, from a part of an
// answer; cut says that the answer goes on behind it, so that a secret may have
// lost its end.
func (r *redactor) clean(text []byte, token string, cut bool) []byte {
	if len(text) == 0 {
		return text
	}
	for _, form := range r.forms {
		text = without(text, form, cut)
	}
	if token != "" {
		text = without(text, []byte(token), cut)
	}
	return text
}

func without(text, secret []byte, cut bool) []byte {
	if bytes.Contains(text, secret) {
		text = bytes.ReplaceAll(text, secret, []byte(redacted))
	}
	if !cut {
		return text
	}
	for n := min(len(secret)-1, len(text)); n >= minSecret; n-- {
		if bytes.HasSuffix(text, secret[:n]) {
			return append(text[:len(text)-n], redacted...)
		}
	}
	return text
}
