// Package tlsconfig is the TLS block of a destination's configuration, the same
// for every transport, and what a connection test tells about a certificate.
//
// It must never quote what it could not read: that may be a private key.
package tlsconfig

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
)

// Config holds the TLS settings of a client.
type Config struct {
	CA          string `config:"ca" format:"pem" doc:"Certificates of authorities to trust beside the system's." example:"file(\"ca.pem\")"`
	Certificate string `config:"certificate" format:"pem" doc:"Client certificate with its chain."`
	Key         string `config:"key,secret" format:"pem" doc:"Private key of the client certificate."`
	ServerName  string `config:"server_name" format:"host" doc:"Name to expect in the server's certificate instead of the host that is connected to."`
}

// Client makes the settings of a client, of at least TLS 1.2. A nil Config
// stands for the defaults. A finding names the attribute below at.
func (c *Config) Client(at schema.Path) (*tls.Config, *schema.Diagnostic) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if c == nil {
		return config, nil
	}
	finding := func(name, text string) (*tls.Config, *schema.Diagnostic) {
		d := schema.Errorf(at.Attribute(name), "%s", text)
		return nil, &d
	}
	config.ServerName = c.ServerName
	if c.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a system without authorities
		}
		if !pool.AppendCertsFromPEM([]byte(c.CA)) {
			return finding("ca", "no certificate in the PEM text")
		}
		config.RootCAs = pool
	}
	switch {
	case c.Certificate == "" && c.Key == "":
		return config, nil
	case c.Certificate == "":
		return finding("certificate", "a key without its certificate")
	case c.Key == "":
		return finding("key", "a certificate without its key")
	}
	pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return finding("certificate", "certificate and key do not fit together, or one of them cannot be read")
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// expirySoon is when a certificate is worth a warning.
const expirySoon = 14 * 24 * time.Hour

// Describe tells people about a connection: its version and until when the
// certificate is valid.
func Describe(state tls.ConnectionState, now time.Time) string {
	ends := state.PeerCertificates[0].NotAfter
	detail := fmt.Sprintf("%s; certificate valid until %s", tls.VersionName(state.Version), ends.UTC().Format(time.DateOnly))
	if left := ends.Sub(now); left < expirySoon {
		detail = fmt.Sprintf("WARNING: the certificate expires in %d days. %s", int(left.Hours()/24), detail)
	}
	return detail
}
