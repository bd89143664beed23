package destination

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	"github.com/deliveryd/deliveryd/sdk/signature"
)

// Algorithms of signing secrets, as webhook_secrets has them.
const (
	HMACSHA256 = "HMAC-SHA256"
	Ed25519    = "Ed25519"
)

const (
	// DefaultOverlap is how long a secret that is rotated out still signs beside the
	// new one.
	DefaultOverlap = 24 * time.Hour
	// MaxOverlap bounds it.
	MaxOverlap = 30 * 24 * time.Hour
	// shortSecret and longSecret are the lengths of generated secrets, in bytes:
	// multiples of 3, whose base64 has no padding, so that every library agrees.
	shortSecret, longSecret = 24, 48
	// configAttribute is the attribute by which a transport's configuration has a
	// signing secret of its own.
	configAttribute = "secret"
)

var (
	// ErrLastSecret is wrapped where a destination would be left without a usable
	// signing secret.
	ErrLastSecret = errors.New("it is the last usable signing secret of this destination, without which nothing can be sent")
	// ErrTooManySecrets is wrapped where a destination would have more than
	// store.MaxSecrets usable secrets.
	ErrTooManySecrets = fmt.Errorf("a destination has at most %d usable signing secrets", store.MaxSecrets)
	// ErrNoUsableSecret is wrapped by Open where secrets are kept for a destination
	// and none of them may be used: nothing is ever sent unsigned, and the
	// configuration's own secret would bring back what was rotated out.
	ErrNoUsableSecret = errors.New("all its signing secrets are revoked or expired; create one")
)

// By is who changes something, for the audit log.
type By struct {
	// Actor is the name, such as api_key:NAME.
	Actor string
	// RequestID names the request; it may be empty.
	RequestID string
}

// Secret is what may be shown of a signing secret.
type Secret struct {
	ID        string
	Algorithm string
	// State is active, expired or revoked.
	State   string
	Primary bool
	// Fingerprint is equal for equal secrets; empty where the secret cannot be opened.
	Fingerprint string
	// PublicKey is what receivers verify with; only of Ed25519.
	PublicKey  string
	ExpiresAt  *time.Time
	RotatedAt  *time.Time
	UsageCount int32
	LastUsedAt *time.Time
	CreatedAt  time.Time
	CreatedBy  string
}

// NewSecret says what secret is to be made. The zero value is one of 24 random
// bytes for HMAC-SHA256.
type NewSecret struct {
	// Key is one's own: whsec_ and base64 or plain text of 24 to 64 bytes, or whsk_
	// and base64 of an Ed25519 key. Nil: one is generated.
	Key *string
	// Algorithm of what is generated. Defaults to HMAC-SHA256; with RotateSecret, to
	// that of the primary secret.
	Algorithm string
	// Bytes of what is generated, 24 or 48. Defaults to 24.
	Bytes int
	// Primary makes it the one that signs the second form and is named first. The
	// first secret of a destination is primary in any case.
	Primary bool
	// ExpiresAt is when it stops to sign. Defaults to never.
	ExpiresAt *time.Time
}

// Secrets returns the signing secrets that are kept for an organization's
// destination, those that have ended included.
func (r *Registry) Secrets(ctx context.Context, organization, ref string) ([]Secret, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	rows, err := r.store.ListSecrets(ctx, organization, d.ID)
	if err != nil {
		return nil, err
	}
	now, err := r.store.Now(ctx)
	if err != nil {
		return nil, err
	}
	return r.showSecrets(rows, now), nil
}

func (r *Registry) showSecrets(rows []store.Secret, now time.Time) []Secret {
	shown := make([]Secret, len(rows))
	for i := range rows {
		row := &rows[i]
		shown[i] = Secret{
			ID: row.ID, Algorithm: row.Algorithm, State: "active", Primary: row.IsPrimary == store.True,
			ExpiresAt: row.ExpiresAt, RotatedAt: row.RotatedAt, UsageCount: row.UsageCount, LastUsedAt: row.LastUsedAt,
			CreatedAt: row.CreatedAt, CreatedBy: text(row.CreatedBy),
		}
		switch {
		case row.IsActive != store.True:
			shown[i].State = "revoked"
		case !usable(row, now):
			shown[i].State = "expired"
		}
		if plain, err := r.openSecret(row); err == nil {
			shown[i].Fingerprint = r.box.Fingerprint(plain)
			if key, err := signature.ParseKey(plain); err == nil {
				shown[i].PublicKey = key.Public()
			}
		}
	}
	return shown
}

// CreateSecret adds a signing secret to an organization's destination: it signs
// beside those that are there. The value is returned once and never again. Where
// none is kept yet, the one of the configuration is taken along, so that receivers
// that know only that go on to verify. Errors may be an *InvalidError or wrap
// ErrTooManySecrets.
func (r *Registry) CreateSecret(ctx context.Context, organization, ref string, o NewSecret, by By) (made Secret, value string, err error) {
	return r.addSecret(ctx, organization, ref, "secret.create", o, by, func(fresh store.Secret, rows []store.Secret, now time.Time) ([]store.SecretWrite, error) {
		return planCreate(rows, now, fresh, o.Primary)
	})
}

