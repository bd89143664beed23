package api

import (
	"context"
	"net/http"
	"reflect"
	"time"
)

const tagSecrets = "Signing secrets"

// Secret is a signing secret of a destination, without its value.
type Secret struct {
	ID          string     `json:"id" example:"whs_4kq2v7x3"`
	Algorithm   string     `json:"algorithm" enum:"HMAC-SHA256,Ed25519"`
	State       string     `json:"state" enum:"active,expired,revoked" doc:"Only active ones sign"`
	Primary     bool       `json:"primary" doc:"Its signature comes first, and it alone makes a signature of a form of its own"`
	Fingerprint string     `json:"fingerprint,omitempty" doc:"Equal for equal secrets"`
	PublicKey   string     `json:"public_key,omitempty" doc:"What receivers verify with; Ed25519 only"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"It does not sign from then on"`
	RotatedAt   *time.Time `json:"rotated_at,omitempty" doc:"When another took its place, or it was revoked"`
	UsageCount  int32      `json:"usage_count" doc:"Attempts that it signed"`
	LastUsedAt  *time.Time `json:"last_used_at,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by,omitempty" doc:"Name of the api_key; config: taken along from the destination's own configuration"`
}

// NewSecret is the body of POST /v1/destinations/{ref}/secrets.
type NewSecret struct {
	Secret    *string    `json:"secret,omitempty" doc:"One's own: whsec_ and base64, or plain text, of 24 to 64 bytes; or whsk_ and base64 of an Ed25519 key. One is generated if absent"`
	Algorithm string     `json:"algorithm,omitempty" enum:"HMAC-SHA256,Ed25519" doc:"Of what is generated; HMAC-SHA256 if absent"`
	Bytes     int        `json:"bytes,omitempty" enum:"24,48" doc:"Length of what is generated; 24 if absent"`
	Primary   bool       `json:"primary,omitempty" doc:"Makes it the primary one; the first of a destination is in any case"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When it stops to sign; never if absent"`
}

// SecretRotation is the body of POST /v1/destinations/{ref}/secrets/rotate.
type SecretRotation struct {
	Secret    *string `json:"secret,omitempty" doc:"As for a new secret"`
	Algorithm string  `json:"algorithm,omitempty" enum:"HMAC-SHA256,Ed25519" doc:"That of the primary secret if absent"`
	Bytes     int     `json:"bytes,omitempty" enum:"24,48" doc:"As for a new secret"`
	Overlap   string  `json:"overlap,omitempty" default:"24h" doc:"How long the secrets of the same algorithm go on to sign beside the new one: 0s to 720h"`
}

// SecretChange is the body of PATCH /v1/destinations/{ref}/secrets/{id}.
type SecretChange struct {
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When it stops to sign"`
	Primary   bool       `json:"primary,omitempty" doc:"true makes it the primary one"`
}

// CreatedSecret is a new signing secret with its value, which is shown this once.
type CreatedSecret struct {
	Secret
	Value string `json:"secret" doc:"The value, for the receivers; it is never shown again. Of Ed25519 give receivers public_key instead"`
}

// SecretList is the answer to a list of signing secrets.
type SecretList struct {
	Secrets []Secret `json:"secrets" doc:"Active ones first, of these the primary"`
}

const secretsPath = "/v1/destinations/{ref}/secrets"

