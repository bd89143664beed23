package smtp

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/wneessen/go-mail/smtp"
)

// Mechanisms lists what the server offers.
func (c *Conn) Mechanisms() []string {
	parameter, _ := c.Extension("AUTH")
	return strings.Fields(strings.ToUpper(parameter))
}

// Authenticate does what Config.Auth chooses.
func (c *Conn) Authenticate(ctx context.Context) error {
	if c.config.Auth == nil {
		return nil
	}
	auth, err := c.config.Auth(ctx, c.Mechanisms())
	if err != nil {
		return err
	}
	defer c.bound(ctx)()
	return cause(ctx, c.exchange(auth))
}

// Refused is a mechanism that wants to know when its credentials are refused; it
// may tell more by another error.
type Refused interface{ Refused(err error) error }

func (c *Conn) exchange(auth smtp.Auth) error {
	mechanism, initial, err := auth.Start(&smtp.ServerInfo{Name: c.config.Host, TLS: c.secured, Auth: c.Mechanisms()})
	if err != nil {
		return &Error{Stage: StageAuth, Err: err}
	}
	line := "AUTH " + mechanism
	if len(initial) > 0 {
		line += " " + base64.StdEncoding.EncodeToString(initial)
	}
	for {
		reply, err := c.command(StageAuth, 235, line)
		if err == nil {
			_, err = auth.Next(nil, false)
			return err
		}
		if reply.Code != 334 {
			if r, ok := auth.(Refused); ok && reply.Code/100 == 5 {
				return r.Refused(err)
			}
			return err
		}
		challenge, err := base64.StdEncoding.DecodeString(reply.Text())
		if err != nil {
			return &Error{Stage: StageAuth, Err: err}
		}
		answer, err := auth.Next(challenge, true)
		if err != nil {
			_, _ = c.command(StageAuth, 501, "*")
			return &Error{Stage: StageAuth, Err: err}
		}
		line = base64.StdEncoding.EncodeToString(answer)
	}
}
