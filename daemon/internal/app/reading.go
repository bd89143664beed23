package app

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/delivery"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// What a delivery to one destination can be.
const (
	pending    = "pending"
	processing = "processing"
	retrying   = "retrying"
	delivered  = "delivered"
	failed     = "failed"
	partial    = "partial" // of a delivery as a whole
)

// deliveryRows is what reading needs of the store.
type deliveryRows interface {
	DeliveryItems(ctx context.Context, organization, deliveryID string) ([]store.Delivery, error)
	ListLogs(ctx context.Context, organization string, f store.ListFilter, behind store.Position, limit int) ([]store.Log, error)
	ListWaiting(ctx context.Context, organization string, f store.ListFilter, behind store.Position, limit int) ([]store.QueueRow, error)
}

// labels finds destinations by id or reference.
type labels interface {
	Get(ctx context.Context, id int32) (*destination.Destination, error)
	ByRef(ctx context.Context, organization, ref string) (*destination.Destination, error)
}

// Get implements api.Deliveries.
func (s deliveryService) Get(ctx context.Context, caller api.Caller, id string) (*api.Delivery, error) {
	rows, err := s.rows.DeliveryItems(ctx, caller.Organization, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.NewProblem(http.StatusNotFound, api.CodeNotFound, "This organization has no delivery of that id; its log may have had its time.")
	}
	if err != nil {
		return nil, err
	}
	d := &api.Delivery{ID: id, Destinations: make([]api.DeliveryItem, len(rows))}
	for i := range rows {
		d.Destinations[i] = s.item(ctx, rows[i].Queue, rows[i].Log)
	}
	slices.SortFunc(d.Destinations, func(a, b api.DeliveryItem) int { return int(a.DestinationID - b.DestinationID) })
	d.Status = overall(d.Destinations)
	return d, nil
}

// overall is the status of all destinations together.
func overall(items []api.DeliveryItem) string {
	n := map[string]int{}
	for i := range items {
		n[items[i].Status]++
	}
	switch {
	case n[processing] > 0:
		return processing
	case n[retrying] > 0:
		return retrying
	case n[pending] > 0:
		return pending
	case n[failed] == len(items):
		return failed
	case n[failed] > 0:
		return partial
	}
	return delivered
}

// item shows a queue row, a log row, or both of one delivery to one destination.
func (s deliveryService) item(ctx context.Context, q *store.QueueRow, l *store.Log) api.DeliveryItem {
	it := api.DeliveryItem{Attempts: json.RawMessage("[]")}
	if q != nil {
		it = api.DeliveryItem{
			DeliveryID: q.DeliveryID, ItemID: q.ID, DestinationID: q.DestinationID, Status: waitingStatus(q), Priority: &q.Priority,
			ScheduledAt: &q.ScheduledAt, NextRetryAt: q.NextRetryAt, RetryCount: &q.RetryCount, MaxRetries: &q.MaxRetries,
			FailureReason: value(q.FailureReason), CorrelationID: value(q.CorrelationID), IdempotencyKey: value(q.IdempotencyKey),
			Attempts: it.Attempts, CreatedAt: q.CreatedAt, UpdatedAt: &q.UpdatedAt,
		}
	}
	if l != nil {
		it.DeliveryID, it.DestinationID, it.CreatedAt = l.DeliveryID, l.DestinationID, l.CreatedAt
		it.CorrelationID, it.IdempotencyKey = value(l.CorrelationID), value(l.IdempotencyKey)
		it.Attempts, it.Object = json.RawMessage(l.Attempts), json.RawMessage(l.ObjectDetails)
		it.LastAttemptAt, it.DeliveredAt = l.LastAttemptAt, l.DeliveredAt
		it.FailureReason, it.Reference = value(l.FailureReason), value(l.CrossSystemReference)
		if q == nil || l.Status == delivered || l.Status == failed {
			it.Status = l.Status
		}
		if it.UpdatedAt == nil || l.UpdatedAt.After(*it.UpdatedAt) {
			it.UpdatedAt = &l.UpdatedAt
		}
	}
	// A destination that is gone has an id and no label any more.
	if d, err := s.labels.Get(ctx, it.DestinationID); err == nil {
		it.Label = d.Label
	}
	return it
}

func waitingStatus(q *store.QueueRow) string {
	switch {
	case q.Status == "completed":
		return delivered
	case q.Status == failed || q.Status == processing:
		return q.Status
	case q.AttemptCount > 0:
		return retrying
	}
	return pending
}

