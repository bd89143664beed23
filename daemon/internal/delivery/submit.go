package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// Submit checks a request and queues it for all of its destinations, or for none.
// When it returns without an error, the delivery is on disk. Errors are a
// *Problem, or wrap ErrUnavailable or the context's.
func (s *Service) Submit(ctx context.Context, caller Caller, r Request) (Result, error) {
	a, err := s.admit(ctx, caller, &r)
	if err != nil {
		return Result{}, err
	}
	return s.finish(ctx, a, s.coalescer.submit(ctx, a.sub)[0])
}

// BatchResult is what became of one request of a batch: Err as of Submit.
type BatchResult struct {
	Result Result
	Err    error
}

// SubmitBatch queues each request by itself, and returns one result each, in order.
func (s *Service) SubmitBatch(ctx context.Context, caller Caller, requests []Request) []BatchResult {
	results := make([]BatchResult, len(requests))
	admitted := make([]*admission, 0, len(requests))
	subs := make([]store.Submission, 0, len(requests))
	places := make([]int, 0, len(requests))
	for i := range requests {
		a, err := s.admit(ctx, caller, &requests[i])
		if err != nil {
			results[i].Err = err
			continue
		}
		admitted, subs, places = append(admitted, a), append(subs, a.sub), append(places, i)
	}
	if len(subs) == 0 {
		return results
	}
	for i, o := range s.coalescer.submit(ctx, subs...) {
		at := &results[places[i]]
		at.Result, at.Err = s.finish(ctx, admitted[i], o)
	}
	return results
}

// admission is a request that is ready to be written.
type admission struct {
	organization string
	sub          store.Submission
	result       Result
}

// admit checks a request and makes the rows of it.
func (s *Service) admit(ctx context.Context, caller Caller, r *Request) (*admission, error) {
	now := time.Now()
	if p := s.limits.Load().check(r, now); p != nil {
		return nil, p
	}
	destinations, err := s.resolve(ctx, caller.Organization, r)
	if err != nil {
		return nil, err
	}
	if err := s.checkArtifact(ctx, caller.Organization, r.Payload.Artifact); err != nil {
		return nil, err
	}
	payload, err := r.Payload.encode()
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	a := &admission{organization: caller.Organization, sub: store.Submission{DeliveryID: id}, result: Result{ID: id}}
	if r.IdempotencyKey != "" {
		a.sub.Key = &store.Key{OrganizationID: caller.Organization, Key: r.IdempotencyKey, DeliveryID: id, RequestHash: r.hash()}
	}
	template := store.NewItem{
		DeliveryID: id, OrganizationID: caller.Organization, Payload: payload, Metadata: "{}", Priority: int32(r.Priority),
		CorrelationID: optional(r.CorrelationID), IdempotencyKey: optional(r.IdempotencyKey),
	}
	begin := now
	if r.ScheduledAt != nil && r.ScheduledAt.After(now) {
		// A time that is over means now: it must not overtake what is due already.
		template.ScheduledAt, begin = r.ScheduledAt, *r.ScheduledAt
	}
	a.sub.Items = make([]store.NewItem, len(destinations))
	a.result.Destinations = make([]Target, len(destinations))
	for i, d := range destinations {
		item := template
		item.ID, item.DestinationID = itemID(id, d.ID), d.ID
		item.ExpiresAfter, item.MaxRetries = d.Settings.Expiry.Std(), int32(max(0, d.Settings.Retry.MaxRetries))
		if r.ExpiresAt != nil {
			item.ExpiresAfter = r.ExpiresAt.Sub(begin)
		}
		a.sub.Items[i] = item
		a.result.Destinations[i] = target(id, d)
	}
	return a, nil
}

// finish makes a caller's answer of what became of its submission.
func (s *Service) finish(ctx context.Context, a *admission, o outcome) (Result, error) {
	switch {
	case errors.Is(o.err, store.ErrArtifact): // deleted since it was checked
		return Result{}, unknownArtifact()
	case errors.Is(o.err, store.ErrBadData):
		// checkJSON should have found it first; the cause names no secret but may name
		// a value, so it goes to the log and not to the caller.
		s.log.Warn("the database refused a delivery", "organization", a.organization, "error", o.err)
		return Result{}, problem(CodeInvalidPayload, "/payload", "holds a value that the database cannot store")
	case o.err != nil:
		return Result{}, o.err
	case o.duplicate:
		return s.duplicate(ctx, a)
	}
	return a.result, nil
}

