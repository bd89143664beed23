package conformance

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Bounds of the contract.
const (
	maxReference  = 255
	maxCode       = 64
	maxMessage    = 1 << 10
	maxExcerpt    = 4 << 10
	maxResume     = 16 << 10
	maxRetryAfter = 24 * time.Hour
)

// checkResult checks the bounds of one result.
func checkResult(r *transportv1.Result) error {
	switch {
	case r.GetTook() == nil || r.GetTook().AsDuration() < 0:
		return fmt.Errorf("its length is %v", r.GetTook())
	case len(r.GetResume()) > maxResume:
		return fmt.Errorf("resume has %d bytes; at most %d are allowed", len(r.GetResume()), maxResume)
	}
	if s := r.GetSuccess(); s != nil {
		if utf8.RuneCountInString(s.GetReference()) > maxReference || len(s.GetExcerpt()) > maxExcerpt {
			return errors.New("reference or excerpt is too long")
		}
		return nil
	}
	f := r.GetFailure()
	switch {
	case f == nil:
		return errors.New("it says neither success nor failure")
	case f.GetClass() == transportv1.Failure_CLASS_UNSPECIFIED || transportv1.Failure_Class_name[int32(f.GetClass())] == "":
		return fmt.Errorf("class %v", f.GetClass())
	case f.GetCode() == "" || len(f.GetCode()) > maxCode:
		return fmt.Errorf("code %.100q: want 1 to %d characters", f.GetCode(), maxCode)
	case f.GetMessage() == "" || len(f.GetMessage()) > maxMessage:
		return fmt.Errorf("a message of %d bytes: want 1 to %d", len(f.GetMessage()), maxMessage)
	case len(f.GetExcerpt()) > maxExcerpt:
		return fmt.Errorf("an excerpt of %d bytes: want at most %d", len(f.GetExcerpt()), maxExcerpt)
	case f.GetRetryAfter() != nil && (f.GetRetryAfter().AsDuration() < 0 || f.GetRetryAfter().AsDuration() > maxRetryAfter):
		return fmt.Errorf("retry after %s: want at most %s", f.GetRetryAfter().AsDuration(), maxRetryAfter)
	}
	return nil
}
