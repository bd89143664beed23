package signature

import (
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// DefaultTolerance is how far a timestamp may be off, both ways.
	DefaultTolerance = 5 * time.Minute
	// maxSignatures bounds the work that one request can cause.
	maxSignatures = 16
	// maxHeaderBytes holds maxSignatures of v1a.
	maxHeaderBytes = 4 << 10
)

var (
	// ErrHeader is returned for a missing or malformed header.
	ErrHeader = errors.New("malformed webhook header")
	// ErrTimestamp is returned for a message that is too old or from the
	// future: a replay, or a clock that is wrong.
	ErrTimestamp = errors.New("webhook timestamp is out of tolerance")
	// ErrSignature is returned when no signature belongs to a key.
	ErrSignature = errors.New("no webhook signature matches")
)

// Verifier is what a receiver of webhooks holds. It is safe for concurrent use.
type Verifier struct {
	keys      []*Key
	tolerance time.Duration
	now       func() time.Time
}

// VerifierOption changes a Verifier.
type VerifierOption func(*Verifier)

// WithTolerance sets how far a timestamp may be off, both ways. Defaults to
// DefaultTolerance.
func WithTolerance(d time.Duration) VerifierOption {
	return func(v *Verifier) { v.tolerance = d }
}

// WithClock sets the clock. Defaults to time.Now.
func WithClock(now func() time.Time) VerifierOption {
	return func(v *Verifier) { v.now = now }
}

// NewVerifier makes a Verifier that accepts a message signed by any of secrets,
// in the forms of ParseKey: more than one while a secret is rotated.
func NewVerifier(secrets []string, options ...VerifierOption) (*Verifier, error) {
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%w: none was given", ErrKey)
	}
	v := &Verifier{tolerance: DefaultTolerance, now: time.Now}
	for i, secret := range secrets {
		k, err := ParseKey(secret)
		if err != nil {
			return nil, fmt.Errorf("secret %d of %d: %w", i+1, len(secrets), err)
		}
		v.keys = append(v.keys, k)
	}
	for _, option := range options {
		option(v)
	}
	return v, nil
}

// Verify checks the headers of a request against its raw body, read as it came
// from the network. The error is an ErrHeader, ErrTimestamp or ErrSignature.
func (v *Verifier) Verify(header http.Header, body []byte) error {
	id, stamp, signatures := header.Get(HeaderID), header.Get(HeaderTimestamp), header.Get(HeaderSignature)
	if id == "" || stamp == "" || signatures == "" {
		return fmt.Errorf("%w: want %s, %s and %s", ErrHeader, HeaderID, HeaderTimestamp, HeaderSignature)
	}
	if err := CheckID(id); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrHeader, HeaderID, err)
	}
	timestamp, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strconv.FormatInt(timestamp, 10) != stamp {
		return fmt.Errorf("%w: %s is not a number of seconds", ErrHeader, HeaderTimestamp)
	}
	if len(signatures) > maxHeaderBytes {
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrHeader, HeaderSignature, maxHeaderBytes)
	}
	if !v.matches(id, timestamp, body, signatures) {
		return ErrSignature
	}
	// After the signature: only its owner learns about this clock.
	if off := v.now().Sub(time.Unix(timestamp, 0)).Abs(); off > v.tolerance {
		return fmt.Errorf("%w: off by %s, tolerated are %s", ErrTimestamp, off.Round(time.Second), v.tolerance)
	}
	return nil
}

// matches compares every signature with every key, whether or not one has
// matched before, so that time tells nothing about which.
func (v *Verifier) matches(id string, timestamp int64, body []byte, signatures string) bool {
	list := strings.SplitN(signatures, " ", maxSignatures+1)
	if len(list) > maxSignatures {
		list = list[:maxSignatures]
	}
	found := false
	for _, k := range v.keys {
		if k.matches(id, timestamp, body, list) {
			found = true
		}
	}
	return found
}

func (k *Key) matches(id string, timestamp int64, body []byte, signatures []string) bool {
	var expected, signed []byte
	prefix := asymmetric
	if k.Asymmetric() {
		signed = message(id, timestamp, body)
	} else {
		prefix = symmetric
		s := k.states.Get().(*state)
		expected = append(expected, s.sign(id, timestamp, body)...)
		k.states.Put(s)
	}
	found := false
	for _, text := range signatures {
		encoded, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue // another version
		}
		given, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			continue
		}
		if expected != nil && hmac.Equal(given, expected) {
			found = true
		}
		if signed != nil && len(given) == ed25519.SignatureSize && ed25519.Verify(k.public, signed, given) {
			found = true
		}
	}
	return found
}
