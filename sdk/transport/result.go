package transport

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Bounds of the contract on what a result carries.
const (
	maxReference   = 255 // characters
	maxCode        = 64
	maxMessage     = 1 << 10 // bytes
	maxExcerpt     = 4 << 10
	maxResume      = 16 << 10
	maxDetails     = 16
	maxDetailKey   = 64
	maxDetailValue = 255
	maxUsedSecrets = 16
	maxRetryAfter  = 24 * time.Hour
	maxStatus      = 1 << 16
)

// result is the memory of one Result message with the parts it points to.
type result struct {
	id      string
	message transportv1.Result
	took    durationpb.Duration
	success transportv1.Success
	yes     transportv1.Result_Success
}

// fill turns what a Transport returned into the wire form, with every bound
// applied: a value beyond it is cut, since a cut excerpt is worth more than a
// lost result.
func (r *result) fill(receipt Receipt, err error, took time.Duration) *transportv1.Result {
	m := &r.message
	m.Id = r.id
	setDuration(&r.took, max(took, 0))
	m.Took = &r.took
	if len(receipt.UsedSecrets) > 0 {
		m.UsedSecrets = receipt.UsedSecrets[:min(len(receipt.UsedSecrets), maxUsedSecrets)]
	}
	if len(receipt.Resume) <= maxResume {
		m.Resume = receipt.Resume // half a state would be worse than none
	}
	if err != nil {
		m.Outcome = &transportv1.Result_Failure{Failure: failureOf(classified(err))}
		return m
	}
	r.success.Reference = clipRunes(receipt.Reference, maxReference)
	r.success.Status = clipStatus(receipt.Status)
	r.success.Excerpt = clipBytes(receipt.Excerpt, maxExcerpt)
	r.success.Details = clipDetails(receipt.Details)
	r.yes.Success = &r.success
	m.Outcome = &r.yes
	return m
}

// failureOf is the wire form of a classified error.
func failureOf(e *Error) *transportv1.Failure {
	f := &transportv1.Failure{
		Class: transportv1.Failure_Class(e.Class), Code: clipRunes(e.Code, maxCode), Message: clipString(e.Error(), maxMessage),
		Status: clipStatus(e.Status), Excerpt: clipBytes(e.Excerpt, maxExcerpt), Disable: e.Disable,
	}
	if _, known := transportv1.Failure_Class_name[int32(e.Class)]; !known || e.Class <= 0 {
		f.Class = transportv1.Failure_CLASS_TRANSIENT
	}
	if f.Code == "" {
		f.Code = Class(f.Class).String()
	}
	if e.RetryAfter > 0 {
		f.RetryAfter = durationpb.New(min(e.RetryAfter, maxRetryAfter))
	}
	return f
}

func setDuration(to *durationpb.Duration, d time.Duration) {
	to.Seconds = int64(d / time.Second)
	to.Nanos = int32(d % time.Second)
}

// clipString cuts s to n bytes of valid UTF-8: protobuf refuses to send
// anything else, and the whole batch would be lost with it.
func clipString(s string, n int) string {
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "?")
}

// clipRunes is clipString for bounds that are counted in characters.
func clipRunes(s string, n int) string {
	if len(s) > n {
		count := 0
		for i := range s {
			if count == n {
				s = s[:i]
				break
			}
			count++
		}
	}
	return clipString(s, len(s))
}

func clipBytes(b []byte, n int) []byte { return b[:min(len(b), n)] }

func clipStatus(status int) uint32 { return uint32(min(max(status, 0), maxStatus)) }

func clipDetails(details map[string]string) map[string]string {
	if len(details) == 0 {
		return nil
	}
	clipped := make(map[string]string, min(len(details), maxDetails))
	for _, key := range slices.Sorted(maps.Keys(details)) {
		if len(clipped) == maxDetails {
			break
		}
		clipped[clipRunes(key, maxDetailKey)] = clipRunes(details[key], maxDetailValue)
	}
	return clipped
}
