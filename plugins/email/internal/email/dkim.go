package email

import (
	"crypto/rsa"
	"errors"

	gomail "github.com/wneessen/go-mail"

	"github.com/emersion/go-msgauth/dkim"
)

// signer signs messages. It reads a message as it is written, where go-mail's
// own signer would hold all of it in memory.
type signer struct{ options *dkim.SignOptions }

func newSigner(c *DKIM) (*signer, error) {
	o, err := c.options()
	if err != nil {
		return nil, err
	}
	return &signer{o}, nil
}

// options never quotes the key.
func (c *DKIM) options() (*dkim.SignOptions, error) {
	key, err := gomail.PrivKeyFromPEM([]byte(c.Key))
	if err != nil {
		return nil, errors.New("no private key, RSA or Ed25519, in the PEM text")
	}
	if k, ok := key.(*rsa.PrivateKey); ok && k.N.BitLen() < 1024 {
		return nil, errors.New("an RSA key of less than 1024 bits, which receivers ignore (RFC 8301)")
	}
	return &dkim.SignOptions{
		Domain: c.Domain, Selector: c.Selector, Signer: key,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
		// From twice: a second one added on the way breaks the signature.
		HeaderKeys: []string{"From", "From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "List-Unsubscribe", "List-Unsubscribe-Post", "X-Delivery-ID"},
	}, nil
}

// sign sets the header field, if there is a key.
func (s *signer) sign(m *message) error {
	if s == nil {
		return nil
	}
	d, err := dkim.NewSigner(s.options)
	if err != nil {
		return err
	}
	if err := m.write(d); err != nil {
		_ = d.Close()
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	m.signature = d.Signature()
	return nil
}
