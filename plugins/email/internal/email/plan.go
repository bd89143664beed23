package email

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/deliveryd/deliveryd/plugins/email/internal/smtp"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// recipients finds to whom a delivery goes.
func (e *email) recipients(d *transport.Delivery) (*recipients, error) {
	r := e.fixed
	if e.config.Recipients != nil {
		own, err := e.config.Recipients.of(d.Metadata)
		if err != nil {
			return nil, transport.Permanent(err, transport.WithCode("email.recipient"))
		}
		switch {
		case e.config.Recipients.Add:
			r = recipients{append(own.to, r.to...), append(own.cc, r.cc...), append(own.bcc, r.bcc...)}
		case len(own.envelope()) > 0:
			r = own
		}
	}
	switch n := len(r.envelope()); {
	case n == 0:
		return nil, transport.Permanent(errNoRecipients, transport.WithCode("email.recipient"))
	case n > e.config.Limits.Recipients:
		return nil, transport.Permanent(fmt.Errorf("%d recipients; limits.recipients is %d", n, e.config.Limits.Recipients), transport.WithCode("email.too_many_recipients"))
	}
	return &r, nil
}

// of reads the recipients that metadata names.
func (r *Recipients) of(metadata []byte) (own recipients, err error) {
	named := gjson.GetBytes(metadata, gjsonName(r.Field))
	if !named.Exists() {
		return own, nil
	}
	if !named.IsObject() {
		return own, fmt.Errorf("metadata field %q is no object with to, cc and bcc", r.Field)
	}
	for _, name := range []string{"to", "cc", "bcc"} {
		var texts []string
		for _, one := range named.Get(name).Array() {
			if one.Type != gjson.String {
				return own, fmt.Errorf("metadata field %s.%s: want an address or a list of them", r.Field, name)
			}
			texts = append(texts, one.Str)
		}
		if len(texts) > 1000 {
			return own, fmt.Errorf("metadata field %s.%s names %d recipients", r.Field, name, len(texts))
		}
		list, err := parseAll(texts)
		if err != nil {
			return own, fmt.Errorf("metadata field %s.%s: %w", r.Field, name, err)
		}
		for _, a := range list {
			if !r.allowed(domainOf(a.Address)) {
				return own, fmt.Errorf("metadata field %s.%s: domain %q is not in recipients.allowed_domains", r.Field, name, domainOf(a.Address))
			}
		}
		switch name {
		case "to":
			own.to = list
		case "cc":
			own.cc = list
		default:
			own.bcc = list
		}
	}
	return own, nil
}

// gjsonName takes the characters that gjson gives a meaning literally.
func gjsonName(field string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `|`, `\|`, `#`, `\#`, `@`, `\@`, `!`, `\!`, `{`, `\{`, `[`, `\[`).Replace(field)
}

// progress is what Resume holds: who has the message already. Recipients are
// known by digests of a fixed length, so that a thousand of them fit 16 KiB.
type progress struct {
	Accepted []string `json:"accepted,omitempty"`
	// Refused for good by an attempt that has to be repeated for others. An
	// attempt that nothing is left to repeat of forgets them, so that a replay
	// of the dead letter tries them again.
	Refused []string `json:"refused,omitempty"`
}

func fingerprint(address string) string {
	digest := sha256.Sum256([]byte(address))
	return hex.EncodeToString(digest[:6])
}

// plan is what an attempt has to do.
type plan struct {
	messageID string

	all      []string
	pending  []string // to be tried now
	accepted map[string]bool
	refused  map[string]bool
	replies  map[string]smtp.Reply
}

func newPlan(all []string, resume []byte) *plan {
	p := &plan{all: all, accepted: map[string]bool{}, refused: map[string]bool{}, replies: map[string]smtp.Reply{}}
	var before progress
	_ = json.Unmarshal(resume, &before) // what cannot be read means that nobody is known to have it
	for _, one := range before.Accepted {
		p.accepted[one] = true
	}
	for _, one := range before.Refused {
		p.refused[one] = true
	}
	for _, address := range all {
		if key := fingerprint(address); !p.accepted[key] && !p.refused[key] {
			p.pending = append(p.pending, address)
		}
	}
	return p
}

// take records what became of the pending recipients. taken says that the
// server took the message for those whom it had accepted.
func (p *plan) take(outcome smtp.Outcome, taken bool) (left bool) {
	for i, address := range p.pending {
		if i >= len(outcome.Recipients) {
			return true
		}
		reply := outcome.Recipients[i]
		p.replies[address] = reply
		switch {
		case reply.OK() && taken:
			p.accepted[fingerprint(address)] = true
		case reply.Code/100 == 5 && classOf(smtp.StageRcpt, reply) == transport.ClassPermanent:
			p.refused[fingerprint(address)] = true
		default:
			left = true
		}
	}
	return left
}

// resume is what the next attempt must know; nil where that is nothing.
func (p *plan) resume(left bool) []byte {
	var now progress
	for _, address := range p.all {
		switch key := fingerprint(address); {
		case p.accepted[key]:
			now.Accepted = append(now.Accepted, key)
		case p.refused[key] && left:
			now.Refused = append(now.Refused, key)
		}
	}
	if len(now.Accepted)+len(now.Refused) == 0 {
		return nil
	}
	text, err := json.Marshal(now)
	if err != nil {
		return nil
	}
	return text
}

// excerpt has one line for each recipient, for the log.
func (p *plan) excerpt(outcome smtp.Outcome) []byte {
	var b strings.Builder
	if outcome.Reply.Code != 0 {
		fmt.Fprintf(&b, "%s\n", outcome.Reply)
	}
	for _, address := range p.all {
		reply, asked := p.replies[address]
		key := fingerprint(address)
		switch {
		case asked && reply.Code != 0:
			fmt.Fprintf(&b, "%s: %s\n", address, reply)
		case p.accepted[key]:
			fmt.Fprintf(&b, "%s: accepted by an earlier attempt\n", address)
		case p.refused[key]:
			fmt.Fprintf(&b, "%s: refused by an earlier attempt\n", address)
		}
	}
	return []byte(b.String())
}

// refusals says who was refused, and why the first of them.
func (p *plan) refusals() (count int, first error) {
	for _, address := range p.all {
		if !p.refused[fingerprint(address)] {
			continue
		}
		count++
		if first != nil {
			continue
		}
		first = errors.New(address + " was refused by an earlier attempt")
		if reply, ok := p.replies[address]; ok {
			first = fmt.Errorf("%s: %s", address, reply)
		}
	}
	return count, first
}
