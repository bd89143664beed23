package api

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

const tagArtifacts = "Artifacts"

// Artifacts takes and shows artifacts. Its errors are as those of Deliveries.
type Artifacts interface {
	Put(ctx context.Context, caller Caller, u *ArtifactUpload) (*Artifact, error)
	Get(ctx context.Context, caller Caller, id string) (*Artifact, error)
	List(ctx context.Context, caller Caller, cursor string, limit int) (*ArtifactPage, error)
}

// ArtifactUpload is an artifact on its way in.
type ArtifactUpload struct {
	Name, ContentType string
	// Size as announced; negative: not known.
	Size int64
	// SHA256 as announced; empty: none.
	SHA256 []byte
	Body   io.Reader
}

// Artifact is a payload too large for a delivery's own JSON: any file.
type Artifact struct {
	ID            string     `json:"id" example:"art_0198c5f26f3a7c3c9d5a2b1e4f607182" doc:"Goes into payload.artifact of a delivery"`
	Name          string     `json:"name" doc:"File name"`
	ContentType   string     `json:"content_type"`
	Size          int64      `json:"size" doc:"Bytes; 0 while it is uploaded"`
	SHA256        string     `json:"sha256,omitempty" doc:"Hexadecimal; absent while it is uploaded"`
	State         string     `json:"state" enum:"uploading,ready" doc:"Deliveries take it when it is ready"`
	CreatedAt     time.Time  `json:"created_at"`
	RetainedUntil *time.Time `json:"retained_until,omitempty" doc:"It is kept at least until then, and as long as a delivery waits that needs it"`
}

// ArtifactPage is one page of a list of artifacts, newest first.
type ArtifactPage struct {
	Items []Artifact `json:"items"`
	Next  string     `json:"next_cursor,omitempty" doc:"Give it back as cursor for the next page; absent on the last"`
}

const (
	// uploadStall is how long a MiB of an upload may take: 17 kB/s.
	uploadStall = 60 * time.Second
	uploadPace  = 1 << 20
	// maxUploads bounds the uploads at once: each holds a few MiB and a connection.
	maxUploads = 16
)

func (a *API) registerArtifacts() {
	register(a, operation{
		id: "upload-artifact", method: http.MethodPost, path: "/v1/artifacts", tag: tagArtifacts, permission: submitDeliveries,
		summary:     "Upload an artifact",
		description: "The body is the file itself, of any type and of up to artifacts.max_size. 201 means that it is stored durably and has the size and digest that were announced. A delivery then names its id in payload.artifact. One that no delivery names is deleted after artifacts.retention.",
		status:      http.StatusCreated, media: "*/*",
		errors: []int{http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity},
	}, a.uploadArtifact)
	register(a, operation{
		id: "get-artifact", method: http.MethodGet, path: "/v1/artifacts/{id}", tag: tagArtifacts, permission: readDeliveries,
		summary: "Show an artifact", description: "What it is, not its content.", errors: []int{http.StatusNotFound},
	}, getArtifact)
	register(a, operation{
		id: "list-artifacts", method: http.MethodGet, path: "/v1/artifacts", tag: tagArtifacts, permission: readDeliveries,
		summary: "List artifacts, newest first",
	}, listArtifacts)
}

type uploadInput struct {
	Scope
	Name          string `query:"name" maxLength:"255" doc:"File name without a path; else that of Content-Disposition, else \"artifact\""`
	SHA256        string `query:"sha256" doc:"Digest that the body must have, 64 hexadecimal digits"`
	ContentType   string `header:"Content-Type" maxLength:"255" doc:"Media type of the file; application/octet-stream if absent"`
	Disposition   string `header:"Content-Disposition" maxLength:"1024" doc:"attachment; filename=\"report.csv\""`
	ContentDigest string `header:"Content-Digest" maxLength:"1024" doc:"As sha256, in the form of RFC 9530: sha-256=:BASE64:"`
	Digest        string `header:"Digest" maxLength:"1024" doc:"As sha256, in the form of RFC 3230: sha-256=BASE64"`
}

type uploadOutput struct {
	Location string `header:"Location" doc:"Where the artifact can be seen"`
	Body     *Artifact
}

func (a *API) uploadArtifact(ctx context.Context, s *Services, caller Caller, in *uploadInput) (*uploadOutput, error) {
	r := requestOf(ctx)
	upload, problem := in.upload(r.http.ContentLength)
	if problem != nil {
		return nil, problem
	}
	select {
	case a.uploads <- struct{}{}:
		defer func() { <-a.uploads }()
	default:
		p := newProblem(http.StatusServiceUnavailable, CodeOverloaded, "Too many artifacts are being uploaded; try again shortly.")
		p.retryAfter = budgetWait
		return nil, p
	}
	body := &pacedBody{body: r.http.Body, control: http.NewResponseController(r.writer)}
	body.extend()
	upload.Body = body
	artifact, err := s.Artifacts.Put(ctx, caller, upload)
	body.extend()
	if body.err != nil && err != nil {
		return nil, readProblem(body.err, 0)
	}
	if err != nil {
		return nil, err
	}
	return &uploadOutput{Location: "/v1/artifacts/" + artifact.ID, Body: artifact}, nil
}

// pacedBody reads a body for as long as it comes: the server's own limit of a
// request is for small ones.
type pacedBody struct {
	body    io.Reader
	control *http.ResponseController
	left    int // bytes until the time is extended
	err     error
}

