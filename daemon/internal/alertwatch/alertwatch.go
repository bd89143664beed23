// Package alertwatch looks for alerts: one daemon of the fleet reads the figures
// of all destinations every few seconds, has package alert decide, writes what
// came of it, and queues what somebody is to be told as ordinary deliveries.
//
// It must never decide what an alert is, tell anybody of an alert through the
// destination that it is about, or cost a delivery anything.
package alertwatch

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// TypePrefix begins the type of an alert's delivery; the event follows.
const TypePrefix = "deliveryd.alert."

const (
	// share bounds the part of the time that looking may take.
	share = 20
	// seenEvery is how often it is written that an alert still lasts.
	seenEvery = time.Minute
	// byDaemon is who resolves an alert that is over.
	byDaemon = "deliveryd"
	// countFactor is how far beyond a threshold is counted: what is more is critical
	// anyway. maxCounted bounds it, but for a threshold that is greater itself.
	countFactor = 10
	maxCounted  = 100_000
	// countedAtOnce is at how many destinations dead letters and what waits are
	// counted at a look; with more, each has its turn within maxParts looks, a minute.
	countedAtOnce = 1000
	maxParts      = 12
)

// Store is what the watch needs of the store.
type Store interface {
	WatchAlerts(ctx context.Context, daemon string, every time.Duration) (bool, error)
	AlertFigures(ctx context.Context, scopes []store.AlertScope, part, parts int) ([]store.AlertFigures, error)
	CurrentAlerts(ctx context.Context) ([]store.Alert, error)
	WriteAlerts(ctx context.Context, daemon string, c *store.AlertChanges) error
	AlertTold(ctx context.Context, id string, n int32) error
	Now(ctx context.Context) (time.Time, error)
}

// Notice is what somebody is told, for one destination.
type Notice struct {
	Organization  string
	Destination   string // label
	Type          string
	Data          json.RawMessage
	Key           string // idempotency key
	CorrelationID string
}

// ErrRefused is wrapped where a notice cannot be queued and never will be, such as
// for a destination that is not there.
var ErrRefused = errors.New("notice refused")

// Options of a Watch.
type Options struct {
	Daemon string
	Store  Store
	// Settings returns the settings by organization, as they are now.
	Settings func() map[string]*alert.Settings
	// Send queues a notice as a delivery. A repeated one with the same key does nothing.
	Send func(ctx context.Context, n *Notice) error
	// Counted is told at each look how many alerts are open, by severity: none at a
	// daemon that does not look. Defaults to nobody.
	Counted func(open map[string]int)
	// Every is the time between two looks. Defaults to 5 s.
	Every  time.Duration
	Logger *slog.Logger
}

// Watch is made by New.
type Watch struct {
	o       Options
	history alert.History
	// looks counts, and parts is into how many looks the counting is divided.
	looks, parts int
}