// RotateSecret puts a new signing secret in the place of those of its algorithm,
// which go on to sign beside it for the overlap, 0 to MaxOverlap. Otherwise it is
// as CreateSecret.
func (r *Registry) RotateSecret(ctx context.Context, organization, ref string, o NewSecret, overlap time.Duration, by By) (made Secret, value string, err error) {
	if overlap < 0 || overlap > MaxOverlap {
		return Secret{}, "", invalid("/overlap", "is %v, want 0s to %v", overlap, MaxOverlap)
	}
	if o.Key == nil && o.Algorithm == "" {
		if o.Algorithm, err = r.primaryAlgorithm(ctx, organization, ref); err != nil {
			return Secret{}, "", err
		}
	}
	return r.addSecret(ctx, organization, ref, "secret.rotate", o, by, func(fresh store.Secret, rows []store.Secret, now time.Time) ([]store.SecretWrite, error) {
		return planRotate(rows, now, fresh, overlap)
	})
}

// primaryAlgorithm is that of the secret that is to be rotated where nobody says.
func (r *Registry) primaryAlgorithm(ctx context.Context, organization, ref string) (string, error) {
	kept, err := r.Secrets(ctx, organization, ref)
	if err != nil {
		return "", err
	}
	for _, s := range kept {
		if s.State == "active" && s.Primary && s.PublicKey != "" {
			return Ed25519, nil
		}
	}
	return HMACSHA256, nil
}

type planner func(fresh store.Secret, rows []store.Secret, now time.Time) ([]store.SecretWrite, error)

func (r *Registry) addSecret(ctx context.Context, organization, ref, action string, o NewSecret, by By, plan planner) (made Secret, value string, err error) {
	d, err := r.readFresh(ctx, organization, ref)
	if err != nil {
		return Secret{}, "", err
	}
	value, algorithm, err := newKey(o)
	if err != nil {
		return Secret{}, "", err
	}
	defer r.know(value)()
	fresh, err := r.sealedSecret(value, algorithm, by.Actor)
	if err != nil {
		return Secret{}, "", err
	}
	fresh.ExpiresAt = o.ExpiresAt
	details, _ := json.Marshal(map[string]any{"secret": fresh.ID, "algorithm": algorithm, "generated": o.Key == nil}) // plain values cannot fail
	entry := auditOf(d, action, by, details)
	var at time.Time
	rows, err := r.store.ChangeSecrets(ctx, organization, d.ID, entry, func(rows []store.Secret, now time.Time) ([]store.SecretWrite, error) {
		at, fresh.CreatedAt = now, now
		if fresh.ExpiresAt != nil && !fresh.ExpiresAt.After(now) {
			return nil, invalid("/expires_at", "is over already, want a time to come")
		}
		along, err := r.configSecret(d, rows, now)
		if err != nil {
			return nil, err
		}
		writes, err := plan(fresh, append(rows, along...), now)
		return asNew(writes, along), err
	})
	if err != nil {
		return Secret{}, "", err
	}
	r.changedHere(d.ID)
	for _, one := range r.showSecrets(rows, at) {
		if one.ID == fresh.ID {
			made = one
		}
	}
	return made, value, nil
}

// asNew adds what was taken along from the configuration as rows to be made, as
// the plan has changed them.
func asNew(writes []store.SecretWrite, along []store.Secret) []store.SecretWrite {
	for i := range along {
		planned := false
		for j := range writes {
			if writes[j].Row.ID == along[i].ID {
				writes[j].New, planned = true, true
			}
		}
		if !planned {
			writes = append(writes, store.SecretWrite{Row: along[i], New: true})
		}
	}
	return writes
}

// configSecret returns the secret of the destination's own configuration as a row,
// unless secrets are kept already or it has none that could sign.
func (r *Registry) configSecret(d *Destination, kept []store.Secret, now time.Time) ([]store.Secret, error) {
	if len(kept) > 0 {
		return nil, nil
	}
	plain, err := r.box.OpenPaths(d.sealed, d.place())
	if err != nil {
		return nil, fmt.Errorf("taking the secret of its configuration along: %w", err)
	}
	var config map[string]json.RawMessage
	var value string
	if json.Unmarshal(plain, &config) != nil || json.Unmarshal(config[configAttribute], &value) != nil {
		return nil, nil //nolint:nilerr // it has none
	}
	key, err := signature.ParseKey(value)
	if err != nil || !key.CanSign() {
		return nil, nil //nolint:nilerr // an attribute of that name that means something else
	}
	row, err := r.sealedSecret(value, algorithmOf(key), "config")
	if err != nil {
		return nil, err
	}
	row.CreatedAt, row.IsPrimary = now, store.True
	return []store.Secret{row}, nil
}

