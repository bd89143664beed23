package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/telemetry"
)

// observer turns what the engine does into metrics. Series are per transport and
// not per destination: ten thousand destinations would be a million series, and
// what one of them does is in its health and its log.
type observer struct {
	attempts  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	outcomes  *prometheus.CounterVec
	recording prometheus.Histogram
	breakers  *prometheus.CounterVec

	// known holds the series of a transport and class. Only the engine's loop
	// uses it, thousands of times a second.
	known map[seriesKey]series
}

type seriesKey struct{ transport, class string }

type series struct {
	attempts prometheus.Counter
	duration prometheus.Observer
}

var _ engine.Observer = (*observer)(nil)

func newObserver(registry prometheus.Registerer) *observer {
	o := &observer{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "attempts_total", Help: "Attempts that ended, by transport and result class.",
		}, []string{"transport", "class"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: telemetry.Namespace, Name: "attempt_duration_seconds", Help: "Time from handing an item to its plugin to its result.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"transport"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "outcomes_total",
			Help: "Outcomes that were recorded: delivered, retried, dead (dead letters) or fenced (the row had changed meanwhile).",
		}, []string{"outcome"}),
		recording: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: telemetry.Namespace, Name: "record_duration_seconds", Help: "Time to record one batch of outcomes.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		breakers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "circuit_breaker_changes_total", Help: "Changes of circuit breakers, by transport and new state.",
		}, []string{"transport", "to"}),
		known: map[seriesKey]series{},
	}
	registry.MustRegister(o.attempts, o.durations, o.outcomes, o.recording, o.breakers)
	return o
}

// Attempt implements engine.Observer.
func (o *observer) Attempt(d *destination.Destination, class string, took time.Duration) {
	key := seriesKey{d.Type, class}
	s, ok := o.known[key]
	if !ok {
		s = series{o.attempts.WithLabelValues(d.Type, class), o.durations.WithLabelValues(d.Type)}
		o.known[key] = s
	}
	s.attempts.Inc()
	s.duration.Observe(took.Seconds())
}

// Recorded implements engine.Observer.
func (o *observer) Recorded(delivered, undelivered, dead, fenced int, took time.Duration) {
	o.outcomes.WithLabelValues("delivered").Add(float64(delivered))
	o.outcomes.WithLabelValues("retried").Add(float64(max(undelivered-dead, 0)))
	o.outcomes.WithLabelValues("dead").Add(float64(dead))
	o.outcomes.WithLabelValues("fenced").Add(float64(fenced))
	o.recording.Observe(took.Seconds())
}

// Breaker implements engine.Observer.
func (o *observer) Breaker(d *destination.Destination, _, to, _ string) {
	o.breakers.WithLabelValues(d.Type, to).Inc()
}

// countAlerts shows how many alerts are open.
func countAlerts(registry prometheus.Registerer) func(open map[string]int) {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: telemetry.Namespace, Name: "alerts", Help: "Alerts that are open or acknowledged, by severity, at the daemon that looks for them; 0 at the others.",
	}, []string{"severity"})
	registry.MustRegister(gauge)
	return func(open map[string]int) {
		for _, severity := range []alert.Severity{alert.Warning, alert.High, alert.Critical} {
			gauge.WithLabelValues(string(severity)).Set(float64(open[string(severity)]))
		}
	}
}

// collector asks engine and plugin host how they are at each scrape.
type collector struct {
	state      func(context.Context) (engine.State, error)
	transports func() []pluginhost.Status

	lanes, health, held, blocked, inFlight, late, buffered, unrecorded, lease *prometheus.Desc
	pluginUp, pluginRestarts, pluginMemory, pluginItems                       *prometheus.Desc
}

// scrapeTimeout bounds the wait for the engine's loop, which answers between two
// turns.
const scrapeTimeout = 2 * time.Second

func newCollector(state func(context.Context) (engine.State, error), transports func() []pluginhost.Status) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(telemetry.Namespace+"_"+name, help, labels, nil)
	}
	return &collector{
		state: state, transports: transports,
		lanes:          desc("lanes", "Lanes that this daemon owns, by the state of their circuit breaker.", "circuit_breaker"),
		health:         desc("lanes_health", "Lanes that this daemon owns, by the health of their destination.", "status"),
		held:           desc("lanes_held", "Lanes that this daemon owns and that send nothing until somebody changes something."),
		blocked:        desc("lanes_blocked", "Lanes that this daemon owns and that may not send now."),
		inFlight:       desc("in_flight", "Attempts being made."),
		late:           desc("in_flight_late", "Attempts that have been at work for over a second."),
		buffered:       desc("buffered", "Rows read ahead."),
		unrecorded:     desc("unrecorded", "Results that wait to be recorded."),
		lease:          desc("lease_seconds", "Time that is left of this daemon's lease; 0 or less means that it may not dispatch."),
		pluginUp:       desc("plugin_ready", "1 if the plugin of a transport is ready.", "transport", "version"),
		pluginRestarts: desc("plugin_restarts_total", "Starts of a plugin's process after the first.", "transport"),
		pluginMemory:   desc("plugin_resident_memory_bytes", "Resident memory of a plugin's process.", "transport"),
		pluginItems:    desc("plugin_in_flight", "Items at work in a plugin.", "transport"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.lanes, c.health, c.held, c.blocked, c.inFlight, c.late, c.buffered, c.unrecorded, c.lease,
		c.pluginUp, c.pluginRestarts, c.pluginMemory, c.pluginItems,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for _, s := range c.transports() {
		up := 0.0
		if s.State == pluginhost.Ready {
			up = 1
		}
		gauge(c.pluginUp, up, s.Name, s.Version)
		gauge(c.pluginMemory, float64(s.MemoryBytes), s.Name)
		gauge(c.pluginItems, float64(s.InFlight), s.Name)
		out <- prometheus.MustNewConstMetric(c.pluginRestarts, prometheus.CounterValue, float64(s.Restarts), s.Name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	state, err := c.state(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(c.lanes, err)
		return
	}
	gauge(c.inFlight, float64(state.InFlight))
	gauge(c.late, float64(state.Late))
	gauge(c.buffered, float64(state.Buffered))
	gauge(c.unrecorded, float64(state.Unrecorded))
	gauge(c.lease, time.Until(state.LeaseUntil).Seconds())
	blocked, held := 0, 0
	lanes := map[string]int{"closed": 0, "open": 0, "half-open": 0}
	statuses := map[string]int{"healthy": 0, "degraded": 0, "unhealthy": 0, "disabled": 0}
	for _, l := range state.Lanes {
		if l.Blocked != "" {
			blocked++
		}
		if l.Held {
			held++
		}
		if l.Breaker != "" {
			lanes[l.Breaker]++
			statuses[l.Health]++
		}
	}
	gauge(c.blocked, float64(blocked))
	gauge(c.held, float64(held))
	for status, n := range statuses {
		gauge(c.health, float64(n), status)
	}
	for breaker, n := range lanes {
		gauge(c.lanes, float64(n), breaker)
	}
}
