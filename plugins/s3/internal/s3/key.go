package s3

import (
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/sdk/envelope"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxKey is the limit of S3, in bytes.
const maxKey = 1024

// keyTemplate is a key with placeholders: text and names in turn, text first.
type keyTemplate []string

// placeholders lists what a template may hold.
func placeholders() []string {
	return []string{"{organization}", "{destination}", "{delivery_id}", "{type}", "{yyyy}", "{mm}", "{dd}", "{filename}", "{ext}", "{sha256}"}
}

// parseKey reads a template. What it lets through can still become too long,
// and nothing else.
func parseKey(text string) (keyTemplate, error) {
	var t keyTemplate
	rest := text
	for {
		before, after, found := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return nil, errors.New("a '}' without its '{'")
		}
		t = append(t, before)
		if !found {
			break
		}
		name, next, closed := strings.Cut(after, "}")
		if !closed {
			return nil, errors.New("a '{' without its '}'")
		}
		if !known(name) {
			return nil, fmt.Errorf("unknown placeholder {%.40s}", name)
		}
		t = append(t, name)
		rest = next
	}
	return t, checkSegments(text)
}

func known(name string) bool {
	for _, p := range placeholders() {
		if p == "{"+name+"}" {
			return true
		}
	}
	return false
}

// checkSegments finds what some servers and most tools read as a way out of the
// directory: an S3 server over a file system is one of them.
func checkSegments(key string) error {
	switch {
	case !utf8.ValidString(key):
		return errors.New("not valid UTF-8")
	case strings.ContainsFunc(key, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' }):
		return errors.New("a key may hold neither control characters nor backslashes")
	}
	for segment := range strings.SplitSeq(key, "/") {
		switch segment {
		case "":
			return errors.New("an empty segment: a key may neither start nor end with '/', nor hold '//'")
		case ".", "..":
			return fmt.Errorf("a segment %q, which leads to another directory", segment)
		}
	}
	return nil
}

// has says whether the template holds a placeholder.
func (t keyTemplate) has(name string) bool {
	for i := 1; i < len(t); i += 2 {
		if t[i] == name {
			return true
		}
	}
	return false
}

// expand makes the key of a delivery, the same at each attempt. Its error means
// that this delivery can have no key.
func (t keyTemplate) expand(d *transport.Delivery, label string, digest [32]byte) (string, error) {
	var b strings.Builder
	for i, part := range t {
		if i%2 == 0 {
			b.WriteString(part)
			continue
		}
		b.WriteString(segment(keyValue(part, d, label, digest)))
	}
	key := b.String()
	if len(key) > maxKey {
		return "", fmt.Errorf("the key has %d bytes, S3 takes %d", len(key), maxKey)
	}
	return key, checkSegments(key)
}

func keyValue(name string, d *transport.Delivery, label string, digest [32]byte) string {
	switch name {
	case "organization":
		return d.OrganizationID
	case "destination":
		return label
	case "delivery_id":
		return d.DeliveryID
	case "type":
		return d.Type
	case "yyyy":
		return d.CreatedAt.UTC().Format("2006")
	case "mm":
		return d.CreatedAt.UTC().Format("01")
	case "dd":
		return d.CreatedAt.UTC().Format("02")
	case "filename":
		return fileName(d)
	case "ext":
		return extension(d)
	default:
		return hex.EncodeToString(digest[:])
	}
}

// segment keeps a value in its place. It is injective, so that two values never
// share a key.
func segment(value string) string {
	if value == "" {
		return "_"
	}
	if strings.Trim(value, ".") == "" || value == "_" {
		return strings.NewReplacer(".", "%2E", "_", "%5F").Replace(value)
	}
	var b strings.Builder
	for i := range len(value) {
		c := value[i]
		if c < 0x20 || c == 0x7f || c == '/' || c == '\\' || c == '%' || (c >= 0x80 && !utf8.ValidString(value)) {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// fileName of an artifact, or what a payload would be called as a file.
func fileName(d *transport.Delivery) string {
	if d.Artifact != nil && d.Artifact.Name != "" {
		return d.Artifact.Name
	}
	return d.DeliveryID + "." + extension(d)
}

// extension without its dot; never empty, so that "{delivery_id}.{ext}" always
// is a name.
func extension(d *transport.Delivery) string {
	contentType := d.ContentType
	if d.Artifact != nil {
		if i := strings.LastIndexByte(d.Artifact.Name, '.'); i > 0 && i < len(d.Artifact.Name)-1 {
			return d.Artifact.Name[i+1:]
		}
		contentType = d.Artifact.ContentType
	}
	return extensionOf(contentType)
}

// extensionOf knows what is delivered most. The system's table is no
// alternative: it differs from machine to machine, and with it the key.
func extensionOf(contentType string) string {
	if envelope.IsJSON(contentType) {
		return "json"
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "bin"
	}
	switch media {
	case "application/x-ndjson", "application/jsonl":
		return "ndjson"
	case "text/csv":
		return "csv"
	case "text/plain":
		return "txt"
	case "text/html":
		return "html"
	case "application/xml", "text/xml":
		return "xml"
	case "application/pdf":
		return "pdf"
	case "application/zip":
		return "zip"
	case "application/gzip", "application/x-gzip":
		return "gz"
	case "application/zstd":
		return "zst"
	case "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet":
		return "xlsx"
	case "application/vnd.apache.parquet":
		return "parquet"
	}
	return "bin"
}
