package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"time"
)

// request is what the API knows of one HTTP request. It is made once, by the
// outermost handler, and filled on the way in: one context value and one copy of
// the http.Request for all of it, since this is on the path of every submission.
type request struct {
	id     string
	caller Caller
	http   *http.Request
	writer http.ResponseWriter
	status int
}

// Caller is who makes a request: what its API key says.
type Caller struct {
	// Key is the name of the API key.
	Key string
	// Organization is whose things the request is about.
	Organization string
	// Role decides what the caller may do.
	Role Role
	// Fleet says that the key is one of all organizations.
	Fleet bool
	// RequestID names the request in the log and in the audit log.
	RequestID string
}

type requestKey struct{}

// requestOf returns the request of a context; never nil.
func requestOf(ctx context.Context) *request {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		return r
	}
	return &request{}
}

// maxIDSize bounds what a client may choose as a request id: the columns that an
// id can end in hold 255 characters.
const maxIDSize = 128

// requestID takes the client's id, so that its log and ours can be joined, or
// makes one. What could break a log line or a header is not taken.
func requestID(header http.Header) string {
	if id := header.Get("X-Request-Id"); id != "" && len(id) <= maxIDSize && printable(id) {
		return id
	}
	var raw [12]byte
	rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}

// printable reports whether text is visible ASCII.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// WriteHeader notes the status for log and metrics.
func (r *request) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.writer.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *request) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.writer.Write(b)
}

// Header implements http.ResponseWriter.
func (r *request) Header() http.Header { return r.writer.Header() }

// Unwrap lets http.ResponseController reach the connection.
func (r *request) Unwrap() http.ResponseWriter { return r.writer }

// await lifts the time limits of the connection: the answer takes as long as it
// takes. The one of reading counts as well, since its end would end the context.
func (r *request) await() {
	control := http.NewResponseController(r.writer)
	_ = control.SetReadDeadline(time.Time{}) // a writer without deadlines is a test's
	_ = control.SetWriteDeadline(time.Time{})
}