func value(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// cursor is where a list goes on. A list of all begins with what was never
// attempted, which only the queue knows, and goes on with the log.
type cursor struct {
	InLog bool      `json:"l,omitempty"`
	At    time.Time `json:"a,omitzero"`
	ID    string    `json:"i,omitempty"`
	Last  int64     `json:"n,omitempty"`
}

func (c cursor) position() store.Position { return store.Position{At: c.At, ID: c.ID, Last: c.Last} }

func (c cursor) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "" // it holds nothing that could fail
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseCursor(text string) (c cursor, err error) {
	if text == "" {
		return c, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil || c.At.IsZero() && !c.InLog {
		return c, api.NewProblem(http.StatusBadRequest, api.Code(delivery.CodeInvalidCursor), "The cursor is not the next_cursor of a page.",
			api.FieldProblem{Parameter: "cursor", Detail: "must be the next_cursor of the page before"})
	}
	return c, nil
}

// List implements api.Deliveries.
func (s deliveryService) List(ctx context.Context, caller api.Caller, f api.DeliveryFilter) (*api.DeliveryPage, error) {
	at, err := parseCursor(f.Cursor)
	if err != nil {
		return nil, err
	}
	filter := store.ListFilter{Since: f.Since, Until: f.Until}
	if f.CorrelationID != "" {
		filter.CorrelationID = &f.CorrelationID
	}
	if f.Destination != "" {
		d, err := s.labels.ByRef(ctx, caller.Organization, f.Destination)
		if errors.Is(err, store.ErrNotFound) {
			return nil, api.NewProblem(http.StatusUnprocessableEntity, api.Code(delivery.CodeUnknownDestination), fmt.Sprintf("There is no destination %q.", f.Destination),
				api.FieldProblem{Parameter: "destination", Detail: "must be the label or the id of a destination"})
		}
		if err != nil {
			return nil, err
		}
		filter.DestinationID = &d.ID
	}
	page := &api.DeliveryPage{}
	if f.Undelivered {
		filter.Stopped = true
		_, err := s.waiting(ctx, caller, f, filter, at, page)
		return page, err
	}
	if !at.InLog && slices.Contains([]string{"", pending, processing}, f.Status) {
		full, err := s.waiting(ctx, caller, f, filter, at, page)
		if err != nil || full || f.Status != "" {
			return page, err
		}
		at = cursor{InLog: true}
	}
	return page, s.logged(ctx, caller, f, filter, at, page)
}

// waiting adds rows of the queue to a page and reports whether that is all of it.
func (s deliveryService) waiting(ctx context.Context, caller api.Caller, f api.DeliveryFilter, filter store.ListFilter, at cursor, page *api.DeliveryPage) (full bool, err error) {
	filter.Statuses = []string{pending, processing}
	if f.Undelivered {
		filter.Statuses = nil
	}
	if f.Status != "" {
		filter.Statuses = []string{f.Status}
	}
	rows, err := s.rows.ListWaiting(ctx, caller.Organization, filter, at.position(), f.Limit)
	if err != nil {
		return false, err
	}
	for i := range rows {
		// What was attempted is in the log as well, where a list of all comes by.
		if f.Status == "" && !f.Undelivered && rows[i].AttemptCount > 0 {
			continue
		}
		page.Items = append(page.Items, s.item(ctx, &rows[i], nil))
	}
	if len(rows) < f.Limit {
		return false, nil
	}
	last := &rows[len(rows)-1]
	page.Next = cursor{At: last.Due(), ID: last.ID}.String()
	return true, nil
}

// logged fills a page up with rows of the log.
func (s deliveryService) logged(ctx context.Context, caller api.Caller, f api.DeliveryFilter, filter store.ListFilter, at cursor, page *api.DeliveryPage) error {
	filter.Statuses = []string{delivered, failed, retrying, pending}
	if f.Status != "" {
		filter.Statuses = []string{f.Status}
	}
	room := f.Limit - len(page.Items)
	rows, err := s.rows.ListLogs(ctx, caller.Organization, filter, at.position(), room)
	if err != nil {
		return err
	}
	for i := range rows {
		page.Items = append(page.Items, s.item(ctx, nil, &rows[i]))
	}
	page.Next = ""
	if len(rows) == room {
		last := &rows[len(rows)-1]
		page.Next = cursor{InLog: true, At: last.CreatedAt, Last: last.ID}.String()
	}
	return nil
}
