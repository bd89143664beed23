package conformance

import (
	"io"
	"net/http"
)

// NewS3Peer makes a Peer for transports that write objects by S3: NewHTTPPeer,
// whose answers have the form that clients of S3 insist on. It keeps nothing and
// checks no signature; a transport's own tests need a real server.
func NewS3Peer() (Peer, error) { return newHTTPPeer(asS3) }

// asS3 answers what is no delivery, and lets deliveries through.
func asS3(deliveries http.Handler) http.Handler {
	const etag = `"d41d8cd98f00b204e9800998ecf8427e"`
	answer := func(w http.ResponseWriter, name, content string) {
		w.Header().Set("Content-Type", "application/xml")
		_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><`+name+` xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`+content+`</`+name+`>`)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("ETag", etag)
			deliveries.ServeHTTP(w, r)
		case r.Method == http.MethodPost && query.Has("uploads"):
			answer(w, "InitiateMultipartUploadResult", `<UploadId>kit</UploadId>`)
		case r.Method == http.MethodPost && query.Has("uploadId"):
			answer(w, "CompleteMultipartUploadResult", `<ETag>`+etag+`</ETag>`)
		case r.Method == http.MethodGet && query.Has("uploads"):
			answer(w, "ListMultipartUploadsResult", "")
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}
