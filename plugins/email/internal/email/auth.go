package email

import (
	"context"
	"fmt"
	"slices"
	"strings"

	gosmtp "github.com/wneessen/go-mail/smtp"

	"github.com/deliveryd/deliveryd/plugins/email/internal/smtp"
	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

const mechanismXOAuth2 = "xoauth2"

// mechanism chooses how to authenticate, of what the server offers.
func (e *email) mechanism(ctx context.Context, offered []string) (gosmtp.Auth, error) {
	c := e.config
	name := c.Mechanism
	if name == "auto" {
		order := []string{"scram-sha-256", "plain", "login", "cram-md5"}
		if c.Security == "none" && !c.PlaintextOK {
			order = []string{"scram-sha-256", "cram-md5"}
		}
		i := slices.IndexFunc(order, func(one string) bool { return slices.Contains(offered, strings.ToUpper(one)) })
		if i < 0 {
			return nil, transport.ConfigError(fmt.Errorf("%w: it offers %q", smtp.ErrNoAuth, offered), transport.WithCode("smtp.no_auth"))
		}
		name = order[i]
	} else if !slices.Contains(offered, strings.ToUpper(name)) {
		return nil, transport.ConfigError(fmt.Errorf("the server does not offer %s: it offers %q", name, offered), transport.WithCode("smtp.no_auth"))
	}
	switch name {
	case "plain":
		return gosmtp.PlainAuth("", c.Username, c.Password, c.Host, c.PlaintextOK), nil
	case "login":
		return gosmtp.LoginAuth(c.Username, c.Password, c.Host, c.PlaintextOK), nil
	case "cram-md5":
		return gosmtp.CRAMMD5Auth(c.Username, c.Password), nil
	case "scram-sha-256":
		return gosmtp.ScramSHA256Auth(c.Username, c.Password), nil
	}
	token, err := e.tokens.Token(ctx)
	if err != nil {
		return nil, err
	}
	return &tokenAuth{Auth: gosmtp.XOAuth2Auth(c.Username, token), tokens: e.tokens, token: token}, nil
}

// tokenAuth tells the token source what became of its token.
type tokenAuth struct {
	gosmtp.Auth

	tokens *oauth2.Source
	token  string
}

// Next notes that the server took the token.
func (a *tokenAuth) Next(challenge []byte, more bool) ([]byte, error) {
	if !more {
		a.tokens.Confirm(a.token)
	}
	return a.Auth.Next(challenge, more)
}

// Refused forgets a token that may have been revoked before its time; only if
// the next one is refused too the credentials are to blame.
func (a *tokenAuth) Refused(err error) error {
	if a.tokens.Forget(a.token) {
		return transport.Transient(err, transport.WithCode("oauth2.token_refused"))
	}
	return err
}
