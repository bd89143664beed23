// Package artifact keeps payloads that are too large for a queue row: in the
// database, or in a bucket or folder. It streams them in and out, checks what it
// took and what it gives back against their SHA-256, and deletes what nothing
// needs any more.
//
// It must never hold more than a few chunks of an artifact in memory, call
// usable what is not wholly and durably stored, or delete what a queued row
// refers to.
package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

var (
	// ErrTooLarge is wrapped by Put where a body is longer than Options.MaxSize.
	ErrTooLarge = errors.New("artifact is too large")
	// ErrMismatch is wrapped by Put where a body differs from what was announced.
	ErrMismatch = errors.New("artifact differs from what was announced")
	// ErrBody is wrapped by Put where the body could not be read to its end.
	ErrBody = errors.New("reading the artifact's body")
	// ErrDamaged is wrapped by a Reader whose content is not what was stored.
	ErrDamaged = errors.New("artifact is damaged in its store")
	// ErrElsewhere is wrapped by Open where an artifact is in another bucket than
	// the configured one.
	ErrElsewhere = errors.New("artifact is in another store than the configured one")
	// ErrNotFound is wrapped where there is no such artifact in the organization.
	ErrNotFound = store.ErrNotFound
	// ErrUnavailable is wrapped where the store cannot work now: try again.
	ErrUnavailable = store.ErrUnavailable
)

const (
	// aliveFor is how long an upload lasts that is not renewed.
	aliveFor = 15 * time.Minute
	// renewEvery is how often an upload is renewed.
	renewEvery = time.Minute
	// largeSize is what is told to Options.Large: a transfer of less ends before it
	// can make much garbage.
	largeSize = 1 << 20
	// readSize is how much of a body is read at a time.
	readSize = 64 << 10
)

// Options of a Service.
type Options struct {
	// Store is required.
	Store *store.Store
	// URL names a bucket or folder: s3://bucket?region=..., file:///folder. Defaults
	// to the database.
	URL string
	// MaxSize is the most bytes of an artifact. Defaults to 5 GiB.
	MaxSize int64
	// Retention is how long an artifact is kept after its upload, and after the last
	// delivery that needed it has ended. Defaults to 24 h.
	Retention time.Duration
	// Large is called when the transfer of a large artifact begins, and what it
	// returns when that has ended. Defaults to nothing.
	Large func() (end func())
	// Logger is required.
	Logger *slog.Logger
}

// Service is safe for concurrent use.
type Service struct {
	store     *store.Store
	chunks    backend
	bucket    *bucket // nil: artifacts go to the database
	maxSize   int64
	retention time.Duration
	onLarge   func() (end func())
	log       *slog.Logger
}

// backend keeps bytes by the ids of artifacts.
type backend interface {
	// write returns a writer of a new artifact.
	write(ctx context.Context, id string) (writer, error)
	// read returns the bytes of an artifact.
	read(ctx context.Context, id string) (io.ReadCloser, error)
}

// writer takes the bytes of an artifact. One of commit and abort ends it.
type writer interface {
	io.Writer
	// commit returns when everything is stored as durably as FinishArtifact needs.
	commit() error
	abort()
}

// Open returns a service. A bucket is not asked for anything yet.
func Open(ctx context.Context, o Options) (*Service, error) {
	s := &Service{store: o.Store, chunks: chunks{o.Store}, maxSize: o.MaxSize, retention: o.Retention, onLarge: o.Large, log: o.Logger}
	if s.maxSize <= 0 {
		s.maxSize = 5 << 30
	}
	if s.retention <= 0 {
		s.retention = 24 * time.Hour
	}
	if o.URL == "" {
		return s, nil
	}
	var err error
	s.bucket, err = openBucket(ctx, o.URL)
	return s, err
}

// Close ends the connection to a bucket.
func (s *Service) Close() error {
	if s.bucket == nil {
		return nil
	}
	return s.bucket.close()
}

// MaxSize is the most bytes of an artifact.
func (s *Service) MaxSize() int64 { return s.maxSize }

// Announced is what a client says of an artifact that it uploads.
type Announced struct {
	Organization string
	// Name is a file name without a path, and ContentType its media type; at most 255
	// characters each.
	Name, ContentType string
	// Size in bytes; negative: not known.
	Size int64
	// SHA256 is the digest that the body must have; empty: any.
	SHA256 []byte
}

