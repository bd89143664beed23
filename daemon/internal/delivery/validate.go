package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// maxText is what the varchar(255) columns hold, in characters.
const maxText = 255

// minLife is the least time that a delivery must have between its scheduled time
// and its expiry.
const minLife = time.Second

// check reports the first thing that is wrong with a request in itself.
func (l *Limits) check(r *Request, now time.Time) *Problem {
	for _, p := range []*Problem{
		l.checkReferences(r),
		checkType(r.Payload.Type),
		l.checkPayload(&r.Payload),
		checkPriority(r.Priority),
		l.checkTimes(r, now),
		checkText("/idempotency_key", r.IdempotencyKey),
		checkText("/correlation_id", r.CorrelationID),
	} {
		if p != nil {
			return p
		}
	}
	return nil
}

func (l *Limits) checkReferences(r *Request) *Problem {
	n := len(r.Destinations)
	switch {
	case r.Default && n > 0:
		return problem(CodeInvalidRequest, "/destinations", "names destinations and asks for the default ones; it must be one of the two")
	case !r.Default && n == 0:
		return problem(CodeNoDestination, "/destinations", `is empty; it must name 1 to %d destinations by label or id, or be "default"`, l.MaxDestinations)
	case n > l.MaxDestinations:
		return problem(CodeTooManyDestinations, "/destinations", "names %d destinations; at most %d are allowed", n, l.MaxDestinations)
	}
	for i, ref := range r.Destinations {
		if p := checkText(fmt.Sprintf("/destinations/%d", i), ref); p != nil {
			return p
		}
	}
	return nil
}

func checkType(kind string) *Problem {
	if kind == "" {
		return problem(CodeInvalidPayload, "/payload/type", `is missing; it must name the kind of event, such as "order.paid"`)
	}
	return checkText("/payload/type", kind)
}

// checkText checks what goes into a varchar(255) column.
func checkText(field, text string) *Problem {
	switch {
	case !utf8.ValidString(text):
		return problem(CodeInvalidRequest, field, "is not UTF-8")
	case strings.IndexByte(text, 0) >= 0:
		return problem(CodeInvalidRequest, field, "holds a NUL character, which cannot be stored")
	case len(text) > maxText && utf8.RuneCountInString(text) > maxText:
		return problem(CodeInvalidRequest, field, "has %d characters; at most %d are allowed", utf8.RuneCountInString(text), maxText)
	}
	return nil
}

func (l *Limits) checkPayload(p *Payload) *Problem {
	if n := len(p.Type) + len(p.Data) + len(p.Metadata); n > l.MaxPayload {
		return problem(CodePayloadTooLarge, "/payload", "is %d bytes long; at most %d are allowed: upload what is larger with POST /v1/artifacts, and name its id in payload.artifact", n, l.MaxPayload)
	}
	switch {
	case p.Artifact != "" && len(p.Data) > 0:
		return problem(CodeInvalidPayload, "/payload/artifact", "stands beside data; a payload has one of the two")
	case p.Artifact != "":
	case len(p.Data) == 0:
		return problem(CodeInvalidPayload, "/payload/data", "is missing; it must be a JSON value, or artifact the id of an uploaded file")
	default:
		if found := checkJSON(p.Data, "/payload/data"); found != nil {
			return found
		}
	}
	if len(p.Metadata) == 0 {
		return nil
	}
	if found := checkJSON(p.Metadata, "/payload/metadata"); found != nil {
		return found
	}
	if meta := bytes.TrimLeft(p.Metadata, " \t\r\n"); meta[0] != '{' && string(bytes.TrimSpace(meta)) != "null" {
		return problem(CodeInvalidPayload, "/payload/metadata", "must be a JSON object")
	}
	return nil
}

func checkPriority(n int) *Problem {
	if n < 0 || n > 10 {
		return problem(CodeInvalidPriority, "/priority", "is %d; it must be 0 to 10, where 10 goes first", n)
	}
	return nil
}

