package api

import (
	"context"
	"net/http"
)

// KeyRotation is the answer to a rotation of the encryption key.
type KeyRotation struct {
	KeyID        string   `json:"key_id" doc:"Names the key that everything is sealed with, as sealed texts do"`
	Done         bool     `json:"done" doc:"Whether nothing is sealed with another key: then previous_keys can be removed"`
	Destinations int      `json:"destinations" doc:"Configurations that were sealed anew"`
	Secrets      int      `json:"secrets" doc:"Signing secrets that were sealed anew"`
	Current      int      `json:"current" doc:"Configurations that needed nothing"`
	Skipped      int      `json:"skipped" doc:"What was changed by somebody else at that moment, or could not be read; do it again"`
	Unopened     []string `json:"unopened" doc:"Destinations, as organization/label, with secrets of a key that is not configured; at most 100"`
}

func (a *API) registerEncryption() {
	register(a, operation{
		id: "rotate-keys", method: http.MethodPost, path: "/v1/keys/rotate", tag: tagDaemon, permission: rotateKeys,
		summary:     "Seal all secrets with the current encryption key",
		description: "What one of previous_keys sealed, and what another program wrote in plain. Deliveries go on meanwhile. It may be repeated, on any daemon.",
	}, rotateEncryptionKey)
}

type keyRotationOutput struct{ Body *KeyRotation }

func rotateEncryptionKey(ctx context.Context, s *Services, caller Caller, _ *struct{}) (*keyRotationOutput, error) {
	report, err := s.RotateKeys(ctx, caller)
	if err != nil {
		return nil, err
	}
	if report.Unopened == nil {
		report.Unopened = []string{}
	}
	return &keyRotationOutput{report}, nil
}
