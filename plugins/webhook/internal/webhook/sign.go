package webhook

import (
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// errNoSecret is why nothing was sent: an unsigned request must be impossible.
var errNoSecret = errors.New("no signing secret is valid any more; rotate in a new one")

// signer signs with every secret that is valid at the time of the attempt.
type signer struct {
	keys         []signingKey
	all          []string // ids of all keys, shared by the receipts of most attempts
	customHeader string   // empty: no second form
}

type signingKey struct {
	id      string
	key     *signature.Key
	custom  *signature.CustomKey
	expires time.Time
}

// newSigner takes the secrets that the daemon keeps, or else the configured one.
func newSigner(kept []transport.Secret, c *Config) (*signer, error) {
	s := &signer{}
	for i, secret := range kept {
		if err := s.add(secret.ID, secret.Key, secret.ExpiresAt, c.Signature); err != nil {
			return nil, fmt.Errorf("signing secret %q (%d of %d kept by the daemon): %w", secret.ID, i+1, len(kept), err)
		}
		s.all = append(s.all, secret.ID)
	}
	if c.Signature != nil {
		s.customHeader = textproto.CanonicalMIMEHeaderKey(c.Signature.Header)
	}
	if len(kept) > 0 {
		return s, nil
	}
	if c.Secret == "" {
		return nil, schema.Errorf(schema.At("secret"), "no signing secret").
			WithDetail("set secret, or let the daemon keep one for this destination; requests are never sent unsigned")
	}
	if err := s.add("", c.Secret, time.Time{}, c.Signature); err != nil {
		return nil, schema.Errorf(schema.At("secret"), "%v", err)
	}
	return s, nil
}

func (s *signer) add(id, secret string, expires time.Time, form *Signature) error {
	k, err := signature.ParseKey(secret)
	if err != nil {
		return err
	}
	if !k.CanSign() {
		return errors.New("a public key cannot sign")
	}
	added := signingKey{id: id, key: k, expires: expires}
	if form != nil {
		added.custom, err = k.Custom(signature.Form{Algorithm: form.Algorithm, Encoding: form.Encoding, Content: form.Content, Prefix: form.Prefix})
		if err != nil {
			return fmt.Errorf("the signature block: %w", err)
		}
	}
	s.keys = append(s.keys, added)
	return nil
}

// usable gives the keys that are valid, primary first. Mostly none expires and
// nothing is copied.
func (s *signer) usable(at time.Time) (keys []signingKey, used []string) {
	for i := range s.keys {
		if e := s.keys[i].expires; !e.IsZero() && !at.Before(e) {
			return s.unexpired(at)
		}
	}
	return s.keys, s.all
}

func (s *signer) unexpired(at time.Time) (keys []signingKey, used []string) {
	for _, k := range s.keys {
		if k.expires.IsZero() || at.Before(k.expires) {
			keys = append(keys, k)
			if k.id != "" {
				used = append(used, k.id)
			}
		}
	}
	return keys, used
}

// sign signs the bytes of a and gives the ids of the secrets used.
func (s *signer) sign(a *attempt, id string, at time.Time) ([]string, error) {
	keys, used := s.usable(at)
	if len(keys) == 0 {
		return nil, errNoSecret
	}
	var room [256]byte
	header := room[:0]
	for i := range keys {
		if i > 0 {
			header = append(header, ' ')
		}
		header = keys[i].key.Append(header, id, at.Unix(), a.bytes)
	}
	a.signatures, a.timestamp = string(header), strconv.FormatInt(at.Unix(), 10)
	if custom := keys[0].custom; custom != nil {
		a.custom = string(custom.Append(room[:0], id, at.Unix(), a.bytes))
	}
	return used, nil
}