// newKey returns the key that o wants.
func newKey(o NewSecret) (value, algorithm string, err error) {
	if o.Key != nil {
		return ownKey(o)
	}
	switch o.Algorithm {
	case "", HMACSHA256:
		if o.Bytes != 0 && o.Bytes != shortSecret && o.Bytes != longSecret {
			return "", "", invalid("/bytes", "is %d, want %d or %d", o.Bytes, shortSecret, longSecret)
		}
		value, err = signature.GenerateSecret(max(o.Bytes, shortSecret))
		return value, HMACSHA256, err
	case Ed25519:
		if o.Bytes != 0 {
			return "", "", invalid("/bytes", "is of no use with %s, whose keys have one length", Ed25519)
		}
		value, _, err = signature.GenerateKeyPair()
		return value, Ed25519, err
	}
	return "", "", invalid("/algorithm", "is %q, want %s or %s", o.Algorithm, HMACSHA256, Ed25519)
}

func ownKey(o NewSecret) (value, algorithm string, err error) {
	value = *o.Key
	switch {
	case value == "":
		return "", "", invalid("/secret", "is empty: leave it out to have one generated")
	case o.Bytes != 0:
		return "", "", invalid("/bytes", "is of no use with a secret of one's own")
	}
	key, err := signature.ParseKey(value)
	if err != nil {
		return "", "", invalid("/secret", "%v; want whsec_ and base64 of 24 to 64 bytes, or plain text as long, or whsk_ and an Ed25519 key", err)
	}
	if !key.CanSign() {
		return "", "", invalid("/secret", "is a public key, which cannot sign")
	}
	if is := algorithmOf(key); o.Algorithm != "" && o.Algorithm != is {
		return "", "", invalid("/algorithm", "is %q, but the secret is for %s", o.Algorithm, is)
	}
	return value, algorithmOf(key), nil
}

// algorithm returns the name that we have for an algorithm, whose row another
// program may have written; empty for one that we cannot sign with.
func algorithm(name string) string {
	switch strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(name)) {
	case "hmacsha256", "sha256":
		return HMACSHA256
	case "ed25519":
		return Ed25519
	}
	return ""
}

func algorithmOf(key *signature.Key) string {
	if key.Asymmetric() {
		return Ed25519
	}
	return HMACSHA256
}

// sealedSecret makes a row of a key.
func (r *Registry) sealedSecret(value, algorithm, by string) (store.Secret, error) {
	id := "whs_" + strings.ToLower(rand.Text())
	sealed, err := r.box.Seal(value, secretPlace(id))
	if err != nil {
		return store.Secret{}, err
	}
	return store.Secret{
		ID: id, SecretKey: sealed, Algorithm: algorithm, IsActive: store.True, IsPrimary: store.False, CreatedBy: optional(by),
	}, nil
}

// secretPlace is what a signing secret is bound to when it is sealed.
func secretPlace(id string) string { return "webhook_secrets/" + id }

// openSecret opens a signing secret; one that another program wrote may be plain.
func (r *Registry) openSecret(row *store.Secret) (string, error) {
	if !secret.IsSealed(row.SecretKey) {
		return row.SecretKey, nil
	}
	return r.box.Open(row.SecretKey, secretPlace(row.ID))
}

// RevokeSecret makes a signing secret useless at once. Without force, the last
// usable one stays, and the error wraps ErrLastSecret.
func (r *Registry) RevokeSecret(ctx context.Context, organization, ref, id string, force bool, by By) (Secret, error) {
	return r.changeSecret(ctx, organization, ref, id, "secret.revoke", by, func(rows []store.Secret, now time.Time) ([]store.SecretWrite, error) {
		return planRevoke(rows, now, id, force)
	})
}

// SecretChange says what is to be changed of a signing secret. Zero fields change nothing.
type SecretChange struct {
	// ExpiresAt is when it stops to sign.
	ExpiresAt *time.Time
	// Primary makes it the primary one.
	Primary bool
}

// ChangeSecret changes when a signing secret expires, or makes it the primary one.
// The error may be an *InvalidError.
func (r *Registry) ChangeSecret(ctx context.Context, organization, ref, id string, c SecretChange, by By) (Secret, error) {
	return r.changeSecret(ctx, organization, ref, id, "secret.update", by, func(rows []store.Secret, now time.Time) ([]store.SecretWrite, error) {
		return planChange(rows, now, id, c)
	})
}

func (r *Registry) changeSecret(ctx context.Context, organization, ref, id, action string, by By, plan func([]store.Secret, time.Time) ([]store.SecretWrite, error)) (Secret, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return Secret{}, err
	}
	details, _ := json.Marshal(map[string]any{"secret": id}) // a text cannot fail
	var at time.Time
	rows, err := r.store.ChangeSecrets(ctx, organization, d.ID, auditOf(d, action, by, details), func(rows []store.Secret, now time.Time) ([]store.SecretWrite, error) {
		at = now
		return plan(rows, now)
	})
	if err != nil {
		return Secret{}, err
	}
	r.changedHere(d.ID)
	for _, one := range r.showSecrets(rows, at) {
		if one.ID == id {
			return one, nil
		}
	}
	return Secret{}, fmt.Errorf("secret %q: %w", id, store.ErrNotFound)
}
