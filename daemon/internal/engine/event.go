package engine

import (
	"github.com/tidwall/gjson"
)

// event is a payload taken apart.
type event struct {
	kind     string
	data     []byte
	metadata []byte
}

// splitPayload reads a payload of the form {"type", "data", "metadata"}. Anything
// else, such as what a producer of its own mind inserted by SQL, is data as a
// whole: a payload with one more key is not taken apart, since the key would be
// lost. PostgreSQL has checked that it is JSON.
func splitPayload(payload []byte) event {
	whole := event{data: payload}
	root := gjson.ParseBytes(payload)
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
		case key.Str == "metadata" && value.IsObject():
			e.metadata = slice(payload, value)
		default:
			known = false
		}
		return known
	})
	if !known || e.data == nil {
		return whole
	}
	return e
}

// slice returns the bytes of value without a copy.
func slice(payload []byte, value gjson.Result) []byte {
	return payload[value.Index : value.Index+len(value.Raw)]
}
