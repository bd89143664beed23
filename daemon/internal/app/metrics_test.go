package app

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/engine"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
)

func TestObserver(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	o := newObserver(registry)
	webhook := &destination.Destination{Type: "webhook"}
	o.Attempt(webhook, "delivered", 20*time.Millisecond)
	o.Attempt(webhook, "delivered", 20*time.Millisecond)
	o.Attempt(webhook, "transient", time.Second)
	o.Recorded(2, 3, 1, 1, time.Millisecond)
	o.Breaker(webhook, "closed", "open", "5 failures")
	want := `
# HELP deliveryd_attempts_total Attempts that ended, by transport and result class.
# TYPE deliveryd_attempts_total counter
deliveryd_attempts_total{class="delivered",transport="webhook"} 2
deliveryd_attempts_total{class="transient",transport="webhook"} 1
# HELP deliveryd_circuit_breaker_changes_total Changes of circuit breakers, by transport and new state.
# TYPE deliveryd_circuit_breaker_changes_total counter
deliveryd_circuit_breaker_changes_total{to="open",transport="webhook"} 1
# HELP deliveryd_outcomes_total Outcomes that were recorded: delivered, retried, dead (dead letters) or fenced (the row had changed meanwhile).
# TYPE deliveryd_outcomes_total counter
deliveryd_outcomes_total{outcome="dead"} 1
deliveryd_outcomes_total{outcome="delivered"} 2
deliveryd_outcomes_total{outcome="fenced"} 1
deliveryd_outcomes_total{outcome="retried"} 2
`
	err := testutil.GatherAndCompare(registry, strings.NewReader(want), "deliveryd_attempts_total", "deliveryd_circuit_breaker_changes_total", "deliveryd_outcomes_total")
	if err != nil {
		t.Error(err)
	}
}

func TestCollector(t *testing.T) {
	t.Parallel()
	transports := func() []pluginhost.Status {
		return []pluginhost.Status{
			{Name: "webhook", Version: "1.0.0", State: pluginhost.Ready, Restarts: 2, MemoryBytes: 1 << 20, InFlight: 3},
			{Name: "broken", State: pluginhost.Failed},
		}
	}
	state := func(context.Context) (engine.State, error) {
		return engine.State{InFlight: 4, Late: 1, Buffered: 5, Unrecorded: 6, Lanes: []engine.LaneState{
			{Breaker: "closed", Health: "healthy"}, {Breaker: "open", Health: "unhealthy", Held: true, Blocked: "circuit breaker open"}, {Blocked: "being loaded"},
		}}, nil
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(state, transports))
	want := `
# HELP deliveryd_in_flight Attempts being made.
# TYPE deliveryd_in_flight gauge
deliveryd_in_flight 4
# HELP deliveryd_in_flight_late Attempts that have been at work for over a second.
# TYPE deliveryd_in_flight_late gauge
deliveryd_in_flight_late 1
# HELP deliveryd_lanes Lanes that this daemon owns, by the state of their circuit breaker.
# TYPE deliveryd_lanes gauge
deliveryd_lanes{circuit_breaker="closed"} 1
deliveryd_lanes{circuit_breaker="half-open"} 0
deliveryd_lanes{circuit_breaker="open"} 1
# HELP deliveryd_lanes_blocked Lanes that this daemon owns and that may not send now.
# TYPE deliveryd_lanes_blocked gauge
deliveryd_lanes_blocked 2
# HELP deliveryd_lanes_health Lanes that this daemon owns, by the health of their destination.
# TYPE deliveryd_lanes_health gauge
deliveryd_lanes_health{status="degraded"} 0
deliveryd_lanes_health{status="disabled"} 0
deliveryd_lanes_health{status="healthy"} 1
deliveryd_lanes_health{status="unhealthy"} 1
# HELP deliveryd_lanes_held Lanes that this daemon owns and that send nothing until somebody changes something.
# TYPE deliveryd_lanes_held gauge
deliveryd_lanes_held 1
# HELP deliveryd_plugin_ready 1 if the plugin of a transport is ready.
# TYPE deliveryd_plugin_ready gauge
deliveryd_plugin_ready{transport="broken",version=""} 0
deliveryd_plugin_ready{transport="webhook",version="1.0.0"} 1
`
	err := testutil.GatherAndCompare(registry, strings.NewReader(want), "deliveryd_in_flight", "deliveryd_in_flight_late", "deliveryd_lanes", "deliveryd_lanes_blocked", "deliveryd_lanes_health", "deliveryd_lanes_held", "deliveryd_plugin_ready")
	if err != nil {
		t.Error(err)
	}
}

func TestOpenAlertsAreCounted(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	count := countAlerts(registry)
	count(map[string]int{"high": 2, "critical": 1})
	count(map[string]int{"high": 1})
	want := `
# HELP deliveryd_alerts Alerts that are open or acknowledged, by severity, at the daemon that looks for them; 0 at the others.
# TYPE deliveryd_alerts gauge
deliveryd_alerts{severity="critical"} 0
deliveryd_alerts{severity="high"} 1
deliveryd_alerts{severity="warning"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestCollectorWithoutAnEngineStillShowsPlugins(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(
		func(context.Context) (engine.State, error) { return engine.State{}, errors.New("stopped") },
		func() []pluginhost.Status { return []pluginhost.Status{{Name: "webhook", State: pluginhost.Ready}} }))
	families, err := registry.Gather()
	if err == nil {
		t.Error("the scrape hides that the engine did not answer")
	}
	found := false
	for _, f := range families {
		found = found || f.GetName() == "deliveryd_plugin_ready"
	}
	if !found {
		t.Error("without an engine the plugins are not shown")
	}
}
