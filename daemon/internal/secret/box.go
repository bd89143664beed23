package secret

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// KeySize is the length of a [Key] in bytes.
const KeySize = 32

// sealedPrefix starts every sealed text. The digit counts up when the form or
// the algorithm changes.
const sealedPrefix = "enc:v1:"

// keyIDSize is the length of a key id: 8 hexadecimal digits.
const keyIDSize = 8

// MaxSealSize is the most bytes that [Box.Seal] takes: more than any key or
// certificate bundle needs, and little enough to hold in memory many times.
const MaxSealSize = 1 << 20

var (
	// ErrKey is returned by ParseKey for text that is no usable key.
	ErrKey = errors.New("not an encryption key")
	// ErrNotSealed is returned by Box.Open for text that Seal did not write.
	ErrNotSealed = errors.New("not a sealed secret")
	// ErrUnknownKey is returned by Box.Open for text that was sealed with a key that the box does not have.
	ErrUnknownKey = errors.New("sealed with a key that is not configured")
	// ErrOpen is returned by Box.Open for text that was changed, or that was sealed for another place.
	ErrOpen = errors.New("the sealed secret was changed or belongs to another place")
)

// Key is the operator's encryption key, from which a [Box] derives what it
// needs. It prints as a [Value].
type Key struct{ value Value }

// NewKey returns a random key.
func NewKey() Key {
	raw := make([]byte, KeySize)
	rand.Read(raw)
	return Key{New(string(raw))}
}

// ParseKey reads a key of 32 bytes in base64: standard or URL alphabet, with
// or without padding. An error matches ErrKey and never holds any of the text.
func ParseKey(text string) (Key, error) {
	normal := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(strings.TrimSpace(text), "="))
	raw, err := base64.RawStdEncoding.DecodeString(normal)
	if err != nil {
		return Key{}, fmt.Errorf("%w: it must be base64; `openssl rand -base64 32` makes one", ErrKey)
	}
	if len(raw) != KeySize {
		return Key{}, fmt.Errorf("%w: it holds %d bytes, it must hold %d; `openssl rand -base64 32` makes one", ErrKey, len(raw), KeySize)
	}
	if strings.Count(string(raw), string(raw[:1])) == KeySize {
		return Key{}, fmt.Errorf("%w: all its bytes are equal; `openssl rand -base64 32` makes a random one", ErrKey)
	}
	return Key{New(string(raw))}, nil
}

// Base64 returns the key as [ParseKey] reads it: it is as secret as the key.
func (k Key) Base64() string { return base64.StdEncoding.EncodeToString([]byte(k.value.Reveal())) }

// String returns what [Value.String] does.
func (k Key) String() string { return k.value.String() }

// Format writes [Key.String] for every verb.
func (k Key) Format(state fmt.State, verb rune) { k.value.Format(state, verb) }

// MarshalText returns [Key.String].
func (k Key) MarshalText() ([]byte, error) { return k.value.MarshalText() }

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k.value.IsZero() }

// Equal reports whether both are the same key, in constant time.
func (k Key) Equal(other Key) bool { return k.value.Equal(other.value) }

// ID returns the 8 hexadecimal digits by which sealed text names this key.
// They are derived one way and tell nothing about it.
func (k Key) ID() string {
	id, err := k.derive("id", keyIDSize/2)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(id)
}

// derive returns a key for one purpose (HKDF-SHA256, RFC 5869), so that the
// key that encrypts is never also used as a MAC key.
func (k Key) derive(purpose string, size int) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte(k.value.Reveal()), nil, "deliveryd secret v1 "+purpose, size)
}

// Box seals secrets for storage with AES-256-GCM (Tink) and opens them again.
// It seals with one key and opens with that and with older ones, so that keys
// rotate while data sealed with an old one is still there. A Box is immutable
// and safe for concurrent use. Nonces are random: one key is good for 2^32
// seals.
type Box struct {
	primary     string
	aeads       map[string]tink.AEAD
	fingerprint []byte
}