// duplicate returns the first result of a repeated request.
func (s *Service) duplicate(ctx context.Context, a *admission) (Result, error) {
	key, err := s.store.IdempotencyKey(ctx, a.organization, a.sub.Key.Key)
	if errors.Is(err, store.ErrNotFound) {
		// Its retention ended between the two statements.
		return Result{}, fmt.Errorf("the first request of this idempotency key was just forgotten, try again: %w", ErrUnavailable)
	}
	if err != nil {
		return Result{}, err
	}
	if !bytes.Equal(key.RequestHash, a.sub.Key.RequestHash) {
		p := problem(CodeIdempotencyConflict, "/idempotency_key", "belongs to delivery %s, whose request was different; use a new key for a new request", key.DeliveryID)
		p.Err = ErrConflict
		return Result{}, p
	}
	result := Result{ID: key.DeliveryID, Duplicate: true}
	rows, err := s.store.DeliveryItems(ctx, a.organization, key.DeliveryID)
	if errors.Is(err, store.ErrNotFound) {
		// The log's retention may be shorter than the key's.
		return result, nil
	}
	if err != nil {
		return Result{}, err
	}
	for _, row := range rows {
		result.Destinations = append(result.Destinations, s.targetOf(ctx, key.DeliveryID, row))
	}
	return result, nil
}

// targetOf names a destination of an earlier delivery, which may be gone by now.
func (s *Service) targetOf(ctx context.Context, deliveryID string, row store.Delivery) Target {
	var id int32
	if row.Queue != nil {
		id = row.Queue.DestinationID
	} else {
		id = row.Log.DestinationID
	}
	if d, err := s.destinations.Get(ctx, id); err == nil {
		return target(deliveryID, d)
	}
	return Target{ID: id, ItemID: itemID(deliveryID, id)}
}

func target(deliveryID string, d *destination.Destination) Target {
	return Target{ID: d.ID, Label: d.Label, ItemID: itemID(deliveryID, d.ID)}
}

// queued runs when submissions are on disk: whoever owns their lanes is told.
func (s *Service) queued(subs []store.Submission, done store.Submitted) {
	type lane struct {
		destination, priority int32
		scheduled             bool
	}
	first := make(map[lane]time.Time)
	for i := range subs {
		if done.Taken[subs[i].DeliveryID] {
			continue
		}
		for j := range subs[i].Items {
			it := &subs[i].Items[j]
			due := done.At
			if it.ScheduledAt != nil {
				due = *it.ScheduledAt
			}
			key := lane{it.DestinationID, it.Priority, due.After(done.At)}
			if old, ok := first[key]; !ok || due.Before(old) {
				first[key] = due
			}
		}
	}
	if len(first) == 0 {
		return
	}
	hints := make([]engine.Hint, 0, len(first))
	for key, due := range first {
		hints = append(hints, engine.Hint{DestinationID: key.destination, Priority: key.priority, Due: due, Wait: due.Sub(done.At)})
	}
	s.waker.Wake(hints)
	s.announce()
}

// newID makes a delivery id. It has no dash, which stands between it and the
// destination in the ids of its rows.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("making a delivery id: %w", err)
	}
	return store.DeliveryPrefix + hex.EncodeToString(id[:]), nil
}

func itemID(deliveryID string, destination int32) string {
	return deliveryID + "-" + strconv.Itoa(int(destination))
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// hash identifies what was asked for, so that a key is not used for two things.
// White space between JSON tokens does not count; all else does.
func (r *Request) hash() []byte {
	h := sha256.New()
	mustWrite(h, "deliveryd request 1")
	mustWrite(h, strconv.FormatBool(r.Default))
	mustWrite(h, strconv.Itoa(len(r.Destinations)))
	for _, ref := range r.Destinations {
		mustWrite(h, ref)
	}
	mustWrite(h, r.Payload.Type)
	mustWrite(h, compact(r.Payload.Data))
	mustWrite(h, compact(r.Payload.Metadata))
	mustWrite(h, strconv.Itoa(r.Priority))
	mustWrite(h, instant(r.ScheduledAt))
	mustWrite(h, instant(r.ExpiresAt))
	mustWrite(h, r.CorrelationID)
	if r.Payload.Artifact != "" { // so that requests without one keep the hash that they had
		mustWrite(h, r.Payload.Artifact)
	}
	return h.Sum(nil)
}

// mustWrite writes a part with its length, so that no two lists of parts look
// alike. A hash never fails to write.
func mustWrite(h hash.Hash, part string) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(part)))
	h.Write(length[:])
	h.Write([]byte(part))
}

func compact(text json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return string(text)
	}
	return b.String()
}

func instant(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
