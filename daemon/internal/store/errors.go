package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrNotFound is returned by reads and updates of one row that is not there,
	// or that belongs to another organization.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable is wrapped by every error that says "the database cannot be
	// reached or cannot work now": the caller may try again.
	ErrUnavailable = errors.New("database unavailable")
	// ErrBadData is wrapped where PostgreSQL refused a value (for example a JSON
	// text that jsonb cannot hold): trying again is no use.
	ErrBadData = errors.New("value refused by the database")
	// ErrArtifact is wrapped where a queue row names an artifact that its
	// organization does not have, or whose upload has not ended. It matches ErrBadData.
	ErrArtifact = fmt.Errorf("%w: no such artifact", ErrBadData)
	// ErrConflict is wrapped where a unique constraint was hit.
	ErrConflict = errors.New("already exists")
)

// artifactConstraint is what the trigger of that name says is violated.
const artifactConstraint = "delivery_queue_artifact"

// wrap interprets a database error, here and nowhere else.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if movedPartition(pg) {
			return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
		}
		if pg.ConstraintName == artifactConstraint {
			return fmt.Errorf("%s: %w: %w", doing, ErrArtifact, err)
		}
		return fmt.Errorf("%s: %w: %w", doing, sentinel(pg.Code), err)
	}
	var netErr net.Error
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) || errors.As(err, &netErr) || pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
	}
	// What is left comes from a connection that broke in mid-call ("unexpected
	// EOF", "conn closed") or from scanning; only the first kind is worth a retry.
	if pgconn.SafeToRetry(err) || isBrokenConn(err) {
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// errOther stands for SQLSTATEs that no caller decides on.
var errOther = errors.New("database error")

// sentinel maps an SQLSTATE by its class, see the PostgreSQL manual, appendix A.
func sentinel(code string) error {
	switch {
	case code == "23505":
		return ErrConflict
	case code == "25006": // read-only transaction: a standby, in the middle of a fail-over
		return ErrUnavailable
	case code[:2] == "22", code[:2] == "23", code == "54001": // data, constraint, too deeply nested
		return ErrBadData
	case code[:2] == "08", code[:2] == "40", code[:2] == "53", code[:2] == "57", code[:2] == "58", code == "55P03":
		return ErrUnavailable
	}
	return errOther
}

// movedPartition reports whether a row was on its way into the default partition
// while a partition for it was being attached: the same statement works now. The
// error has the code of a check constraint and, unlike one, no constraint's name.
func movedPartition(pg *pgconn.PgError) bool {
	return pg.Code == "23514" && pg.ConstraintName == ""
}

// holdable reports whether PostgreSQL can hold texts at all. It refuses a statement
// with any other one, and a look-up by such a text, which comes from outside, is no
// failure of ours: there is no such row.
func holdable(texts ...string) bool {
	for _, text := range texts {
		if strings.IndexByte(text, 0) >= 0 || !utf8.ValidString(text) {
			return false
		}
	}
	return true
}

func isBrokenConn(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return true
	}
	// pgx has no sentinel for these two.
	msg := err.Error()
	return strings.Contains(msg, "conn closed") || strings.Contains(msg, "closed pool")
}