// NewBox returns a box that seals with primary and also opens what was sealed
// with one of the older keys.
func NewBox(primary Key, older ...Key) (*Box, error) {
	box := &Box{primary: primary.ID(), aeads: make(map[string]tink.AEAD, 1+len(older))}
	for _, key := range append([]Key{primary}, older...) {
		if key.IsZero() {
			return nil, fmt.Errorf("making a box: %w: it is empty", ErrKey)
		}
		raw, err := key.derive("aead", KeySize)
		if err != nil {
			return nil, fmt.Errorf("deriving the sealing key: %w", err)
		}
		aead, err := subtle.NewAESGCM(raw)
		if err != nil {
			return nil, fmt.Errorf("making the cipher: %w", err)
		}
		box.aeads[key.ID()] = aead
	}
	var err error
	if box.fingerprint, err = primary.derive("fingerprint", sha256.Size); err != nil {
		return nil, fmt.Errorf("deriving the fingerprint key: %w", err)
	}
	return box, nil
}

// KeyID returns the id of the key that the box seals with.
func (b *Box) KeyID() string { return b.primary }

// SealedPrefix starts every text that a box has sealed, with whatever key.
const SealedPrefix = sealedPrefix

// Prefix starts every text that the box seals: what starts otherwise is plain, or
// sealed with another key.
func (b *Box) Prefix() string { return sealedPrefix + b.primary + ":" }

// Seal encrypts plaintext (at most [MaxSealSize] bytes) into text of the form
// "enc:v1:<key id>:<base64url>", which needs no escaping in JSON, SQL or HCL
// and has 16 + ceil((len+28)*4/3) characters: 201 for 110 bytes, so the text
// of a webhook secret of 64 bytes fits varchar(255). The associated data (what
// the secret belongs to) is not stored; [Box.Open] needs the same, so that a
// sealed text copied into another row cannot be opened there.
func (b *Box) Seal(plaintext, associatedData string) (string, error) {
	if len(plaintext) > MaxSealSize {
		return "", fmt.Errorf("sealing a secret: it has %d bytes, at most %d are allowed", len(plaintext), MaxSealSize)
	}
	sealed, err := b.aeads[b.primary].Encrypt([]byte(plaintext), []byte(associatedData))
	if err != nil {
		return "", fmt.Errorf("sealing a secret: %w", err)
	}
	return sealedPrefix + b.primary + ":" + base64.RawURLEncoding.EncodeToString(sealed), nil
}

// Open returns the plaintext of what [Box.Seal] returned. Errors match
// ErrNotSealed, ErrUnknownKey or ErrOpen.
func (b *Box) Open(text, associatedData string) (string, error) {
	id, body, ok := splitSealed(text)
	if !ok {
		return "", fmt.Errorf("opening a secret: %w", ErrNotSealed)
	}
	aead, ok := b.aeads[id]
	if !ok {
		return "", fmt.Errorf("opening a secret: %w: key id %s", ErrUnknownKey, id)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return "", fmt.Errorf("opening a secret: %w", ErrOpen)
	}
	plaintext, err := aead.Decrypt(raw, []byte(associatedData))
	if err != nil {
		return "", fmt.Errorf("opening a secret: %w", ErrOpen)
	}
	return string(plaintext), nil
}

// Fingerprint returns 8 hexadecimal digits that are equal for equal secrets
// under one key, on every daemon and over restarts: what people compare when
// they ask "is this the new one?".
func (b *Box) Fingerprint(plaintext string) string { return fingerprint(b.fingerprint, plaintext) }

// IsSealed reports whether text has the form that [Box.Seal] writes.
func IsSealed(text string) bool {
	_, _, ok := splitSealed(text)
	return ok
}

// SealedKeyID returns the id of the key that text was sealed with; ok is false
// when text is not sealed. A rotation re-seals what names an old key.
func SealedKeyID(text string) (id string, ok bool) {
	id, _, ok = splitSealed(text)
	return id, ok
}

func splitSealed(text string) (id, body string, ok bool) {
	rest, ok := strings.CutPrefix(text, sealedPrefix)
	if !ok {
		return "", "", false
	}
	id, body, ok = strings.Cut(rest, ":")
	if !ok || len(id) != keyIDSize || body == "" || strings.Trim(id, "0123456789abcdef") != "" {
		return "", "", false
	}
	return id, body, true
}
