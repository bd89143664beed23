// Package secret keeps secrets from being read by those who should not: it
// seals them for storage ([Box]), carries them through the program in a type
// that nothing prints by accident ([Value]), and removes them from text that
// others wrote ([Redactor]).
//
// It must never write a secret, or an error that holds one, anywhere; it knows
// no database, no configuration file and no clock.
package secret

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// Redacted is what stands in the place of a secret. A fingerprint in
// parentheses may follow it; see [IsRedacted].
const Redacted = "***"

// fingerprintBytes is the length of a fingerprint. 32 bits tell a handful of
// secrets apart and are far too few to confirm a guess of one.
const fingerprintBytes = 4

// Value is a secret in memory. Every way of printing it (fmt with any verb,
// encoding/json, encoding.TextMarshaler, log/slog) gives "***" and a short
// fingerprint; only [Value.Reveal] gives the secret. The zero Value is "no
// secret" and prints as nothing. Values are immutable and may be copied.
type Value struct {
	// A pointer, since fmt cannot call methods on an unexported field of
	// another struct: it would walk into a string and print it, but prints
	// only the address of a nested pointer.
	text *string
}

// New returns text as a secret; New("") is the zero Value.
func New(text string) Value {
	if text == "" {
		return Value{}
	}
	text = strings.Clone(text) // not a window into a whole configuration file
	return Value{text: &text}
}

// Reveal returns the secret itself. Call it where the secret is used and
// nowhere else, so that a search for this name finds every use.
func (v Value) Reveal() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

// IsZero reports whether there is no secret.
func (v Value) IsZero() bool { return v.text == nil }

// Equal reports whether both hold the same secret, in constant time.
func (v Value) Equal(other Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(other.Reveal())) == 1
}

// processKey keys the fingerprints of Values: random per process, so that a
// fingerprint in a log cannot be used to try guesses of the secret.
//
//nolint:gochecknoglobals // read-only once made, and the same for all values of the process
var processKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails: crypto/rand ends the program instead
	return key
})

// Fingerprint returns 8 hexadecimal digits that are equal for equal secrets
// within this process. [Box.Fingerprint] gives one that outlives the process.
func (v Value) Fingerprint() string {
	if v.text == nil {
		return ""
	}
	return fingerprint(processKey(), *v.text)
}

func fingerprint(key []byte, text string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil)[:fingerprintBytes])
}

// mask is how a secret with this fingerprint is shown.
func mask(fingerprint string) string { return Redacted + "(" + fingerprint + ")" }

// IsRedacted reports whether text is the stand-in for a secret, with or
// without a fingerprint: what a client sends back unchanged when it edits an
// object that was shown to it.
func IsRedacted(text string) bool {
	if text == Redacted {
		return true
	}
	inner, ok := strings.CutPrefix(text, Redacted+"(")
	if !ok || len(inner) != 2*fingerprintBytes+1 || !strings.HasSuffix(inner, ")") {
		return false
	}
	_, err := hex.DecodeString(strings.TrimSuffix(inner, ")"))
	return err == nil
}

// String returns "***(fingerprint)", or "" for the zero Value.
func (v Value) String() string {
	if v.text == nil {
		return ""
	}
	return mask(v.Fingerprint())
}

// GoString is [Value.String]: %#v shows no more than %v.
func (v Value) GoString() string { return v.String() }

// Format writes [Value.String] for every verb and flag: without it %x and %d
// would look inside.
func (v Value) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(v.String())) }

// LogValue makes log/slog print [Value.String].
func (v Value) LogValue() slog.Value { return slog.StringValue(v.String()) }

// MarshalText returns [Value.String].
func (v Value) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// MarshalJSON returns [Value.String] as a JSON string.
func (v Value) MarshalJSON() ([]byte, error) { return json.Marshal(v.String()) }

// UnmarshalText takes text as the secret, so that a request body can be
// decoded into a struct that holds a Value.
func (v *Value) UnmarshalText(text []byte) error {
	*v = New(string(text))
	return nil
}

// Bytes holds secrets, for example a JSON document in clear text. It prints as
// "***" in every way that [Value] does; convert it to []byte to use it.
type Bytes []byte

// String returns "***", or "" when there is nothing.
func (b Bytes) String() string {
	if len(b) == 0 {
		return ""
	}
	return Redacted
}

// GoString is [Bytes.String].
func (b Bytes) GoString() string { return b.String() }

// Format writes [Bytes.String] for every verb and flag.
func (b Bytes) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(b.String())) }

// LogValue makes log/slog print [Bytes.String].
func (b Bytes) LogValue() slog.Value { return slog.StringValue(b.String()) }

// MarshalText returns [Bytes.String].
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// MarshalJSON returns [Bytes.String] as a JSON string.
func (b Bytes) MarshalJSON() ([]byte, error) { return json.Marshal(b.String()) }
