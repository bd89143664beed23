package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// errNoSecret is why nothing was sent: an unsigned request must be impossible.
var errNoSecret = errors.New("no signing secret is valid any more; rotate in a new one")

// signer signs with every secret that is valid at the time of the attempt.
type signer struct {
	keys []signingKey
	all  []string // ids of all keys, shared by the receipts of most attempts
}

type signingKey struct {
	id      string
	key     *signature.Key
	expires time.Time
}

// newSigner takes the secrets that the daemon keeps, or else the configured one.
func newSigner(kept []transport.Secret, configured string) (*signer, error) {
	s := &signer{}
	for i, secret := range kept {
		k, err := signature.ParseKey(secret.Key)
		if err == nil && !k.CanSign() {
			err = errors.New("a public key cannot sign")
		}
		if err != nil {
			return nil, fmt.Errorf("signing secret %q (%d of %d kept by the daemon): %w", secret.ID, i+1, len(kept), err)
		}
		s.keys = append(s.keys, signingKey{secret.ID, k, secret.ExpiresAt})
		s.all = append(s.all, secret.ID)
	}
	if len(kept) > 0 {
		return s, nil
	}
	if configured == "" {
		return nil, schema.Errorf(schema.At("secret"), "no signing secret").
			WithDetail("set secret, or let the daemon keep one for this destination; requests are never sent unsigned")
	}
	k, err := signature.ParseKey(configured)
	if err != nil {
		return nil, schema.Errorf(schema.At("secret"), "%v", err)
	}
	s.keys = append(s.keys, signingKey{key: k})
	return s, nil
}

// header is the value of the signature header and the ids of the secrets used.
func (s *signer) header(id string, at time.Time, body []byte) (string, []string, error) {
	var room [256]byte
	header, used := room[:0], s.all
	for i := range s.keys {
		k := &s.keys[i]
		if !k.expires.IsZero() && !at.Before(k.expires) {
			used = s.usable(at)
			continue
		}
		if len(header) > 0 {
			header = append(header, ' ')
		}
		header = k.key.Append(header, id, at.Unix(), body)
	}
	if len(header) == 0 {
		return "", nil, errNoSecret
	}
	return string(header), used, nil
}

func (s *signer) usable(at time.Time) (ids []string) {
	for _, k := range s.keys {
		if k.id != "" && (k.expires.IsZero() || at.Before(k.expires)) {
			ids = append(ids, k.id)
		}
	}
	return ids
}

// redactor removes secrets that a peer sends back.
type redactor struct{ secrets [][]byte }

func newRedactor(kept []transport.Secret, configured ...string) *redactor {
	r := &redactor{}
	for _, s := range kept {
		r.add(s.Key)
	}
	for _, s := range configured {
		r.add(s)
	}
	return r
}

// add ignores what is too short to be a secret: replacing it would only
// destroy the excerpt.
func (r *redactor) add(secret string) {
	if len(secret) >= 8 {
		r.secrets = append(r.secrets, []byte(secret))
	}
}

func (r *redactor) clean(text []byte) []byte {
	for _, secret := range r.secrets {
		if bytes.Contains(text, secret) {
			text = bytes.ReplaceAll(text, secret, []byte("[redacted]"))
		}
	}
	return text
}
