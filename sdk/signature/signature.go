// Package signature signs and verifies webhooks in the form of the Standard
// Webhooks specification 1.0.0 (https://www.standardwebhooks.com).
//
// Signed is "<id>.<timestamp>.<raw body>": the exact bytes of the body, never a
// parsed and re-encoded copy. The package must never put a key into an error.
package signature

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Names of the three headers.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

const (
	// MinKeyBytes and MaxKeyBytes bound a symmetric key, after the specification.
	MinKeyBytes = 24
	MaxKeyBytes = 64
	// MaxIDBytes bounds a message id.
	MaxIDBytes = 255

	secretPrefix  = "whsec_"
	privatePrefix = "whsk_"
	publicPrefix  = "whpk_"
	symmetric     = "v1,"
	asymmetric    = "v1a,"
)

var (
	// ErrKey is returned for a key that cannot be used; it never quotes the key.
	ErrKey = errors.New("unusable key")
	// ErrID is returned for a message id that must not be signed: one that is
	// empty, too long, or not made of visible ASCII without a dot. With a dot
	// in it, two different messages could share a signature.
	ErrID = errors.New("unusable message id")
)

// Key signs or verifies. It is safe for concurrent use and prints as "[key]".
type Key struct {
	secret  []byte
	states  sync.Pool // of *state, for secret
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

// state is an HMAC that is keyed already, with room for what surrounds it:
// keying anew costs as much as hashing 128 bytes, and four allocations.
type state struct {
	mac    hash.Hash
	prefix []byte
	sum    [sha256.Size]byte
}

// ParseKey reads a key: "whsec_" and base64, with or without padding, of 24 to
// 64 bytes; or any other text of 24 to 64 bytes, which is the key as it stands.
// "whsk_" and base64 of an Ed25519 seed (32 bytes) or private key (64 bytes)
// signs as v1a; "whpk_" and base64 of an Ed25519 public key only verifies v1a.
func ParseKey(text string) (*Key, error) {
	prefix, encoded, found := strings.Cut(text, "_")
	switch prefix += "_"; {
	case found && prefix == secretPrefix:
		secret, err := decode(encoded)
		if err != nil {
			return nil, fmt.Errorf("%w: what follows %s is not base64", ErrKey, secretPrefix)
		}
		return NewKey(secret)
	case found && prefix == privatePrefix:
		return privateKey(encoded)
	case found && prefix == publicPrefix:
		public, err := decode(encoded)
		if err != nil || len(public) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: what follows %s is not the base64 of an Ed25519 public key", ErrKey, publicPrefix)
		}
		return &Key{public: public}, nil
	default:
		return NewKey([]byte(text))
	}
}

// NewKey makes a symmetric key of 24 to 64 bytes.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) < MinKeyBytes || len(secret) > MaxKeyBytes {
		return nil, fmt.Errorf("%w: it has %d bytes; want %d to %d", ErrKey, len(secret), MinKeyBytes, MaxKeyBytes)
	}
	k := &Key{secret: append([]byte(nil), secret...)}
	k.states.New = func() any {
		return &state{mac: hmac.New(sha256.New, k.secret), prefix: make([]byte, 0, 64)}
	}
	return k, nil
}

func privateKey(encoded string) (*Key, error) {
	bytes, err := decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: what follows %s is not base64", ErrKey, privatePrefix)
	}
	var private ed25519.PrivateKey
	switch len(bytes) {
	case ed25519.SeedSize:
		private = ed25519.NewKeyFromSeed(bytes)
	case ed25519.PrivateKeySize:
		private = bytes
		if !private.Equal(ed25519.NewKeyFromSeed(private.Seed())) {
			return nil, fmt.Errorf("%w: its public half does not belong to its private half", ErrKey)
		}
	default:
		return nil, fmt.Errorf("%w: an Ed25519 key of %d bytes; want %d or %d", ErrKey, len(bytes), ed25519.SeedSize, ed25519.PrivateKeySize)
	}
	return &Key{private: private, public: private.Public().(ed25519.PublicKey)}, nil
}

// decode reads standard base64 with or without its padding.
func decode(text string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
}

// CanSign says whether k holds a secret half.
func (k *Key) CanSign() bool { return k.secret != nil || k.private != nil }

// Asymmetric says whether k belongs to v1a.
func (k *Key) Asymmetric() bool { return k.public != nil }

// Public returns the public half of an Ed25519 key as ParseKey reads it, whpk_ and
// base64, which is no secret; empty for a symmetric key, which has none.
func (k *Key) Public() string {
	if k.public == nil {
		return ""
	}
	return publicPrefix + base64.StdEncoding.EncodeToString(k.public)
}

// String keeps a key out of logs.
func (k *Key) String() string { return "[key]" }

// GoString keeps a key out of logs.
func (k *Key) GoString() string { return "[key]" }

// CheckID says whether id may be signed.
func CheckID(id string) error {
	if id == "" || len(id) > MaxIDBytes {
		return fmt.Errorf("%w: it has %d bytes; want 1 to %d", ErrID, len(id), MaxIDBytes)
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' || id[i] == '.' {
			return fmt.Errorf("%w: byte %d is %q; want visible ASCII without a dot", ErrID, i, id[i])
		}
	}
	return nil
}

// Append appends one signature, "v1,<base64>" or "v1a,<base64>", of a message
// whose id passed CheckID. timestamp is in seconds since 1970 and is that of
// this attempt. A key that cannot sign appends nothing.
func (k *Key) Append(dst []byte, id string, timestamp int64, body []byte) []byte {
	switch {
	case k.secret != nil:
		s := k.states.Get().(*state)
		dst = append(dst, symmetric...)
		dst = base64.StdEncoding.AppendEncode(dst, s.sign(id, timestamp, body))
		k.states.Put(s)
	case k.private != nil:
		dst = append(dst, asymmetric...)
		dst = base64.StdEncoding.AppendEncode(dst, ed25519.Sign(k.private, message(id, timestamp, body)))
	}
	return dst
}

func (s *state) sign(id string, timestamp int64, body []byte) []byte {
	s.prefix = appendPrefix(s.prefix[:0], id, timestamp)
	s.mac.Reset()
	s.mac.Write(s.prefix)
	s.mac.Write(body)
	return s.mac.Sum(s.sum[:0])
}

func appendPrefix(dst []byte, id string, timestamp int64) []byte {
	dst = append(dst, id...)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, timestamp, 10)
	return append(dst, '.')
}

func message(id string, timestamp int64, body []byte) []byte {
	m := appendPrefix(make([]byte, 0, len(id)+24+len(body)), id, timestamp)
	return append(m, body...)
}

// Sign gives the value of the signature header: one signature per key,
// separated by spaces, so that receivers accept a message while keys rotate.
func Sign(id string, at time.Time, body []byte, keys ...*Key) (string, error) {
	if err := CheckID(id); err != nil {
		return "", err
	}
	var header []byte
	for _, k := range keys {
		if !k.CanSign() {
			return "", fmt.Errorf("%w: a public key cannot sign", ErrKey)
		}
		if len(header) > 0 {
			header = append(header, ' ')
		}
		header = k.Append(header, id, at.Unix(), body)
	}
	if len(header) == 0 {
		return "", fmt.Errorf("%w: none was given", ErrKey)
	}
	return string(header), nil
}
