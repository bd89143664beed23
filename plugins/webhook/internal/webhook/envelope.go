package webhook

import (
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

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
