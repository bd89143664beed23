package email

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	gosmtp "github.com/wneessen/go-mail/smtp"

	"github.com/deliveryd/deliveryd/plugins/email/internal/smtp"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// classify says what the daemon should do about a failed session. Recipients
// are judged one by one elsewhere.
func classify(err error) error {
	var classified *transport.Error
	var refused *smtp.Error
	var source *smtp.SourceError
	switch {
	case errors.As(err, &classified):
		return err
	case errors.Is(err, smtp.ErrBusy):
		// Nothing was tried: no attempt is burnt, and the lane slows down.
		return transport.RateLimited(err, transport.WithCode("smtp.busy"))
	case errors.As(err, &source):
		return transport.Transient(fmt.Errorf("the message was not completed: %w", err), transport.WithCode("email.source"))
	case !errors.As(err, &refused):
		return beforeSession(err)
	case refused.Reply.Code != 0:
		return classifyReply(refused.Stage, refused.Reply, err)
	}
	switch {
	case errors.Is(err, smtp.ErrNoUTF8):
		return transport.Permanent(err, transport.WithCode("smtp.no_smtputf8"))
	case errors.Is(err, smtp.ErrNoStartTLS):
		return transport.ConfigError(err, transport.WithCode("smtp.no_starttls"))
	case errors.Is(err, gosmtp.ErrUnencrypted), errors.Is(err, gosmtp.ErrWrongHostname):
		return transport.ConfigError(err, transport.WithCode("smtp.auth"))
	}
	return cut(refused.Stage, err)
}

func beforeSession(err error) error {
	var classified *transport.Error
	if errors.As(transport.Network(err), &classified) {
		return transport.Network(err)
	}
	code := "smtp.connect"
	if errors.Is(err, context.DeadlineExceeded) {
		code = "tcp.timeout"
	}
	return transport.Unavailable(err, transport.WithCode(code))
}

// cut classifies a session that broke. Only what was cut when the last byte may
// have left has an unknown outcome: without it the server must forget the rest
// (RFC 5321, 4.1.1.4).
func cut(stage smtp.Stage, err error) error {
	switch stage {
	case smtp.StageContent:
		return transport.UnknownOutcome(fmt.Errorf("cut after the message was sent: %w", err), transport.WithCode("smtp.cut"))
	case smtp.StageConnect:
		return beforeSession(err)
	case smtp.StageTLS:
		if e := (*transport.Error)(nil); errors.As(transport.Network(err), &e) {
			return transport.Network(err)
		}
		return transport.Unavailable(err, transport.WithCode("tls.failed"))
	case smtp.StageAuth:
		return transport.Unavailable(err, transport.WithCode("smtp.auth_cut"))
	}
	return transport.Transient(fmt.Errorf("cut before the message was sent: %w", err), transport.WithCode("smtp.cut"))
}

// classifyReply is the class table: by stage, code and enhanced code.
func classifyReply(stage smtp.Stage, r smtp.Reply, err error) error {
	return transport.Classify(classOf(stage, r), err, transport.WithCode("smtp."+strconv.Itoa(r.Code)), transport.WithStatus(r.Code),
		transport.WithExcerpt([]byte(r.String())), transport.WithRetryAfter(retryAfter(r)))
}

func classOf(stage smtp.Stage, r smtp.Reply) transport.Class {
	switch {
	case rateLimited(r):
		return transport.ClassRateLimited
	case r.Code == 421 || stage == smtp.StageConnect:
		return transport.ClassUnavailable // the server goes down, or does not talk to us at all
	case r.Code == 530 || r.Code == 534 || r.Code == 535 || r.Code == 538 || r.Enhanced == "5.7.8" || r.Enhanced == "5.7.9":
		return transport.ClassAuth
	case stage == smtp.StageTLS:
		return transport.ClassUnavailable
	case stage == smtp.StageAuth && r.Code == 504:
		return transport.ClassConfig
	case stage == smtp.StageAuth && r.Code/100 == 5:
		return transport.ClassAuth
	case stage == smtp.StageContent && r.Code == 554 && accessDenied(r):
		return transport.ClassAuth
	case r.Code/100 == 4 || temporaryDespite5(r):
		return transport.ClassTransient
	case r.Code == 552 || r.Enhanced == "5.3.4" || r.Enhanced == "5.2.3":
		return transport.ClassPermanent // too large
	case stage == smtp.StageMail:
		return transport.ClassConfig // the sender is refused, and with it every message of the destination
	}
	return transport.ClassPermanent
}

