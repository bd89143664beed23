package store

import (
	"context"
	"time"

	"github.com/go-jet/jet/v2/postgres"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/deliveryd/deliveryd/gen/db/model"
	"github.com/deliveryd/deliveryd/gen/db/table"
)

// Artifact is a row of artifacts: a payload too large for a queue row.
type Artifact = model.Artifacts

// The states of an artifact.
const (
	ArtifactUploading = "uploading" // its upload has not ended
	ArtifactReady     = "ready"     // whole and checked
	ArtifactDeleting  = "deleting"  // nothing may refer to it any more
)

// ArtifactPrefix begins the ids of artifacts; the 32 hexadecimal digits of a
// UUIDv7 follow. The trigger delivery_queue_artifact knows the form too.
const ArtifactPrefix = "art_"

type artifactStatements struct{ one, list statement }

func buildArtifactStatements() artifactStatements {
	a := table.Artifacts
	mine := a.OrganizationID.EQ(textParam("organization"))
	return artifactStatements{
		one: prepare(a.SELECT(a.AllColumns).WHERE(a.ID.EQ(textParam("id")).AND(mine))),
		list: prepare(a.SELECT(a.AllColumns).
			WHERE(mine.AND(postgres.RawBool(`id < #before::text collate "C"`, postgres.RawArgs{"#before": param("before")}))).
			ORDER_BY(a.ID.DESC()).LIMIT(anyLimit)),
	}
}

const createArtifactSQL = `
insert into artifacts (id, organization_id, name, content_type, location, retained_until)
values ($1, $2, $3, $4, $5, now() + $6 * interval '1 millisecond')`

// CreateArtifact notes that an upload has begun. Of a, id, organization, name,
// content type and location are read. The upload counts as dead when it was not
// renewed for alive.
func (s *Store) CreateArtifact(ctx context.Context, a *Artifact, alive time.Duration) error {
	return s.exec(ctx, "noting an upload", createArtifactSQL, a.ID, a.OrganizationID, a.Name, a.ContentType, a.Location, alive.Milliseconds())
}

const appendChunkSQL = `insert into artifact_chunks (artifact_id, seq, data) values ($1, $2, $3)`

// AppendChunk writes one chunk of an artifact. It does not wait for the disk:
// FinishArtifact does, and with it everything that was written before is safe.
func (s *Store) AppendChunk(ctx context.Context, id string, seq int, data []byte) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	_, err := s.bulk.Exec(ctx, appendChunkSQL, id, seq, data)
	return wrap("writing a chunk of an artifact", err)
}

const renewUploadSQL = `
update artifacts set retained_until = now() + $2 * interval '1 millisecond', updated_at = now()
where id = $1 and state = 'uploading' returning id`

// RenewUpload says that an upload is still under way; ErrNotFound where it was
// given up.
func (s *Store) RenewUpload(ctx context.Context, id string, alive time.Duration) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	return wrap("renewing an upload", s.relaxed.QueryRow(ctx, renewUploadSQL, id, alive.Milliseconds()).Scan(&id))
}

const finishArtifactSQL = `
update artifacts set state = 'ready', size = $2, sha256 = $3, retained_until = now() + $4 * interval '1 millisecond', updated_at = now()
where id = $1 and state = 'uploading' returning *`

// FinishArtifact makes an uploaded artifact usable, durably, and returns it;
// ErrNotFound where its upload was given up.
func (s *Store) FinishArtifact(ctx context.Context, id string, size int64, sha256 []byte, retention time.Duration) (Artifact, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.durable.Query(ctx, finishArtifactSQL, id, size, sha256, retention.Milliseconds())
	if err != nil {
		return Artifact{}, wrap("finishing an upload", err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Artifact])
	return a, wrap("finishing an upload", err)
}

const abandonArtifactSQL = `
update artifacts set state = 'deleting', retained_until = now(), updated_at = now() where id = $1 and state = 'uploading'`

// AbandonArtifact gives an upload up: the next sweep deletes it.
func (s *Store) AbandonArtifact(ctx context.Context, id string) error {
	return s.exec(ctx, "giving up an upload", abandonArtifactSQL, id)
}

// Artifact returns an artifact of an organization, in whatever state.
func (s *Store) Artifact(ctx context.Context, organization, id string) (Artifact, error) {
	if !holdable(organization, id) {
		return Artifact{}, wrap("reading an artifact", pgx.ErrNoRows)
	}
	return one[Artifact](ctx, s, "reading an artifact", s.sql.artifact.one, values{"organization": organization, "id": id})
}

// Artifacts returns at most limit artifacts of an organization with ids before a
// given one, newest first. An empty before begins with the newest.
func (s *Store) Artifacts(ctx context.Context, organization, before string, limit int) ([]Artifact, error) {
	if before == "" {
		before = "b" // behind every art_
	}
	if !holdable(organization, before) {
		return nil, nil
	}
	return all[Artifact](ctx, s, "listing artifacts", s.sql.artifact.list, values{"organization": organization, "before": before, limitOf: int64(limit)})
}

const artifactChunkSQL = `select data from artifact_chunks where artifact_id = $1 and seq = $2`

// ArtifactChunk returns one chunk of an artifact, in the memory of into where it
// fits; ErrNotFound where there is none. One chunk a statement: a cursor would hold
// a snapshot, which keeps vacuum from cleaning the queue, for as long as the slowest
// peer takes.
func (s *Store) ArtifactChunk(ctx context.Context, id string, seq int, into []byte) ([]byte, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	data := pgtype.PreallocBytes(into[:cap(into)])
	err := s.bulk.QueryRow(ctx, artifactChunkSQL, id, seq).Scan(&data)
	return data, wrap("reading a chunk of an artifact", err)
}

func (s *Store) exec(ctx context.Context, doing, sql string, args ...any) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	_, err := s.durable.Exec(ctx, sql, args...)
	return wrap(doing, err)
}