func (a *API) registerSecrets() {
	register(a, operation{
		id: "list-secrets", method: http.MethodGet, path: secretsPath, tag: tagSecrets, permission: readSecrets,
		summary:     "List the signing secrets of a destination",
		description: "Those that the daemon keeps, also those that have ended; values are never shown. While none is kept, the destination signs with the secret of its configuration.",
		errors:      []int{http.StatusNotFound},
	}, listSecrets)
	bad := []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}
	register(a, operation{
		id: "create-secret", method: http.MethodPost, path: secretsPath, tag: tagSecrets, permission: manageSecrets,
		summary:     "Add a signing secret to a destination",
		description: "It signs beside those that are there. With the first one, the secret of the destination's configuration is taken along, so that receivers go on to verify.",
		status:      http.StatusCreated, body: reflect.TypeFor[NewSecret](), bodyOptional: true, errors: bad,
	}, withBody(a, true, func(ctx context.Context, s *Services, caller Caller, in *destinationInput, body *NewSecret) (*createdSecretOutput, error) {
		made, err := s.Secrets.Create(ctx, caller, in.Ref, body)
		return &createdSecretOutput{made}, err
	}))
	register(a, operation{
		id: "rotate-secret", method: http.MethodPost, path: secretsPath + "/rotate", tag: tagSecrets, permission: manageSecrets,
		summary:     "Rotate the signing secret of a destination",
		description: "The new one is primary. Those of its algorithm go on to sign beside it for the overlap, so receivers may change at any moment of it.",
		status:      http.StatusCreated, body: reflect.TypeFor[SecretRotation](), bodyOptional: true, errors: bad,
	}, withBody(a, true, func(ctx context.Context, s *Services, caller Caller, in *destinationInput, body *SecretRotation) (*createdSecretOutput, error) {
		made, err := s.Secrets.Rotate(ctx, caller, in.Ref, body)
		return &createdSecretOutput{made}, err
	}))
	register(a, operation{
		id: "change-secret", method: http.MethodPatch, path: secretsPath + "/{id}", tag: tagSecrets, permission: manageSecrets,
		summary: "Change when a signing secret expires, or make it the primary one",
		body:    reflect.TypeFor[SecretChange](), errors: bad,
	}, withBody(a, false, func(ctx context.Context, s *Services, caller Caller, in *secretInput, body *SecretChange) (*secretOutput, error) {
		changed, err := s.Secrets.Change(ctx, caller, in.Ref, in.ID, body)
		return &secretOutput{changed}, err
	}))
	register(a, operation{
		id: "revoke-secret", method: http.MethodDelete, path: secretsPath + "/{id}", tag: tagSecrets, permission: manageSecrets,
		summary:     "Revoke a signing secret",
		description: "No attempt that begins more than two seconds from now is signed with it, on any daemon; it stays in the list. The last usable one is only revoked with force=true: then deliveries are held until there is another.",
		errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, revokeSecret)
}

// maxSmallBody bounds the bodies that only people send.
const maxSmallBody = 1 << 20

// withBody makes a handler of one that takes a JSON body. Where the body is
// optional, none at all means an empty object.
func withBody[I, B, O any](a *API, optional bool, do func(context.Context, *Services, Caller, *I, *B) (*O, error)) func(context.Context, *Services, Caller, *I) (*O, error) {
	return func(ctx context.Context, s *Services, caller Caller, in *I) (*O, error) {
		body := new(B)
		if !optional || requestOf(ctx).http.ContentLength != 0 {
			release, problem := a.bodies.decode(ctx, body, min(maxSmallBody, a.limits.Load().Body))
			if problem != nil {
				return nil, problem
			}
			defer release()
		}
		out, err := do(ctx, s, caller, in, body)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

type secretInput struct {
	Scope
	Ref string `path:"ref" maxLength:"255" doc:"The destination's label or id"`
	ID  string `path:"id" maxLength:"255" doc:"The secret's id"`
}

type revokeInput struct {
	Scope
	Ref   string `path:"ref" maxLength:"255" doc:"The destination's label or id"`
	ID    string `path:"id" maxLength:"255" doc:"The secret's id"`
	Force bool   `query:"force" doc:"Also where no usable secret is left"`
}

type secretsOutput struct{ Body SecretList }

type secretOutput struct{ Body *Secret }

type createdSecretOutput struct{ Body *CreatedSecret }

func listSecrets(ctx context.Context, s *Services, caller Caller, in *destinationInput) (*secretsOutput, error) {
	list, err := s.Secrets.List(ctx, caller, in.Ref)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []Secret{}
	}
	return &secretsOutput{SecretList{list}}, nil
}

func revokeSecret(ctx context.Context, s *Services, caller Caller, in *revokeInput) (*secretOutput, error) {
	revoked, err := s.Secrets.Revoke(ctx, caller, in.Ref, in.ID, in.Force)
	if err != nil {
		return nil, err
	}
	return &secretOutput{revoked}, nil
}
