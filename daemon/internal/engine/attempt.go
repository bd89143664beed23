package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// attempt is one entry of delivery_logs.attempts.
type attempt struct {
	At         time.Time `json:"at"`
	Class      string    `json:"class"`
	Code       string    `json:"code,omitempty"`
	Status     uint32    `json:"status,omitempty"`
	DurationMS int64     `json:"duration_ms"`
	Message    string    `json:"message,omitempty"`
	Excerpt    string    `json:"excerpt,omitempty"`
	// ExcerptBase64 stands for Excerpt where the peer's answer is not text.
	ExcerptBase64 string `json:"excerpt_base64,omitempty"`
	Probe         bool   `json:"probe,omitempty"`
	Daemon        string `json:"daemon,omitempty"`
}

// encodeAttempt returns the attempts array with this one attempt.
func encodeAttempt(a *attempt, excerpt []byte) []byte {
	switch {
	case len(excerpt) == 0:
	case utf8.Valid(excerpt) && bytes.IndexByte(excerpt, 0) < 0:
		a.Excerpt = string(excerpt)
	default:
		a.ExcerptBase64 = base64.StdEncoding.EncodeToString(excerpt)
	}
	text, err := json.Marshal([1]*attempt{a})
	if err != nil {
		// A time out of range is all that could be wrong with it.
		return plainAttempt(a.Class)
	}
	return bytes.ReplaceAll(text, []byte(`\u0000`), []byte(`\ufffd`)) // jsonb holds no NUL
}

// plainAttempt is an attempts array with nothing from outside in it.
func plainAttempt(outcome string) []byte {
	return fmt.Appendf(nil, `[{"at":%q,"class":%q,"duration_ms":0}]`, time.Now().UTC().Format(time.RFC3339Nano), outcome)
}

// object is delivery_logs.object_details: what was delivered, never its data.
func object(it *item) []byte {
	details := struct {
		Type     string          `json:"type,omitempty"`
		Bytes    int64           `json:"bytes"`
		Item     string          `json:"item_id"`
		Artifact *artifactObject `json:"artifact,omitempty"`
	}{it.kind, int64(len(it.Payload)), it.ID, nil}
	if a := it.artifact; a != nil {
		details.Bytes = a.Size
		details.Artifact = &artifactObject{a.ID, a.Name, a.ContentType, hex.EncodeToString(a.Sha256)}
	}
	text, err := json.Marshal(details)
	if err != nil {
		return []byte(`{}`)
	}
	return bytes.ReplaceAll(text, []byte(`\u0000`), []byte(`\ufffd`))
}

// artifactObject is what the log keeps of an artifact, which itself is deleted later.
type artifactObject struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	ContentType string `json:"content_type"`
	SHA256      string `json:"sha256"`
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