// Put stores a body and returns when it is durably there. Errors wrap ErrTooLarge,
// ErrMismatch, ErrBody, ErrUnavailable, or are the bucket's. Nothing is usable then,
// and what was stored of it is deleted by a sweep.
func (s *Service) Put(ctx context.Context, a Announced, body io.Reader) (store.Artifact, error) {
	if a.Size > s.maxSize {
		return store.Artifact{}, s.tooLarge()
	}
	id, err := newID()
	if err != nil {
		return store.Artifact{}, err
	}
	row := store.Artifact{ID: id, OrganizationID: a.Organization, Name: a.Name, ContentType: a.ContentType}
	to := s.chunks
	if s.bucket != nil {
		row.Location, to = &s.bucket.location, s.bucket
	}
	if err := s.store.CreateArtifact(ctx, &row, aliveFor); err != nil {
		return store.Artifact{}, err
	}
	defer s.large(a.Size)()
	size, digest, err := s.take(ctx, to, id, &a, body)
	if err == nil {
		row, err = s.store.FinishArtifact(ctx, id, size, digest, s.retention)
	}
	if err != nil {
		s.giveUp(ctx, id)
		return store.Artifact{}, fmt.Errorf("storing artifact %q: %w", a.Name, err)
	}
	return row, nil
}

// large begins a transfer of size bytes; negative: not known.
func (s *Service) large(size int64) (end func()) {
	if s.onLarge == nil || size >= 0 && size < largeSize {
		return func() {}
	}
	return s.onLarge()
}

// giveUp leaves an upload to the sweep, at once where the database can be reached.
func (s *Service) giveUp(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.store.AbandonArtifact(ctx, id); err != nil {
		s.log.Debug("an upload that failed is deleted when it counts as dead", "artifact", id, "error", err)
	}
}

// take moves the body into a backend and checks it.
func (s *Service) take(ctx context.Context, to backend, id string, a *Announced, body io.Reader) (size int64, digest []byte, err error) {
	w, err := to.write(ctx, id)
	if err != nil {
		return 0, nil, err
	}
	size, digest, err = s.copy(ctx, w, id, body)
	if err == nil {
		err = a.check(size, digest)
	}
	if err != nil {
		w.abort()
		return 0, nil, err
	}
	return size, digest, w.commit()
}

func (s *Service) copy(ctx context.Context, w io.Writer, id string, body io.Reader) (size int64, digest []byte, err error) {
	hash := sha256.New()
	buffer := make([]byte, readSize)
	renewed := time.Now()
	for {
		n, err := body.Read(buffer)
		if size += int64(n); size > s.maxSize {
			return 0, nil, s.tooLarge()
		}
		hash.Write(buffer[:n])
		if _, err := w.Write(buffer[:n]); err != nil {
			return 0, nil, err
		}
		if err == io.EOF { // not what a broken connection says, wrapped
			return size, hash.Sum(nil), nil
		}
		if err != nil {
			return 0, nil, fmt.Errorf("%w: %w", ErrBody, err)
		}
		if time.Since(renewed) > renewEvery {
			if err := s.store.RenewUpload(ctx, id, aliveFor); err != nil {
				return 0, nil, err
			}
			renewed = time.Now()
		}
	}
}

func (s *Service) tooLarge() error {
	return fmt.Errorf("%w: at most %d bytes are taken", ErrTooLarge, s.maxSize)
}

func (a *Announced) check(size int64, digest []byte) error {
	if a.Size >= 0 && a.Size != size {
		return fmt.Errorf("%w: %d bytes came, %d were announced", ErrMismatch, size, a.Size)
	}
	if len(a.SHA256) > 0 && string(a.SHA256) != string(digest) {
		return fmt.Errorf("%w: its SHA-256 is %x, announced was %x", ErrMismatch, digest, a.SHA256)
	}
	return nil
}

// Get returns an artifact of an organization, also while it is being uploaded;
// ErrNotFound where there is none, or it is being deleted.
func (s *Service) Get(ctx context.Context, organization, id string) (store.Artifact, error) {
	a, err := s.store.Artifact(ctx, organization, id)
	if err == nil && a.State == store.ArtifactDeleting {
		return store.Artifact{}, fmt.Errorf("artifact %s is being deleted: %w", id, ErrNotFound)
	}
	return a, err
}

// List returns at most limit artifacts of an organization before a given id, newest first.
func (s *Service) List(ctx context.Context, organization, before string, limit int) ([]store.Artifact, error) {
	return s.store.Artifacts(ctx, organization, before, limit)
}

// Open returns the content of an artifact that is ready. Reading ends with io.EOF
// only after size and digest were found right, else with ErrDamaged. Errors wrap
// ErrUnavailable, ErrElsewhere, or are the bucket's.
func (s *Service) Open(ctx context.Context, a *store.Artifact) (io.ReadCloser, error) {
	from := s.chunks
	if a.Location != nil {
		if s.bucket == nil || s.bucket.location != *a.Location {
			return nil, fmt.Errorf("artifact %s: %w: it is in %s", a.ID, ErrElsewhere, *a.Location)
		}
		from = s.bucket
	}
	body, err := from.read(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	return &verified{ReadCloser: body, hash: sha256.New(), left: a.Size, want: a.Sha256, end: sync.OnceFunc(s.large(a.Size))}, nil
}

// newID makes an artifact's id.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("making an artifact's id: %w", err)
	}
	return store.ArtifactPrefix + hex.EncodeToString(id[:]), nil
}
