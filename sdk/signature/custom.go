package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"sync"
)

// Names for the fields of Form.
const (
	SHA256 = "sha256"
	SHA512 = "sha512"

	Hex    = "hex"
	Base64 = "base64"

	ContentBody            = "body"
	ContentTimestampBody   = "timestamp.body"
	ContentIDTimestampBody = "id.timestamp.body"
)

// timestampPlace in Form.Prefix becomes the seconds since 1970.
const timestampPlace = "{timestamp}"

// Form is how a receiver that does not know Standard Webhooks wants an HMAC:
// GitHub's is {SHA256, Hex, ContentBody, "sha256="}, Stripe's
// {SHA256, Hex, ContentTimestampBody, "t={timestamp},v1="}.
type Form struct {
	// Algorithm is SHA256 or SHA512.
	Algorithm string
	// Encoding of the MAC is Hex or Base64.
	Encoding string
	// Content says what is signed: ContentBody, ContentTimestampBody or
	// ContentIDTimestampBody; the parts are separated by dots.
	Content string
	// Prefix stands before the MAC; "{timestamp}" in it becomes the seconds
	// since 1970. May be empty.
	Prefix string
}

// CustomKey signs in a Form. It is safe for concurrent use and prints as "[key]".
type CustomKey struct {
	form          Form
	before, after string // of the prefix, around the timestamp
	hasTimestamp  bool
	states        sync.Pool
}

// Custom makes a signer of form with the same secret as k, which must be
// symmetric.
func (k *Key) Custom(form Form) (*CustomKey, error) {
	if k.secret == nil {
		return nil, fmt.Errorf("%w: an Ed25519 key cannot make an HMAC", ErrKey)
	}
	newHash := map[string]func() hash.Hash{SHA256: sha256.New, SHA512: sha512.New}[form.Algorithm]
	switch {
	case newHash == nil:
		return nil, fmt.Errorf("algorithm %q: want %s or %s", form.Algorithm, SHA256, SHA512)
	case form.Encoding != Hex && form.Encoding != Base64:
		return nil, fmt.Errorf("encoding %q: want %s or %s", form.Encoding, Hex, Base64)
	case form.Content != ContentBody && form.Content != ContentTimestampBody && form.Content != ContentIDTimestampBody:
		return nil, fmt.Errorf("content %q: want %s, %s or %s", form.Content, ContentBody, ContentTimestampBody, ContentIDTimestampBody)
	}
	c := &CustomKey{form: form}
	c.before, c.after, c.hasTimestamp = strings.Cut(form.Prefix, timestampPlace)
	secret := k.secret
	c.states.New = func() any { return hmac.New(newHash, secret) }
	return c, nil
}

// String keeps a key out of logs.
func (c *CustomKey) String() string { return "[key]" }

// GoString keeps a key out of logs.
func (c *CustomKey) GoString() string { return "[key]" }

// Append appends the value of the header.
func (c *CustomKey) Append(dst []byte, id string, timestamp int64, body []byte) []byte {
	mac := c.states.Get().(hash.Hash)
	defer c.states.Put(mac)
	c.begin(mac, id, timestamp)
	mac.Write(body)
	return c.end(dst, mac, timestamp)
}

func (c *CustomKey) begin(mac hash.Hash, id string, timestamp int64) {
	mac.Reset()
	switch c.form.Content {
	case ContentTimestampBody:
		mac.Write(append(strconv.AppendInt(nil, timestamp, 10), '.'))
	case ContentIDTimestampBody:
		mac.Write(appendPrefix(nil, id, timestamp))
	}
}

func (c *CustomKey) end(dst []byte, mac hash.Hash, timestamp int64) []byte {
	dst = append(dst, c.before...)
	if c.hasTimestamp {
		dst = strconv.AppendInt(dst, timestamp, 10)
		dst = append(dst, c.after...)
	}
	var sum [sha512.Size]byte
	if c.form.Encoding == Hex {
		return hex.AppendEncode(dst, mac.Sum(sum[:0]))
	}
	return base64.StdEncoding.AppendEncode(dst, mac.Sum(sum[:0]))
}
