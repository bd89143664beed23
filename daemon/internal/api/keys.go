package api

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// Role is what a key may do; see permissions.go.
type Role string

// The roles. None includes another; the table in permissions.go says what each may do.
const (
	Admin    Role = "admin"
	Operator Role = "operator"
	Producer Role = "producer"
	Viewer   Role = "viewer"
)

// AllOrganizations as a key's organization means each of them.
const AllOrganizations = "*"

// Key lets a client use the API.
type Key struct {
	// Name appears in logs; the token never does.
	Name string
	// Organization is whose things the key is for, or AllOrganizations.
	Organization string
	Role         Role
	Token        secret.Value
}

// Keys finds the API key that a bearer token stands for. It is immutable; a
// reload makes a new one.
type Keys struct {
	salt [sha256.Size]byte
	keys map[[sha256.Size]byte]keyEntry
}

type keyEntry struct {
	digest [sha256.Size]byte
	caller Caller
}

// NewKeys returns the keys of a configuration. It refuses two keys with one
// token: which of them a request came with could not be told.
func NewKeys(keys []Key) (*Keys, error) {
	k := &Keys{keys: make(map[[sha256.Size]byte]keyEntry, len(keys))}
	rand.Read(k.salt[:])
	for _, key := range keys {
		if key.Token.IsZero() {
			return nil, fmt.Errorf("api_key %q has no token", key.Name)
		}
		if !slices.Contains([]Role{Admin, Operator, Producer, Viewer}, key.Role) {
			return nil, fmt.Errorf("api_key %q has the role %q: give admin, operator, producer or viewer", key.Name, key.Role)
		}
		token := key.Token.Reveal()
		at := k.bucket(token)
		if other, taken := k.keys[at]; taken {
			return nil, fmt.Errorf("api_key %q and api_key %q have the same token: give each its own", other.caller.Key, key.Name)
		}
		k.keys[at] = keyEntry{
			digest: sha256.Sum256([]byte(token)),
			caller: Caller{Key: key.Name, Organization: key.Organization, Role: key.Role},
		}
	}
	return k, nil
}

// bucket hashes a token with a key that nobody outside the process knows, so
// that the time of the map look-up tells nothing that could be used to approach
// a token: comparing with every key in turn would be as safe, but a fleet with
// thousands of producers would pay for it in every request.
func (k *Keys) bucket(token string) [sha256.Size]byte {
	mac := hmac.New(sha256.New, k.salt[:])
	mac.Write([]byte(token))
	return [sha256.Size]byte(mac.Sum(nil))
}

// find returns the caller of a token. Its last comparison is constant-time over
// SHA-256 digests, whatever the map did.
func (k *Keys) find(token string) (Caller, bool) {
	entry, found := k.keys[k.bucket(token)]
	digest := sha256.Sum256([]byte(token))
	same := subtle.ConstantTimeCompare(digest[:], entry.digest[:]) == 1
	return entry.caller, found && same
}
