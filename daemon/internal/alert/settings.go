package alert

import (
	"fmt"
	"slices"
	"time"

	"github.com/robfig/cron/v3"
)

// Event is what an alert is about, and the end of the type of its deliveries:
// deliveryd.alert.EVENT.
type Event string

// The events.
const (
	BreakerOpened       Event = "breaker_opened"
	BreakerClosed       Event = "breaker_closed" // the end of BreakerOpened
	DestinationDisabled Event = "destination_disabled"
	Hold                Event = "hold"
	DeadLetter          Event = "dead_letter"
	Backlog             Event = "backlog"
	FailureRate         Event = "failure_rate"
	Slow                Event = "slow"
)

// Events lists all events.
func Events() []string {
	return []string{
		string(BreakerOpened), string(BreakerClosed), string(DestinationDisabled), string(Hold),
		string(DeadLetter), string(Backlog), string(FailureRate), string(Slow),
	}
}

// Settings are the alerts of one organization.
type Settings struct {
	// Organization is whose destinations are looked at. No default.
	Organization string
	// Destinations are the labels of those that alerts are delivered to; an alert
	// about one of them goes to the others. No default.
	Destinations []string
	// Events are those that are told of. Defaults to all.
	Events []string
	// Debounce is how long a condition must have lasted before it is an alert, and
	// be over before the alert is. Defaults to 30 s.
	Debounce time.Duration
	// Cooldown is how long after the end of an alert nobody is told of the same one
	// again; it is still on record. Defaults to 1 h.
	Cooldown time.Duration
	// QuietEnd leaves the deliveries out that say that an alert is over. Defaults to false.
	QuietEnd bool
	// BreakerAfter is the time that a breaker may be open: twice that is high, five
	// times critical. Defaults to 10 m.
	BreakerAfter time.Duration
	// DeadLetters is the threshold of DeadLetter.
	DeadLetters Count
	// Backlog is the threshold of Backlog.
	Backlog BacklogLimit
	// FailureRate is the threshold of FailureRate.
	FailureRate Rate
	// SlowAfter is the average response time from which a destination is slow.
	// Defaults to 10 s.
	SlowAfter time.Duration
	// Maintenance are the times at which nobody is told.
	Maintenance []*Window
}

// Count is a number of things in a time.
type Count struct {
	// Count defaults to 1.
	Count int
	// Window defaults to 5 m.
	Window time.Duration
}

// BacklogLimit is what may wait at one destination.
type BacklogLimit struct {
	// Count is of deliveries that are due. Defaults to 10,000.
	Count int
	// Age is for how long the oldest of them has been due. Defaults to 15 m.
	Age time.Duration
}

// Rate is a share of attempts that fail.
type Rate struct {
	// Ratio is above 0 to 1. Defaults to 0.25.
	Ratio float64
	// Minimum is the least number of attempts in the window. Defaults to 20.
	Minimum int
	// Window defaults to 5 m.
	Window time.Duration
}

// Window is a time at which nobody is told of alerts: from From until Until, or
// for Duration whenever Schedule says so.
type Window struct {
	Name string
	// From and Until are RFC 3339.
	From, Until string
	// Schedule is in the form of crontab(5), in UTC unless it begins with CRON_TZ=.
	Schedule string
	// Duration is how long a scheduled window lasts.
	Duration time.Duration
	// Destinations are the labels that it is about. Defaults to all.
	Destinations []string
}

// Defaults returns the settings of an organization that has given none.
func Defaults(organization string) *Settings {
	return &Settings{
		Organization: organization, Debounce: 30 * time.Second, Cooldown: time.Hour, BreakerAfter: 10 * time.Minute,
		DeadLetters: Count{Count: 1, Window: 5 * time.Minute}, Backlog: BacklogLimit{Count: 10_000, Age: 15 * time.Minute},
		FailureRate: Rate{Ratio: 0.25, Minimum: 20, Window: 5 * time.Minute}, SlowAfter: 10 * time.Second,
	}
}

// Wants reports whether an event is told of.
func (s *Settings) Wants(e Event) bool {
	return len(s.Events) == 0 || slices.Contains(s.Events, string(e))
}

// InMaintenance reports whether a window covers a destination now.
func (s *Settings) InMaintenance(now time.Time, label string) bool {
	for _, w := range s.Maintenance {
		if w.covers(label) && w.active(now) {
			return true
		}
	}
	return false
}

func (w *Window) covers(label string) bool {
	return len(w.Destinations) == 0 || slices.Contains(w.Destinations, label)
}

func (w *Window) active(now time.Time) bool {
	if w.Schedule != "" {
		schedule, err := cron.ParseStandard(w.Schedule)
		// It is running if it began within its length.
		return err == nil && !schedule.Next(now.UTC().Add(-w.Duration)).After(now)
	}
	from, badFrom := time.Parse(time.RFC3339, w.From)
	until, badUntil := time.Parse(time.RFC3339, w.Until)
	return badFrom == nil && badUntil == nil && !now.Before(from) && now.Before(until)
}

// Check says what is wrong with a window, nil if nothing is.
func (w *Window) Check() error {
	scheduled, once := w.Schedule != "" || w.Duration != 0, w.From != "" || w.Until != ""
	if scheduled == once {
		return fmt.Errorf("give either from and until, or schedule and duration")
	}
	if scheduled {
		if w.Schedule == "" || w.Duration <= 0 {
			return fmt.Errorf("a scheduled window needs schedule and duration")
		}
		return nil
	}
	from, badFrom := time.Parse(time.RFC3339, w.From)
	until, badUntil := time.Parse(time.RFC3339, w.Until)
	if badFrom != nil || badUntil != nil || !until.After(from) {
		return fmt.Errorf("from and until must be times in RFC 3339, until the later one")
	}
	return nil
}

// CheckSchedule says what is wrong with a schedule.
func CheckSchedule(text string) error {
	if _, err := cron.ParseStandard(text); err != nil {
		return fmt.Errorf(`it must be a schedule of five fields, such as "0 2 * * 0" for Sundays at 02:00 UTC, with CRON_TZ=Europe/Vienna in front for another zone: %w`, err)
	}
	return nil
}
