package app

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// secretService is the registry's signing secrets as the API wants them.
type secretService struct {
	registry *destination.Registry
	log      *slog.Logger
}

var _ api.Secrets = secretService{}

// byCaller names a caller in created_by and in the audit log.
func byCaller(c api.Caller) destination.By {
	return destination.By{Actor: callerOf(c).Actor, RequestID: c.RequestID}
}

// List implements api.Secrets.
func (s secretService) List(ctx context.Context, caller api.Caller, ref string) ([]api.Secret, error) {
	kept, err := s.registry.Secrets(ctx, caller.Organization, ref)
	if err != nil {
		return nil, destinationProblem(err)
	}
	list := make([]api.Secret, len(kept))
	for i := range kept {
		list[i] = showSecret(&kept[i])
	}
	return list, nil
}

// Create implements api.Secrets.
func (s secretService) Create(ctx context.Context, caller api.Caller, ref string, n *api.NewSecret) (*api.CreatedSecret, error) {
	made, value, err := s.registry.CreateSecret(ctx, caller.Organization, ref, destination.NewSecret{
		Key: n.Secret, Algorithm: n.Algorithm, Bytes: n.Bytes, Primary: n.Primary, ExpiresAt: n.ExpiresAt,
	}, byCaller(caller))
	return s.created(caller, ref, "signing secret created", made, value, err)
}

// Rotate implements api.Secrets.
func (s secretService) Rotate(ctx context.Context, caller api.Caller, ref string, r *api.SecretRotation) (*api.CreatedSecret, error) {
	overlap := destination.DefaultOverlap
	if r.Overlap != "" {
		var parsed setting.Duration
		if err := parsed.UnmarshalText([]byte(r.Overlap)); err != nil {
			return nil, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalidRequest, "/overlap: "+err.Error(),
				api.FieldProblem{Pointer: "/overlap", Detail: err.Error()})
		}
		overlap = parsed.Std()
	}
	made, value, err := s.registry.RotateSecret(ctx, caller.Organization, ref, destination.NewSecret{
		Key: r.Secret, Algorithm: r.Algorithm, Bytes: r.Bytes,
	}, overlap, byCaller(caller))
	return s.created(caller, ref, "signing secret rotated", made, value, err)
}

func (s secretService) created(caller api.Caller, ref, what string, made destination.Secret, value string, err error) (*api.CreatedSecret, error) {
	if err != nil {
		return nil, destinationProblem(err)
	}
	s.log.Info(what, "organization", caller.Organization, "destination", ref, "secret_id", made.ID, "by", caller.Key, "request_id", caller.RequestID)
	return &api.CreatedSecret{Secret: showSecret(&made), Value: value}, nil
}

// Change implements api.Secrets.
func (s secretService) Change(ctx context.Context, caller api.Caller, ref, id string, c *api.SecretChange) (*api.Secret, error) {
	changed, err := s.registry.ChangeSecret(ctx, caller.Organization, ref, id, destination.SecretChange{ExpiresAt: c.ExpiresAt, Primary: c.Primary}, byCaller(caller))
	return s.changed(caller, ref, "signing secret changed", changed, err)
}

// Revoke implements api.Secrets.
func (s secretService) Revoke(ctx context.Context, caller api.Caller, ref, id string, force bool) (*api.Secret, error) {
	revoked, err := s.registry.RevokeSecret(ctx, caller.Organization, ref, id, force, byCaller(caller))
	return s.changed(caller, ref, "signing secret revoked", revoked, err)
}

func (s secretService) changed(caller api.Caller, ref, what string, now destination.Secret, err error) (*api.Secret, error) {
	if err != nil {
		return nil, destinationProblem(err)
	}
	s.log.Info(what, "organization", caller.Organization, "destination", ref, "secret_id", now.ID, "by", caller.Key, "request_id", caller.RequestID)
	shown := showSecret(&now)
	return &shown, nil
}

func showSecret(s *destination.Secret) api.Secret {
	return api.Secret{
		ID: s.ID, Algorithm: s.Algorithm, State: s.State, Primary: s.Primary, Fingerprint: s.Fingerprint, PublicKey: s.PublicKey,
		ExpiresAt: s.ExpiresAt, RotatedAt: s.RotatedAt, UsageCount: s.UsageCount, LastUsedAt: s.LastUsedAt,
		CreatedAt: s.CreatedAt, CreatedBy: s.CreatedBy,
	}
}

// auditRows is what reading the audit log needs of the store.
type auditRows interface {
	ListAudit(ctx context.Context, organization string, f store.AuditFilter, limit int) ([]store.AuditRow, error)
}

// auditList lists the audit log as the API wants it.
func auditList(rows auditRows) func(context.Context, api.Caller, api.AuditFilter) (*api.AuditPage, error) {
	return func(ctx context.Context, caller api.Caller, f api.AuditFilter) (*api.AuditPage, error) {
		list, err := rows.ListAudit(ctx, caller.Organization, store.AuditFilter{
			Fleet: caller.Fleet, Actor: f.Actor, Action: f.Action, TargetType: f.TargetType, Target: f.Target,
			Since: f.Since, Until: f.Until, Before: f.Before,
		}, f.Limit)
		if err != nil {
			return nil, err
		}
		page := &api.AuditPage{Entries: make([]api.AuditEntry, len(list))}
		for i := range list {
			e := &list[i]
			page.Entries[i] = api.AuditEntry{
				ID: e.ID, At: e.At, Organization: e.OrganizationID, Actor: e.Actor, Action: e.Action,
				TargetType: e.TargetType, Target: e.Target, RequestID: value(e.RequestID), Details: json.RawMessage(e.Details),
			}
		}
		if len(list) == f.Limit {
			page.Next = strconv.FormatInt(list[len(list)-1].ID, 10)
		}
		return page, nil
	}
}

// secretProblem says what a client can do about an error of signing secrets; nil
// for any other.
func secretProblem(err error) error {
	switch {
	case errors.Is(err, destination.ErrLastSecret):
		return api.NewProblem(http.StatusConflict, "last_secret", err.Error()+"; forced (force=true, --force), deliveries are held until there is another")
	case errors.Is(err, destination.ErrTooManySecrets):
		return api.NewProblem(http.StatusConflict, "too_many_secrets", err.Error()+"; revoke one")
	}
	return nil
}

// invalidProblem points at what is wrong with a request.
func invalidProblem(e *destination.InvalidError) error {
	fields := make([]api.FieldProblem, len(e.Fields))
	for i, f := range e.Fields {
		fields[i] = api.FieldProblem{Pointer: f.Pointer, Detail: f.Problem}
	}
	return api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalidRequest, e.Error(), fields...)
}
