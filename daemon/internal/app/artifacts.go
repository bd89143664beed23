package app

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/artifact"
	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

func (d *daemon) startArtifacts(ctx context.Context) (err error) {
	d.artifacts, err = artifact.Open(ctx, artifact.Options{
		Store: d.store, URL: d.cfg.Artifacts.URL, MaxSize: int64(d.cfg.Artifacts.MaxSize), Retention: d.cfg.Artifacts.Retention,
		Large: d.o.Pacer.Large, Logger: d.log.Logger,
	})
	if err != nil {
		return err
	}
	d.stop.add("store of artifacts", func(context.Context) error { return d.artifacts.Close() })
	return nil
}

// artifactService is the artifact service as the API wants it.
type artifactService struct{ service *artifact.Service }

var _ api.Artifacts = artifactService{}

// The codes of uploads that are refused.
const (
	codeArtifactTooLarge api.Code = "artifact_too_large"
	codeArtifactMismatch api.Code = "artifact_mismatch"
)

// Put implements api.Artifacts.
func (s artifactService) Put(ctx context.Context, caller api.Caller, u *api.ArtifactUpload) (*api.Artifact, error) {
	a, err := s.service.Put(ctx, artifact.Announced{
		Organization: caller.Organization, Name: u.Name, ContentType: u.ContentType, Size: u.Size, SHA256: u.SHA256,
	}, u.Body)
	switch {
	case errors.Is(err, artifact.ErrTooLarge):
		return nil, api.NewProblem(http.StatusRequestEntityTooLarge, codeArtifactTooLarge, "The artifact is larger than artifacts.max_size, "+config.Size(s.service.MaxSize()).String()+"; nothing was kept.")
	case errors.Is(err, artifact.ErrMismatch):
		return nil, api.NewProblem(http.StatusUnprocessableEntity, codeArtifactMismatch, "What came is not what was announced, by its size or its SHA-256; nothing was kept. Upload it again.")
	case err != nil:
		return nil, err
	}
	return artifactView(&a), nil
}

// Get implements api.Artifacts.
func (s artifactService) Get(ctx context.Context, caller api.Caller, id string) (*api.Artifact, error) {
	a, err := s.service.Get(ctx, caller.Organization, id)
	if err != nil {
		return nil, err
	}
	return artifactView(&a), nil
}

// List implements api.Artifacts.
func (s artifactService) List(ctx context.Context, caller api.Caller, cursor string, limit int) (*api.ArtifactPage, error) {
	list, err := s.service.List(ctx, caller.Organization, cursor, limit)
	if err != nil {
		return nil, err
	}
	page := new(api.ArtifactPage)
	if len(list) == limit {
		page.Next = list[limit-1].ID
	}
	for i := range list {
		if list[i].State != store.ArtifactDeleting {
			page.Items = append(page.Items, *artifactView(&list[i]))
		}
	}
	return page, nil
}

func artifactView(a *store.Artifact) *api.Artifact {
	view := &api.Artifact{
		ID: a.ID, Name: a.Name, ContentType: a.ContentType, Size: a.Size, State: a.State, CreatedAt: a.CreatedAt,
		SHA256: hex.EncodeToString(a.Sha256),
	}
	if a.State == store.ArtifactReady {
		view.RetainedUntil = &a.RetainedUntil
	}
	return view
}
