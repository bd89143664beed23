package email

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"

	"golang.org/x/net/idna"
)

// parseAddress reads an address with or without a name. Its domain becomes
// ASCII (RFC 5891), which every server understands; a local part that is not
// ASCII stays, and needs SMTPUTF8.
func parseAddress(text string) (*mail.Address, error) {
	wrong := func(why string) error {
		return fmt.Errorf("%.120q: %s; want name@example.com or Name <name@example.com>", text, why)
	}
	if strings.ContainsFunc(text, isControl) {
		return nil, wrong("it holds control characters")
	}
	parsed, err := mail.ParseAddress(text)
	if err != nil {
		return nil, wrong("no e-mail address")
	}
	at := strings.LastIndexByte(parsed.Address, '@')
	local, domain := parsed.Address[:at], parsed.Address[at+1:]
	if strings.ContainsAny(local, " <>\"\\,;:") {
		return nil, wrong("its local part would have to be quoted, which few servers take")
	}
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil || ascii == "" {
		return nil, wrong("its domain is none")
	}
	if len(local) > 64 || len(local)+len(ascii) > 253 {
		return nil, wrong("it is too long")
	}
	parsed.Address = local + "@" + strings.ToLower(ascii)
	return parsed, nil
}

func isASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r > 0x7e })
}

func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

// recipients are the addresses of one message.
type recipients struct {
	to, cc, bcc []*mail.Address
}

// envelope lists every address once.
func (r *recipients) envelope() (list []string) {
	seen := map[string]bool{}
	for _, group := range [][]*mail.Address{r.to, r.cc, r.bcc} {
		for _, a := range group {
			if !seen[a.Address] {
				seen[a.Address] = true
				list = append(list, a.Address)
			}
		}
	}
	return list
}

func parseAll(list []string) (parsed []*mail.Address, err error) {
	for _, text := range list {
		a, err := parseAddress(text)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, a)
	}
	return parsed, nil
}

// allowed says whether a delivery may name an address of domain.
func (r *Recipients) allowed(domain string) bool {
	for _, one := range r.AllowedDomains {
		ascii, err := idna.Lookup.ToASCII(one)
		if one == "*" || err == nil && strings.EqualFold(ascii, domain) {
			return true
		}
	}
	return false
}

var errNoRecipients = errors.New("the delivery names no recipient, nor does the configuration")