// temporaryDespite5 finds a full mailbox, which RFC 3463 lets a server report
// with a permanent code although people empty their mailboxes.
func temporaryDespite5(r smtp.Reply) bool { return r.Enhanced == "5.2.2" || r.Enhanced == "5.3.1" }

// accessDenied finds what SES says of credentials that are good for logging in and
// not for sending: it would refuse every message.
func accessDenied(r smtp.Reply) bool {
	return strings.HasPrefix(strings.ToLower(r.Text()), "access denied")
}

func rateText(text string) bool {
	text = strings.ToLower(text)
	for _, word := range []string{"too many", "rate limit", "throttl", "too fast", "quota exceeded", "sending limit", "rate exceeded", "sending rate", "limit exceeded"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// rateLimited finds what providers say when we are too fast: RFC 3463 has no
// code for it but 4.7.28 and 5.4.5 by usage, so the text counts.
func rateLimited(r smtp.Reply) bool {
	if r.Code/100 < 4 || r.Enhanced == "4.5.3" || r.Enhanced == "5.5.3" { // too many recipients: the others come later
		return false
	}
	return r.Enhanced == "4.7.28" || r.Enhanced == "5.4.5" || (r.Code/100 == 4 && rateText(r.Text()))
}

// retryAfter is when the server said to come back, as greylisting and limits do
// in their text; 0 where it did not say.
func retryAfter(r smtp.Reply) time.Duration {
	laterForm := patterns().later
	m := laterForm.FindStringSubmatch(r.Text())
	if m == nil || r.Code/100 != 4 {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	unit := time.Second
	switch m[2][0] {
	case 'm', 'M':
		unit = time.Minute
	case 'h', 'H':
		unit = time.Hour
	}
	return time.Duration(n) * unit
}

// forms are compiled once; what is read only is no state.
type forms struct {
	later     *regexp.Regexp
	reference []*regexp.Regexp
}

var patterns = sync.OnceValue(func() forms { //nolint:gochecknoglobals // compiled at first use and never changed
	return forms{
		later: regexp.MustCompile(`(?i)\b(?:in|after|wait)\s+(\d{1,6})\s*(s|sec|seconds?|m|min|minutes?|h|hours?)\b`),
		reference: []*regexp.Regexp{
			regexp.MustCompile(`(?i)\bqueued as <?([^\s;>]+)`),    // Postfix, SendGrid
			regexp.MustCompile(`(?i)\bid=([^\s;]+)`),              // Exim
			regexp.MustCompile(`(?i)^([0-9a-f]{8,}) message acc`), // OpenSMTPD
			regexp.MustCompile(`(?i)^ok:?\s+<?([^\s>]{6,})>?$`),   // SES, Resend, Postmark
			regexp.MustCompile(`<([^\s<>]+@[^\s<>]+)>`),           // Exchange
			regexp.MustCompile(`^OK\s+\d+\s+(\S+) - gsmtp`),       // Google
		},
	}
})

// reference is the server's own name for a message, else its whole answer.
// Mailgun's answer names nothing ("Great success"): it finds a message by its
// Message-ID.
func (e *email) reference(r smtp.Reply, messageID string) string {
	for _, form := range patterns().reference {
		if m := form.FindStringSubmatch(r.Text()); m != nil {
			return m[1]
		}
	}
	if e.config.Provider == providerMailgun {
		return messageID
	}
	return r.Text()
}
