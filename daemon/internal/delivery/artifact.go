package delivery

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

var artifactID = regexp.MustCompile("^" + store.ArtifactPrefix + "[0-9a-f]{32}$")

// checkArtifact checks that an artifact is the organization's and whole. It may
// still be deleted before the row is written; the database then refuses the row.
func (s *Service) checkArtifact(ctx context.Context, organization, id string) error {
	if id == "" {
		return nil
	}
	if !artifactID.MatchString(id) {
		return unknownArtifact()
	}
	a, err := s.store.Artifact(ctx, organization, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return unknownArtifact()
	case err != nil:
		return fmt.Errorf("looking for the artifact: %w", err)
	case a.State == store.ArtifactDeleting:
		return unknownArtifact()
	case a.State != store.ArtifactReady:
		return problem(CodeArtifactNotReady, "/payload/artifact", "is still being uploaded; submit the delivery when POST /v1/artifacts has answered")
	}
	return nil
}

// unknownArtifact has the same words whether nobody or another organization has it.
func unknownArtifact() *Problem {
	return problem(CodeUnknownArtifact, "/payload/artifact", "names no artifact of this organization; give the id that POST /v1/artifacts has answered with, within its retention")
}
