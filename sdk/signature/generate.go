package signature

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
)

// GenerateSecret makes a symmetric secret of n random bytes, 24 to 64, in the
// whsec_ form. Multiples of 3 need no padding, which some libraries reject and
// others demand: 24 and 48 suit all.
func GenerateSecret(n int) (string, error) {
	if n < MinKeyBytes || n > MaxKeyBytes {
		return "", fmt.Errorf("%w: %d bytes; want %d to %d", ErrKey, n, MinKeyBytes, MaxKeyBytes)
	}
	secret := make([]byte, n)
	_, _ = rand.Read(secret) // never fails, by its contract since Go 1.24
	return secretPrefix + base64.StdEncoding.EncodeToString(secret), nil
}

// GenerateKeyPair makes an Ed25519 pair for v1a: whsk_ for the sender, whpk_
// for the receivers.
func GenerateKeyPair() (private, public string, err error) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", "", fmt.Errorf("generating an Ed25519 key: %w", err)
	}
	return privatePrefix + base64.StdEncoding.EncodeToString(priv), publicPrefix + base64.StdEncoding.EncodeToString(pub), nil
}