// New returns a watch that does nothing until Run.
func New(o Options) *Watch {
	if o.Every <= 0 {
		o.Every = 5 * time.Second
	}
	if o.Counted == nil {
		o.Counted = func(map[string]int) {}
	}
	return &Watch{o: o, parts: 1}
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		began := time.Now()
		err := w.Look(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			w.o.Logger.Warn("looking for alerts failed, trying again", "error", err)
		}
		failing = err != nil
		timer := time.NewTimer(max(w.o.Every, share*time.Since(began)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Look looks once, if it is this daemon's turn.
func (w *Watch) Look(ctx context.Context) error {
	mine, err := w.o.Store.WatchAlerts(ctx, w.o.Daemon, w.o.Every)
	if err != nil || !mine {
		w.history = alert.History{} // another daemon's figures would be missing in it
		w.o.Counted(nil)
		return err
	}
	settings := w.o.Settings()
	// The clock of the database, which all daemons share.
	now, err := w.o.Store.Now(ctx)
	if err != nil {
		return err
	}
	current, err := w.o.Store.CurrentAlerts(ctx)
	if err != nil || len(settings) == 0 && len(current) == 0 {
		w.o.Counted(nil)
		return err
	}
	figures, err := w.figures(ctx, settings)
	if err != nil {
		return err
	}
	changes := w.decide(now, settings, figures, current)
	if len(changes.New)+len(changes.Changed)+len(changes.Gone) > 0 {
		if err := w.o.Store.WriteAlerts(ctx, w.o.Daemon, changes); err != nil {
			return err
		}
		// What was really written: an operator may have been faster.
		if current, err = w.o.Store.CurrentAlerts(ctx); err != nil {
			return err
		}
	}
	w.o.Counted(open(current))
	return w.tell(ctx, settings, current)
}

// open counts the alerts that are neither pending nor over, by severity.
func open(current []store.Alert) map[string]int {
	n := map[string]int{}
	for i := range current {
		if status := alert.Status(current[i].Status); status == alert.Open || status == alert.Acknowledged {
			n[current[i].Severity]++
		}
	}
	return n
}

func (w *Watch) figures(ctx context.Context, settings map[string]*alert.Settings) ([]store.AlertFigures, error) {
	if len(settings) == 0 {
		return nil, nil
	}
	scopes := make([]store.AlertScope, 0, len(settings))
	for _, s := range settings {
		scopes = append(scopes, scopeOf(s))
	}
	figures, err := w.o.Store.AlertFigures(ctx, scopes, w.looks%w.parts, w.parts)
	if err != nil {
		return nil, err
	}
	w.looks++
	w.parts = min(max((len(figures)+countedAtOnce-1)/countedAtOnce, 1), maxParts)
	return figures, nil
}

// scopeOf says how far to count: beyond a threshold for the severity, but to the
// threshold in any case.
func scopeOf(s *alert.Settings) store.AlertScope {
	limit := func(threshold int) int { return max(threshold, min(countFactor*threshold, maxCounted)) }
	return store.AlertScope{
		Organization: s.Organization, DeadWindow: s.DeadLetters.Window, DeadLimit: limit(s.DeadLetters.Count),
		BacklogFrom: s.Backlog.Count, BacklogLimit: limit(s.Backlog.Count),
	}
}

// key names what an alert is about.
type key struct {
	organization string
	event        string
	destination  int32
}

func keyOf(a *store.Alert) key {
	k := key{organization: a.OrganizationID, event: a.Event}
	if a.DestinationID != nil {
		k.destination = *a.DestinationID
	}
	return k
}

func (w *Watch) decide(now time.Time, settings map[string]*alert.Settings, figures []store.AlertFigures, current []store.Alert) *store.AlertChanges {
	last := make(map[key]*store.Alert, len(current))
	for i := range current {
		k := keyOf(&current[i])
		if old, ok := last[k]; !ok || old.Status == string(alert.Resolved) {
			last[k] = &current[i] // the one that is not over, else the newest
		}
	}
	changes := &store.AlertChanges{}
	known := make(map[int32]bool, len(figures))
	for i := range figures {
		f := &figures[i]
		known[f.DestinationID] = true
		s := settings[f.OrganizationID]
		for event, seen := range alert.Observe(s, w.observed(now, s, f)) {
			k := key{f.OrganizationID, string(event), f.DestinationID}
			w.step(now, s, f, k, last[k], seen, changes)
		}
	}
	w.history.Keep(known)
	for _, a := range last {
		// Its destination is gone, or its organization wants no alerts any more.
		if a.DestinationID != nil && !known[*a.DestinationID] && a.Status != string(alert.Resolved) {
			over := *a
			over.Status, over.ResolvedAt, over.ResolvedBy = string(alert.Resolved), &now, pointer(byDaemon)
			over.Notifications = over.Notified
			changes.Changed = append(changes.Changed, over)
		}
	}
	return changes
}

func (w *Watch) observed(now time.Time, s *alert.Settings, f *store.AlertFigures) *alert.Figures {
	attempts, failed, whole := w.history.Add(now, f.DestinationID, s.FailureRate.Window, int64(f.Deliveries), int64(f.Failures))
	o := &alert.Figures{
		Broken: f.Broken, BrokenFor: seconds(f.BrokenSeconds), BreakerReason: f.BreakerReason, Forced: f.BreakerForced, Held: f.Held, HoldReason: f.HoldReason,
		Disabled: f.Disabled, DisabledReason: f.DisabledReason, Counted: f.Counted, DeadLetters: int(f.DeadLetters), Waiting: int(f.Waiting), Oldest: seconds(f.OldestSeconds),
		Failed: failed, Attempts: attempts, RateKnown: whole, Average: time.Duration(f.AverageMillis) * time.Millisecond,
	}
	if f.Paused || f.BreakerForced || f.DisabledBySomebody && !f.Disabled {
		o.Waiting, o.Oldest = 0, 0 // somebody wants it to wait
	}
	return o
}

func (w *Watch) step(now time.Time, s *alert.Settings, f *store.AlertFigures, k key, last *store.Alert, seen *alert.Seen, changes *store.AlertChanges) {
	if last == nil && seen == nil {
		return
	}
	before := stateOf(last)
	after := alert.Step(s, now, f.Label, before, seen)
	live := last != nil && last.Status != string(alert.Resolved)
	switch {
	case after.Status == "" && live:
		changes.Gone = append(changes.Gone, last.ID)
	case after.Status == "" || !worthWriting(before, after):
	case live:
		row := *last
		apply(&row, after)
		changes.Changed = append(changes.Changed, row)
	case after.Status != alert.Resolved:
		row := store.Alert{
			ID: newID(), OrganizationID: f.OrganizationID, Event: k.event, DestinationID: &f.DestinationID, Label: &f.Label,
			FirstSeenAt: after.FirstSeen, UpdatedAt: now,
		}
		apply(&row, after)
		changes.New = append(changes.New, row)
	}
	if before.Status != after.Status && after.Status != "" && after.Status != alert.Pending {
		w.o.Logger.Info("alert", "organization", f.OrganizationID, "destination", f.Label, "event", k.event, "status", string(after.Status),
			"severity", string(after.Severity), "message", after.Message)
	}
}

// worthWriting leaves out that a condition still lasts, but for once in a while.
func worthWriting(before, after alert.State) bool {
	quiet := before
	quiet.LastSeen, quiet.Message, quiet.Value, quiet.Threshold = after.LastSeen, after.Message, after.Value, after.Threshold
	return quiet != after || after.LastSeen.Sub(before.LastSeen) >= seenEvery
}

// tell queues what somebody is to be told. Notices have a key of their own, so
// that one that was queued just before this daemon, or its predecessor, died is
// not queued again.
func (w *Watch) tell(ctx context.Context, settings map[string]*alert.Settings, current []store.Alert) error {
	for i := range current {
		a := &current[i]
		if a.Notified >= a.Notifications {
			continue
		}
		if err := w.tellOf(ctx, settings[a.OrganizationID], a); err != nil {
			return err
		}
		if err := w.o.Store.AlertTold(ctx, a.ID, a.Notifications); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watch) tellOf(ctx context.Context, s *alert.Settings, a *store.Alert) error {
	event := eventOf(a)
	if s == nil || !s.Wants(event) {
		return nil
	}
	data, err := json.Marshal(noticeOf(a, event))
	if err != nil {
		return fmt.Errorf("encoding an alert: %w", err)
	}
	sent := 0
	for _, label := range s.Destinations {
		if a.Label != nil && *a.Label == label {
			continue // it would tell of its own trouble through itself
		}
		err := w.o.Send(ctx, &Notice{
			Organization: a.OrganizationID, Destination: label, Type: TypePrefix + string(event), Data: data, CorrelationID: a.ID,
			Key: fmt.Sprintf("%s/%d/%s", a.ID, a.Notifications, digest(label)),
		})
		if errors.Is(err, ErrRefused) {
			w.o.Logger.Warn("an alert cannot be sent to a destination", "organization", a.OrganizationID, "destination", label, "alert", a.ID, "error", err)
			continue
		}
		if err != nil {
			return err
		}
		sent++
	}
	if sent == 0 {
		w.o.Logger.Error("nobody could be told of an alert", "organization", a.OrganizationID, "alert", a.ID, "event", a.Event, "message", a.Message)
	}
	return nil
}

// eventOf is what is told: the end of an open breaker has a name of its own.
func eventOf(a *store.Alert) alert.Event {
	if a.Event == string(alert.BreakerOpened) && a.Status == string(alert.Resolved) {
		return alert.BreakerClosed
	}
	return alert.Event(a.Event)
}

// notice is the data of an alert's delivery.
type notice struct {
	Alert         string    `json:"alert_id"`
	Event         string    `json:"event"`
	Status        string    `json:"status"`
	Severity      string    `json:"severity"`
	Organization  string    `json:"organization"`
	Destination   string    `json:"destination,omitempty"`
	DestinationID int32     `json:"destination_id,omitempty"`
	Message       string    `json:"message"`
	Value         float64   `json:"value"`
	Threshold     float64   `json:"threshold"`
	Count         int32     `json:"count"`
	FirstSeenAt   time.Time `json:"first_seen_at"`
	LastSeenAt    time.Time `json:"last_seen_at"`
}

func noticeOf(a *store.Alert, event alert.Event) *notice {
	n := &notice{
		Alert: a.ID, Event: string(event), Status: a.Status, Severity: a.Severity, Organization: a.OrganizationID, Message: a.Message,
		Value: a.Value, Threshold: a.Threshold, Count: a.Count, FirstSeenAt: a.FirstSeenAt.UTC(), LastSeenAt: a.LastSeenAt.UTC(),
		Destination: value(a.Label), DestinationID: value(a.DestinationID),
	}
	if event == alert.BreakerClosed {
		n.Severity = string(alert.Info)
	}
	return n
}

func newID() string {
	id := uuid.Must(uuid.NewV7())
	return "alr_" + hex.EncodeToString(id[:])
}

// digest keeps a key short: labels may be as long as a key.
func digest(label string) string {
	id := uuid.NewSHA1(uuid.Nil, []byte(label))
	return strings.ToLower(hex.EncodeToString(id[:8]))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