// extend gives the next MiB, and the answer, their time.
func (b *pacedBody) extend() {
	b.left = uploadPace
	now := time.Now()
	_ = b.control.SetReadDeadline(now.Add(uploadStall)) // a writer without deadlines is a test's
	_ = b.control.SetWriteDeadline(now.Add(2 * uploadStall))
}

// Read implements io.Reader.
func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if b.left -= n; b.left <= 0 {
		b.extend()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// upload checks what was said of the body.
func (in *uploadInput) upload(length int64) (*ArtifactUpload, *Problem) {
	u := &ArtifactUpload{Name: in.Name, ContentType: in.ContentType, Size: length}
	if u.Name == "" && in.Disposition != "" {
		_, params, err := mime.ParseMediaType(in.Disposition)
		if err != nil {
			return nil, invalidHeader("Content-Disposition", `must be like attachment; filename="report.csv"`)
		}
		// A path in it is the client's own affair, RFC 6266 section 4.3.
		u.Name = path.Base(strings.ReplaceAll(params["filename"], `\`, "/"))
		if u.Name == "." || u.Name == "/" {
			u.Name = ""
		}
	}
	if u.Name == "" {
		u.Name = "artifact"
	}
	if !fileName(u.Name) {
		return nil, invalidParameter("name", "must be a file name of at most 255 bytes, without a path and without control characters")
	}
	if u.ContentType == "" {
		u.ContentType = "application/octet-stream"
	}
	if _, _, err := mime.ParseMediaType(u.ContentType); err != nil || !printableText(u.ContentType) {
		return nil, invalidHeader("Content-Type", "must be a media type, such as text/csv")
	}
	var problem *Problem
	u.SHA256, problem = in.digest()
	return u, problem
}

// fileName reports whether a name is safe as that of a file at any peer.
func fileName(name string) bool {
	return len(name) <= 255 && utf8.ValidString(name) && name != "." && name != ".." && strings.TrimSpace(name) == name &&
		!strings.ContainsAny(name, `/\`) && !strings.ContainsFunc(name, unicode.IsControl)
}

func printableText(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// digest returns the one SHA-256 that was announced.
func (in *uploadInput) digest() (sum []byte, _ *Problem) {
	for _, said := range []struct {
		value string
		read  func(string) ([]byte, bool)
		wrong *Problem
	}{
		{in.SHA256, hexDigest, invalidParameter("sha256", "must be 64 hexadecimal digits, as sha256sum prints them")},
		{in.ContentDigest, contentDigest, invalidHeader("Content-Digest", "must hold sha-256=:BASE64:")},
		{in.Digest, plainDigest, invalidHeader("Digest", "must hold sha-256=BASE64")},
	} {
		if said.value == "" {
			continue
		}
		one, ok := said.read(said.value)
		if !ok || sum != nil && string(one) != string(sum) {
			return nil, said.wrong
		}
		sum = one
	}
	return sum, nil
}

func hexDigest(value string) ([]byte, bool) {
	sum, err := hex.DecodeString(value)
	return sum, err == nil && len(sum) == 32
}

func contentDigest(value string) ([]byte, bool) {
	return listedDigest(value, func(v string) (string, bool) {
		inner, ok := strings.CutPrefix(v, ":")
		inner, end := strings.CutSuffix(inner, ":")
		return inner, ok && end
	})
}

func plainDigest(value string) ([]byte, bool) {
	return listedDigest(value, func(v string) (string, bool) { return v, true })
}

// listedDigest finds the SHA-256 among the digests of a header.
func listedDigest(value string, unwrap func(string) (string, bool)) ([]byte, bool) {
	for member := range strings.SplitSeq(value, ",") {
		name, text, _ := strings.Cut(strings.TrimSpace(member), "=")
		if !strings.EqualFold(name, "sha-256") {
			continue
		}
		inner, ok := unwrap(text)
		if !ok {
			return nil, false
		}
		sum, err := base64.StdEncoding.DecodeString(inner)
		return sum, err == nil && len(sum) == 32
	}
	return nil, false
}

func invalidParameter(name, detail string) *Problem {
	p := newProblem(http.StatusUnprocessableEntity, CodeInvalidRequest, "%s %s", name, detail)
	p.Errors = []FieldProblem{{Parameter: name, Detail: detail}}
	return p
}

func invalidHeader(name, detail string) *Problem {
	p := newProblem(http.StatusUnprocessableEntity, CodeInvalidRequest, "%s %s", name, detail)
	p.Errors = []FieldProblem{{Header: name, Detail: detail}}
	return p
}

type artifactInput struct {
	Scope
	ID string `path:"id" maxLength:"255" doc:"The artifact's id"`
}

type artifactOutput struct{ Body *Artifact }

func getArtifact(ctx context.Context, s *Services, caller Caller, in *artifactInput) (*artifactOutput, error) {
	artifact, err := s.Artifacts.Get(ctx, caller, in.ID)
	if err != nil {
		return nil, err
	}
	return &artifactOutput{artifact}, nil
}

type artifactsInput struct {
	Scope
	Cursor string `query:"cursor" maxLength:"255" doc:"next_cursor of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Items on a page"`
}

type artifactsOutput struct{ Body *ArtifactPage }

func listArtifacts(ctx context.Context, s *Services, caller Caller, in *artifactsInput) (*artifactsOutput, error) {
	page, err := s.Artifacts.List(ctx, caller, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	if page.Items == nil {
		page.Items = []Artifact{}
	}
	return &artifactsOutput{page}, nil
}

// binary documents a body that is a file.
func binary() *huma.Schema { return &huma.Schema{Type: huma.TypeString, Format: "binary"} }
