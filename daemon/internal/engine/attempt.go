package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// attempt is one entry of delivery_logs.attempts; fields that are empty are left out
// there.
type attempt struct {
	At         time.Time
	Class      string
	Code       string
	Status     uint32
	DurationMS int64
	Message    string
	Probe      bool
	Daemon     string
}

// encodeAttempt returns the attempts array with this one attempt.
func encodeAttempt(a *attempt, excerpt []byte) []byte {
	b := make([]byte, 0, 256+len(a.Message)+len(excerpt)+len(excerpt)/2)
	b = append(b, `[{"at":"`...)
	b = a.At.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	b = appendField(b, "class", a.Class)
	b = appendField(b, "code", a.Code)
	if a.Status != 0 {
		b = strconv.AppendUint(append(b, `,"status":`...), uint64(a.Status), 10)
	}
	b = strconv.AppendInt(append(b, `,"duration_ms":`...), a.DurationMS, 10)
	b = appendField(b, "message", a.Message)
	switch {
	case utf8.Valid(excerpt) && bytes.IndexByte(excerpt, 0) < 0:
		b = appendField(b, "excerpt", string(excerpt))
	default: // the peer's answer is not text
		b = appendField(b, "excerpt_base64", base64.StdEncoding.EncodeToString(excerpt))
	}
	if a.Probe {
		b = append(b, `,"probe":true`...)
	}
	b = appendField(b, "daemon", a.Daemon)
	return append(b, "}]"...)
}

// appendField appends a member to an object that has one, unless the value is
// empty. These objects are built by hand since encoding/json takes four times as
// long, and there are two for every attempt.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return appendText(b, value)
}

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte {
	if plain(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	text, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // no string makes it fail
	}
	return append(b, bytes.ReplaceAll(text, []byte(`\u0000`), []byte(`\ufffd`))...) // jsonb holds no NUL
}

// plain reports whether a text needs no escape in JSON.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// plainAttempt is an attempts array with nothing from outside in it.
func plainAttempt(outcome string) []byte {
	return fmt.Appendf(nil, `[{"at":%q,"class":%q,"duration_ms":0}]`, time.Now().UTC().Format(time.RFC3339Nano), outcome)
}

// object is delivery_logs.object_details: what was delivered, never its data.
func object(it *item) []byte {
	size := int64(len(it.Payload))
	if it.artifact != nil {
		size = it.artifact.Size
	}
	b := make([]byte, 0, 128)
	b = strconv.AppendInt(append(b, `{"bytes":`...), size, 10)
	b = appendField(b, "type", it.kind)
	b = appendField(b, "item_id", it.ID)
	if a := it.artifact; a != nil {
		b = append(append(b, `,"artifact":`...), artifactObject(a)...)
	}
	return append(b, '}')
}

// artifactObject is what the log keeps of an artifact, which itself is deleted later.
func artifactObject(a *store.Artifact) []byte {
	text, err := json.Marshal(map[string]string{
		"id": a.ID, "name": a.Name, "content_type": a.ContentType, "sha256": hex.EncodeToString(a.Sha256),
	})
	if err != nil {
		return []byte("null") // no strings make it fail
	}
	return bytes.ReplaceAll(text, []byte(`\u0000`), []byte(`\ufffd`))
}

// reference returns the peer's reference as the column can hold it.
func reference(s *transportv1.Success) *string {
	ref := s.GetReference()
	if ref == "" {
		return nil
	}
	return &ref
}

// details returns delivery_logs.details, nil if there are none.
func details(s *transportv1.Success) []byte {
	if len(s.GetDetails()) == 0 {
		return nil
	}
	text, err := json.Marshal(s.GetDetails())
	if err != nil {
		return nil
	}
	return bytes.ReplaceAll(text, []byte(`\u0000`), []byte(`\ufffd`))
}