func (l *Limits) checkTimes(r *Request, now time.Time) *Problem {
	begin := now
	if r.ScheduledAt != nil && r.ScheduledAt.After(now) {
		begin = *r.ScheduledAt
		if begin.Sub(now) > l.MaxSchedule {
			return problem(CodeInvalidSchedule, "/scheduled_at", "is %s, further ahead than %s", r.ScheduledAt.Format(time.RFC3339), l.MaxSchedule)
		}
	}
	if r.ExpiresAt == nil {
		return nil
	}
	switch life := r.ExpiresAt.Sub(begin); {
	case life < minLife:
		return problem(CodeInvalidExpiry, "/expires_at", "is %s; it must be at least %s after the time of the delivery, %s", r.ExpiresAt.Format(time.RFC3339), minLife, begin.Format(time.RFC3339))
	case life > l.MaxExpiry:
		return problem(CodeInvalidExpiry, "/expires_at", "is %s, more than %s after the time of the delivery", r.ExpiresAt.Format(time.RFC3339), l.MaxExpiry)
	}
	return nil
}

// resolve returns the destinations of a request, each once, in the order given.
func (s *Service) resolve(ctx context.Context, organization string, r *Request) ([]*destination.Destination, error) {
	if r.Default {
		return s.resolveDefaults(ctx, organization)
	}
	found := make([]*destination.Destination, 0, len(r.Destinations))
	for i, ref := range r.Destinations {
		d, err := s.destinations.ByRef(ctx, organization, ref)
		if errors.Is(err, store.ErrNotFound) {
			// The same words whether nobody or another organization has it.
			return nil, problem(CodeUnknownDestination, fmt.Sprintf("/destinations/%d", i), "there is no destination %q; give the label or the id of a destination of this organization", clip(ref))
		}
		if err != nil {
			return nil, fmt.Errorf("resolving destination %q: %w", clip(ref), err)
		}
		if d.Disabled {
			return nil, disabled(d, fmt.Sprintf("/destinations/%d", i))
		}
		if !contains(found, d) {
			found = append(found, d)
		}
	}
	return found, nil
}

func (s *Service) resolveDefaults(ctx context.Context, organization string) ([]*destination.Destination, error) {
	found, err := s.destinations.Defaults(ctx, organization)
	if err != nil {
		return nil, fmt.Errorf("resolving the default destinations: %w", err)
	}
	switch n := len(found); {
	case n == 0:
		return nil, problem(CodeNoDefault, "/destinations", "the organization has no default destination; name destinations by label or id")
	case n > s.limits.Load().MaxDestinations:
		return nil, problem(CodeTooManyDestinations, "/destinations", "the organization has %d default destinations; at most %d are allowed in one delivery", n, s.limits.Load().MaxDestinations)
	}
	for _, d := range found {
		// Leaving it out would lose a copy without a word.
		if d.Disabled {
			return nil, disabled(d, "/destinations")
		}
	}
	return found, nil
}

func disabled(d *destination.Destination, field string) *Problem {
	reason := d.DisabledReason
	if reason == "" {
		reason = "no reason given"
	}
	return problem(CodeDestinationDisabled, field, "destination %q is disabled (%s); nothing was queued for any destination", d.Label, reason)
}

func contains(list []*destination.Destination, d *destination.Destination) bool {
	for _, one := range list {
		if one.ID == d.ID {
			return true
		}
	}
	return false
}

// encode makes the JSON that a row holds: {"type", "data", "metadata"}, or with
// "artifact" in place of "data".
func (p *Payload) encode() (string, error) {
	kind, err := json.Marshal(p.Type)
	if err != nil {
		return "", fmt.Errorf("encoding the payload's type: %w", err)
	}
	var b strings.Builder
	b.Grow(len(kind) + len(p.Data) + len(p.Metadata) + 40)
	b.WriteString(`{"type":`)
	b.Write(kind)
	if p.Artifact != "" {
		b.WriteString(`,"artifact":"`)
		b.WriteString(p.Artifact) // hexadecimal digits, as checkArtifact knows
		b.WriteByte('"')
	} else {
		b.WriteString(`,"data":`)
		b.Write(p.Data)
	}
	if len(p.Metadata) > 0 && string(bytes.TrimSpace(p.Metadata)) != "null" {
		b.WriteString(`,"metadata":`)
		b.Write(p.Metadata)
	}
	b.WriteByte('}')
	return b.String(), nil
}
