package engine

import (
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// event is a payload taken apart.
type event struct {
	kind     string
	data     []byte
	artifact string // its id, in place of data
	metadata []byte
}

// splitPayload reads a payload of the form {"type", "data", "metadata"}, or with the
// id of an artifact as "artifact" in place of "data". Anything
// else, such as what a producer of its own mind inserted by SQL, is data as a
// whole: a payload with one more key is not taken apart, since the key would be
// lost. PostgreSQL has checked that it is JSON.
func splitPayload(payload []byte) event {
	whole := event{data: payload}
	// Not ParseBytes, which copies: nobody changes a payload that was read.
	root := gjson.Parse(unsafe.String(unsafe.SliceData(payload), len(payload)))
	if !root.IsObject() {
		return whole
	}
	var e event
	known := true
	root.ForEach(func(key, value gjson.Result) bool {
		switch {
		case key.Str == "type" && value.Type == gjson.String:
			e.kind = value.Str
		case key.Str == "data":
			e.data = slice(payload, value)
		case key.Str == "artifact" && isArtifact(value.Str):
			e.artifact = value.Str
		case key.Str == "metadata" && value.IsObject():
			e.metadata = slice(payload, value)
		default:
			known = false
		}
		return known
	})
	if !known || (e.data == nil) == (e.artifact == "") {
		return whole
	}
	return e
}

// isArtifact reports whether a text has the form of an artifact's id; the trigger
// delivery_queue_artifact, which sees to it that there is such an artifact, has the
// same rule.
func isArtifact(id string) bool {
	digits, ok := strings.CutPrefix(id, store.ArtifactPrefix)
	return ok && len(digits) == 32 && strings.Trim(digits, "0123456789abcdef") == ""
}

// slice returns the bytes of value without a copy.
func slice(payload []byte, value gjson.Result) []byte {
	return payload[value.Index : value.Index+len(value.Raw)]
}
