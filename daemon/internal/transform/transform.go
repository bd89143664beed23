// Package transform compresses what goes to a destination and encrypts it to the
// destination's public keys, as a stream.
//
// It must never hold a body in memory, send a body on in the clear because a key
// is wrong, or know anything of deliveries.
package transform

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/klauspost/compress/zstd"
)

// Values of Settings.Compress.
const (
	None = "none"
	Gzip = "gzip"
	Zstd = "zstd"
)

// Settings say what is done, in this order.
type Settings struct {
	// Compress is none, gzip or zstd. Defaults to "none".
	Compress string `json:"compress,omitempty"`
	// EncryptTo lists public keys, any of whose owners can read the result: all of
	// age (age1..., or SSH keys), or all of OpenPGP (armored). Defaults to none.
	EncryptTo []string `json:"encrypt_to,omitzero"`
}

// On reports whether anything is done at all.
func (s *Settings) On() bool { return s.Compress == Gzip || s.Compress == Zstd || len(s.EncryptTo) > 0 }

// Validate reports what is wrong with s.
func (s *Settings) Validate() error {
	switch s.Compress {
	case "", None, Gzip, Zstd:
	default:
		return fmt.Errorf("compress is %q, want none, gzip or zstd", s.Compress)
	}
	_, _, err := parse(s.EncryptTo)
	return err
}

// Result describes what a body became.
type Result struct{ Name, ContentType string }

// Names returns how a body is called once it is transformed.
func (s *Settings) Names(name, contentType string) Result {
	switch s.Compress {
	case Gzip:
		name, contentType = name+".gz", "application/gzip"
	case Zstd:
		name, contentType = name+".zst", "application/zstd"
	}
	if len(s.EncryptTo) > 0 {
		contentType = "application/octet-stream"
		if isOpenPGP(s.EncryptTo[0]) {
			name += ".gpg"
		} else {
			name += ".age"
		}
	}
	return Result{name, contentType}
}

// Copy writes the transformed body to w.
func (s *Settings) Copy(w io.Writer, body io.Reader) error {
	encrypted, err := s.encrypt(w)
	if err != nil {
		return err
	}
	compressed, err := s.compress(encrypted)
	if err != nil {
		return err
	}
	if _, err := io.Copy(compressed, body); err != nil {
		return err
	}
	return errors.Join(compressed.Close(), encrypted.Close())
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

func (s *Settings) compress(w io.Writer) (io.WriteCloser, error) {
	switch s.Compress {
	case Gzip:
		return gzip.NewWriter(w), nil
	case Zstd:
		// One goroutine and 1 MiB of window: memory counts, and so do readers' limits.
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	}
	return plain{w}, nil
}

func (s *Settings) encrypt(w io.Writer) (io.WriteCloser, error) {
	recipients, entities, err := parse(s.EncryptTo)
	switch {
	case err != nil:
		return nil, err
	case len(recipients) > 0:
		return age.Encrypt(w, recipients...)
	case len(entities) > 0:
		return openpgp.Encrypt(w, entities, nil, &openpgp.FileHints{IsBinary: true}, nil)
	}
	return plain{w}, nil
}

func isOpenPGP(key string) bool { return strings.Contains(key, "-----BEGIN PGP") }

// CheckKey says what is wrong with one public key.
func CheckKey(key string) error {
	_, _, err := parse([]string{key})
	return err
}

func parse(keys []string) (recipients []age.Recipient, entities openpgp.EntityList, err error) {
	for _, key := range keys {
		if isOpenPGP(key) {
			found, err := parseOpenPGP(key)
			if err != nil {
				return nil, nil, err
			}
			entities = append(entities, found...)
			continue
		}
		one, err := parseAge(key)
		if err != nil {
			return nil, nil, err
		}
		recipients = append(recipients, one)
	}
	if len(recipients) > 0 && len(entities) > 0 {
		return nil, nil, errors.New("keys of age and of OpenPGP cannot be mixed: a file has one of the two forms")
	}
	return recipients, entities, nil
}

func parseAge(key string) (age.Recipient, error) {
	key = strings.TrimSpace(key)
	if strings.HasPrefix(key, "AGE-SECRET-KEY-") || strings.Contains(key, "PRIVATE KEY") {
		return nil, errors.New("that is a private key; it belongs to the receiver alone, and the public one here")
	}
	if strings.HasPrefix(key, "ssh-") {
		r, err := agessh.ParseRecipient(key)
		if err != nil {
			return nil, errors.New("that is no SSH public key that can encrypt: want ssh-ed25519 or ssh-rsa")
		}
		return r, nil
	}
	found, err := age.ParseRecipients(strings.NewReader(key))
	if err != nil || len(found) != 1 {
		return nil, errors.New(`that is no public key: want age1..., "ssh-ed25519 ...", or an armored OpenPGP public key, such as nonsensitive(file("partner.asc"))`)
	}
	return found[0], nil
}

func parseOpenPGP(key string) (openpgp.EntityList, error) {
	found, err := openpgp.ReadArmoredKeyRing(strings.NewReader(key))
	if err != nil || len(found) == 0 {
		return nil, errors.New("that is no armored OpenPGP public key, as gpg --armor --export writes it")
	}
	for _, entity := range found {
		if entity.PrivateKey != nil {
			return nil, errors.New("that is a private key; it belongs to the receiver alone, and the public one here")
		}
		if _, err := openpgp.Encrypt(io.Discard, openpgp.EntityList{entity}, nil, nil, nil); err != nil {
			return nil, errors.New("that OpenPGP key cannot encrypt: it has no key for that, or has expired or was revoked")
		}
	}
	return found, nil
}
