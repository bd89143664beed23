package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/deliveryd/deliveryd/sdk/egress"
)

// Network classifies an error of resolving, dialling or TLS, so that every
// transport tells the same codes for them:
//
//	egress.blocked                      CONFIG
//	dns.not_found, dns.failed           UNAVAILABLE
//	tcp.refused, tcp.unreachable,
//	tcp.timeout, tcp.failed             UNAVAILABLE
//	tls.certificate, tls.failed         UNAVAILABLE
//	tcp.reset                           TRANSIENT
//
// It is for errors from before anything was sent: what is cut later is
// UnknownOutcome. An error of another kind comes back as it is.
func Network(err error) error {
	var blocked *egress.BlockedError
	if errors.As(err, &blocked) {
		return ConfigError(err, WithCode("egress.blocked"))
	}
	switch code := networkCode(err); code {
	case "":
		return err
	case "tcp.reset":
		return Transient(err, WithCode(code))
	default:
		return Unavailable(err, WithCode(code))
	}
}

func networkCode(err error) string {
	var (
		dns         *net.DNSError
		dial        *net.OpError
		alert       tls.AlertError
		record      tls.RecordHeaderError
		verify      *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		certificate x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return "dns.not_found"
		}
		return "dns.failed"
	case errors.As(err, &verify), errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &certificate):
		return "tls.certificate"
	case errors.As(err, &alert), errors.As(err, &record):
		return "tls.failed"
	case errors.As(err, &dial) && (dial.Op == "remote error" || dial.Op == "local error"):
		return "tls.failed" // crypto/tls reports alerts so
	case errors.Is(err, syscall.ECONNREFUSED):
		return "tcp.refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "tcp.unreachable"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "tcp.reset"
	case errors.As(err, &dial) && dial.Op == "dial":
		if dial.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			return "tcp.timeout"
		}
		return "tcp.failed"
	}
	return ""
}
