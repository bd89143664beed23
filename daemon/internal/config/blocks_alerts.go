package config

import (
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
)

func alertsBlock() *block {
	type settings = alert.Settings
	return labelled("alerts", []string{"organization"},
		func(c *Config) *[]*settings { return &c.Alerts },
		func(labels []string) *settings { return alert.Defaults(labels[0]) },
		func(s *settings) []string { return []string{s.Organization} },
		"When and where an organization is told that something is wrong with its destinations. Without this block nobody is told. Alerts are deliveries of type `deliveryd.alert.EVENT`.",
		set("destinations", func(s *settings) *[]string { return &s.Destinations },
			"Labels of the organization's destinations that alerts go to. An alert about one of them goes to the others.", required(), check(checkName)),
		set("events", func(s *settings) *[]string { return &s.Events },
			"What is told of: breaker_opened, breaker_closed, destination_disabled, hold, dead_letter, backlog, failure_rate, slow.",
			unset("all"), oneOf(alert.Events()...)),
		set("debounce", func(s *settings) *time.Duration { return &s.Debounce },
			"How long a condition must have lasted before it is an alert, and be over before the alert is.", between(0, day)),
		set("cooldown", func(s *settings) *time.Duration { return &s.Cooldown },
			"How long after the end of an alert nobody is told of the same one again.", between(0, year)),
		set("quiet_end", func(s *settings) *bool { return &s.QuietEnd }, "Leaves out the deliveries that say that an alert is over."),
		set("breaker_after", func(s *settings) *time.Duration { return &s.BreakerAfter },
			"An open circuit breaker is a warning; after twice this time its severity is high, after five times critical.", between(time.Second, year)),
		set("slow_after", func(s *settings) *time.Duration { return &s.SlowAfter },
			"Average response time from which a destination is slow; `\"0s\"` means never.", between(0, day)),
		single("dead_letters", func(s *settings) *alert.Count { return &s.DeadLetters },
			"Dead letters of one destination.",
			set("count", func(c *alert.Count) *int { return &c.Count }, "From how many on; 0 means never.", between(0, 10_000)),
			set("window", func(c *alert.Count) *time.Duration { return &c.Window }, "Within this time.", between(time.Second, 7*day)),
		),
		single("backlog", func(s *settings) *alert.BacklogLimit { return &s.Backlog },
			"Deliveries that are due and wait at one destination that is neither paused nor disabled by somebody: too many, or for too long.",
			set("count", func(b *alert.BacklogLimit) *int { return &b.Count }, "From how many on; 0 means never.", between(0, 10_000_000)),
			set("age", func(b *alert.BacklogLimit) *time.Duration { return &b.Age },
				"For how long the oldest has been due; `\"0s\"` means never.", between(0, year)),
		),
		single("failure_rate", func(s *settings) *alert.Rate { return &s.FailureRate },
			"Share of attempts at one destination that fail.",
			set("ratio", func(r *alert.Rate) *float64 { return &r.Ratio }, "From which share on; 0 means never.", between(0.0, 1.0)),
			set("minimum", func(r *alert.Rate) *int { return &r.Minimum }, "Least number of attempts in the window.", between(1, 1_000_000)),
			set("window", func(r *alert.Rate) *time.Duration { return &r.Window }, "Within this time.", between(10*time.Second, day)),
		),
		labelled("maintenance", []string{"name"},
			func(s *settings) *[]*alert.Window { return &s.Maintenance },
			func(labels []string) *alert.Window { return &alert.Window{Name: labels[0]} },
			func(w *alert.Window) []string { return []string{w.Name} },
			"A time at which nobody is told. Alerts are still on record; what lasts beyond it is told then.",
			set("from", func(w *alert.Window) *string { return &w.From }, "Begin of a single window, RFC 3339.", unset("none"), check(checkTime)),
			set("until", func(w *alert.Window) *string { return &w.Until }, "Its end.", unset("none"), check(checkTime)),
			set("schedule", func(w *alert.Window) *string { return &w.Schedule },
				"Begins of a recurring window, as in crontab: `\"0 2 * * 0\"` is Sundays at 02:00 UTC; `CRON_TZ=Europe/Vienna` in front sets another zone.",
				unset("none"), check(alert.CheckSchedule)),
			set("duration", func(w *alert.Window) *time.Duration { return &w.Duration }, "How long a recurring window lasts.", between(time.Minute, 7*day), unset("none")),
			set("destinations", func(w *alert.Window) *[]string { return &w.Destinations }, "Labels of the destinations that it is about.", unset("all")),
		),
	)
}

func checkTime(text string) error {
	if _, err := time.Parse(time.RFC3339, text); err != nil {
		return fmt.Errorf("%s is not a time in RFC 3339, such as \"2026-01-31T22:00:00Z\"", shown(text))
	}
	return nil
}

// checkAlerts checks what concerns more than one setting of an organization's alerts.
func (l *loader) checkAlerts(c *Config) {
	for _, s := range c.Alerts {
		if s.Destinations != nil && len(s.Destinations) == 0 && !l.incomplete { // nil: it is wrong, and has been reported
			if at, ok := l.sources[&s.Destinations]; ok {
				l.add(problemAt(at, "Nobody to tell", "destinations must name at least one destination of %q.", s.Organization))
			}
		}
		for _, w := range s.Maintenance {
			if err := w.Check(); err != nil {
				l.add(problemAt(l.sources[w], "Invalid maintenance window", "%s", sentence(err)))
			}
		}
	}
}
