package webhook

import (
	"encoding/base64"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxPooled keeps a rare large body from staying in memory for ever.
const maxPooled = 256 << 10

// body is a request body that knows how much of it was read and gives its
// buffer back when it is closed. net/http may read and close a body after
// RoundTrip returned, so both happen under a lock, and a late read finds it closed.
type body struct {
	mu     sync.Mutex
	buffer *[]byte
	bytes  []byte
	offset int
	closed bool
	sent   atomic.Bool // the whole body was handed to the connection
	values [6]string   // of the request's own headers; here to share the allocation
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func newBody() *body {
	buffer := buffers.Get().(*[]byte)
	return &body{buffer: buffer, bytes: (*buffer)[:0]}
}

// Read hands out the body.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, io.ErrClosedPipe
	}
	n := copy(p, b.bytes[b.offset:])
	b.offset += n
	if b.offset == len(b.bytes) {
		b.sent.Store(true)
		return n, io.EOF
	}
	return n, nil
}

// Close gives the buffer back, once.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if cap(b.bytes) <= maxPooled {
		*b.buffer = b.bytes[:0]
		buffers.Put(b.buffer)
	}
	b.buffer, b.bytes = nil, nil
	return nil
}

// appendEnvelope appends the JSON body. data and metadata are JSON already and
// go in byte for byte; other content goes in as data_base64, as in CloudEvents.
func appendEnvelope(dst []byte, d *transport.Delivery) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, d.ID)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, d.Type)
	dst = append(dst, `,"timestamp":"`...)
	dst = d.CreatedAt.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","organization_id":`...)
	dst = appendString(dst, d.OrganizationID)
	switch {
	case !isJSON(d.ContentType):
		dst = append(dst, `,"data_content_type":`...)
		dst = appendString(dst, d.ContentType)
		dst = append(dst, `,"data_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, d.Data)
		dst = append(dst, '"')
	case len(d.Data) == 0:
		dst = append(dst, `,"data":null`...)
	default:
		dst = append(dst, `,"data":`...)
		dst = append(dst, d.Data...)
	}
	dst = append(dst, `,"metadata":`...)
	if len(d.Metadata) == 0 {
		return append(dst, "{}}"...)
	}
	dst = append(dst, d.Metadata...)
	return append(dst, '}')
}

func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// appendString appends s as a JSON string (RFC 8259): quotes, backslashes and
// control characters escaped, broken UTF-8 replaced.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
