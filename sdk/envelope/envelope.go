// Package envelope is the JSON object in which a delivery travels where its
// receiver gets one body: id, type, timestamp, organization_id, data, metadata.
// Every transport that sends it sends the same bytes for the same delivery.
//
// It must never change the bytes of data: a receiver may hold a digest of them.
package envelope

import (
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Append appends the envelope of d to dst. data and metadata are JSON already and
// go in byte for byte; other content goes in as data_base64, as in CloudEvents.
func Append(dst []byte, d *transport.Delivery) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, d.ID)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, d.Type)
	dst = append(dst, `,"timestamp":"`...)
	dst = d.CreatedAt.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","organization_id":`...)
	dst = appendString(dst, d.OrganizationID)
	switch {
	case !IsJSON(d.ContentType):
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

// IsJSON says whether a body of this content type is JSON (RFC 8259, RFC 6839).
func IsJSON(contentType string) bool {
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
