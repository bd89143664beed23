package receiver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// File is what came under a name.
type File struct {
	// Size in bytes, and SHA256 in hexadecimal, of the last.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Times is how often a file came.
	Times int `json:"times"`
	// Last is when the last was complete, ns since 1970.
	Last int64 `json:"last"`
}

// file takes a file as a stream.
func (r *Receiver) file(w http.ResponseWriter, req *http.Request) {
	status := http.StatusNoContent
	if !r.takeFile(req) {
		status = http.StatusBadRequest
		r.mu.Lock()
		r.stats.Bad++
		r.mu.Unlock()
	}
	w.WriteHeader(status)
}

func (r *Receiver) takeFile(req *http.Request) bool {
	at, err := strconv.ParseInt(req.Header.Get(signature.HeaderTimestamp), 10, 64)
	if err != nil {
		return false
	}
	signed, err := signature.NewStream(req.Header.Get(signature.HeaderID), time.Unix(at, 0), nil, r.key)
	if err != nil {
		return false
	}
	digest := sha256.New()
	size, err := io.Copy(io.MultiWriter(digest, signed), req.Body)
	if err != nil || !slices.Contains(strings.Fields(req.Header.Get(signature.HeaderSignature)), signed.Header()) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := req.PathValue("name")
	r.files[name] = File{Size: size, SHA256: hex.EncodeToString(digest.Sum(nil)), Times: r.files[name].Times + 1, Last: time.Now().UnixNano()}
	return true
}

func (r *Receiver) writeFiles(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(r.files)
}
