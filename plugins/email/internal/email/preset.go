package email

import (
	"net"
	"strconv"
	"strings"
)

// Providers whose ways differ in more than host and user name.
const (
	providerMailgun = "mailgun"
	providerResend  = "resend"
)

// withPreset fills in what a provider's documentation says about its SMTP
// servers, where the configuration does not.
func (c *Config) withPreset() *Config {
	filled := *c
	set := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	switch c.Provider {
	case "ses":
		set(&filled.Host, "email-smtp."+c.Region+".amazonaws.com")
	case "sendgrid":
		set(&filled.Host, "smtp.sendgrid.net")
		set(&filled.Username, "apikey")
	case providerResend:
		set(&filled.Host, "smtp.resend.com")
		set(&filled.Username, providerResend)
	case providerMailgun:
		host := "smtp.mailgun.org"
		if c.Region == "eu" {
			host = "smtp.eu.mailgun.org"
		}
		set(&filled.Host, host)
		if from, err := parseAddress(c.From); err == nil {
			_, domain, _ := strings.Cut(from.Address, "@")
			set(&filled.Username, "postmaster@"+domain)
		}
	case "postmark":
		set(&filled.Host, "smtp.postmarkapp.com")
		set(&filled.Username, c.Password) // the server's token is both
	}
	if host, port, err := net.SplitHostPort(filled.Host); err == nil {
		filled.Host = host
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && filled.Port == 0 {
			filled.Port = int(n)
		}
	}
	if filled.Port == 0 {
		filled.Port = map[string]int{"starttls": 587, "implicit": 465, "none": 25}[c.Security]
	}
	return &filled
}
