package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestEncodeAttempt: whatever a plugin says, the attempt is JSON that PostgreSQL
// takes, and says the same.
func TestEncodeAttempt(t *testing.T) {
	t.Parallel()
	type decoded struct {
		At            time.Time `json:"at"`
		Class         string    `json:"class"`
		Code          string    `json:"code"`
		Status        uint32    `json:"status"`
		DurationMS    int64     `json:"duration_ms"`
		Message       string    `json:"message"`
		Excerpt       string    `json:"excerpt"`
		ExcerptBase64 string    `json:"excerpt_base64"`
		Probe         bool      `json:"probe"`
		Daemon        string    `json:"daemon"`
	}
	hostile := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,40}`), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(rt *rapid.T) {
		a := attempt{
			At: time.Unix(rapid.Int64Range(0, 1<<35).Draw(rt, "at"), rapid.Int64Range(0, 1e9-1).Draw(rt, "ns")).UTC(), Class: "transient",
			Code: hostile.Draw(rt, "code"), Status: rapid.Uint32().Draw(rt, "status"), DurationMS: rapid.Int64().Draw(rt, "ms"),
			Message: hostile.Draw(rt, "message"), Probe: rapid.Bool().Draw(rt, "probe"), Daemon: "d",
		}
		excerpt := []byte(hostile.Draw(rt, "excerpt"))
		text := encodeAttempt(&a, excerpt)
		var got []decoded
		if err := json.Unmarshal(text, &got); err != nil || len(got) != 1 {
			rt.Fatalf("%s: %v", text, err)
		}
		if bytes.Contains(text, []byte(`\u0000`)) || !utf8.Valid(text) {
			rt.Fatalf("%q is not for jsonb", text)
		}
		stored := func(s string) string { // as JSON can hold it
			return strings.ReplaceAll(string([]rune(s)), "\x00", "\ufffd")
		}
		want := decoded{At: a.At, Class: a.Class, Code: stored(a.Code), Status: a.Status, DurationMS: a.DurationMS, Message: stored(a.Message), Probe: a.Probe, Daemon: "d"}
		if utf8.Valid(excerpt) && bytes.IndexByte(excerpt, 0) < 0 {
			want.Excerpt = string(excerpt)
		} else {
			want.ExcerptBase64 = base64.StdEncoding.EncodeToString(excerpt)
		}
		if strings.Contains(string(excerpt)+a.Code+a.Message, `\u0000`) {
			return // the six characters themselves are changed, too
		}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			rt.Fatalf("(-want +got):\n%s", diff)
		}
	})
}
