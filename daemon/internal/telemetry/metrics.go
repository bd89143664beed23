package telemetry

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Namespace starts the name of every metric of the daemon itself.
const Namespace = "deliveryd"

// maxScrapes bounds the scrapes that run at once: each walks every lane.
const maxScrapes = 4

// NewRegistry returns a registry that already holds the Go runtime's and the
// process's metrics and deliveryd_build_info.
func NewRegistry(version, revision string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: Namespace, Name: "build_info", Help: "Always 1; the labels say what runs.",
	}, []string{"version", "revision"})
	info.WithLabelValues(version, revision).Set(1)
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return registry
}

// MetricsHandler serves the registry in the format that the scraper asks for. A
// collector that fails costs its own metrics, not the scrape.
func MetricsHandler(registry *prometheus.Registry, logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		Registry:            registry,
		ErrorHandling:       promhttp.ContinueOnError,
		ErrorLog:            scrapeLog{logger},
		MaxRequestsInFlight: maxScrapes,
		Timeout:             10 * time.Second,
	})
}

type scrapeLog struct{ logger *slog.Logger }

func (l scrapeLog) Println(v ...any) {
	l.logger.Warn("gathering metrics", "error", fmt.Sprint(v...))
}

// Reload holds the metrics of reading the configuration again.
type Reload struct {
	success prometheus.Gauge
	last    prometheus.Gauge
}

// NewReload registers deliveryd_config_reload_success, which is 1 until a reload
// fails, and deliveryd_config_reload_success_timestamp_seconds.
func NewReload(registry prometheus.Registerer) *Reload {
	r := &Reload{
		success: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: Namespace, Name: "config_reload_success",
			Help: "1 if the last attempt to read the configuration succeeded, 0 if it failed and the old one is still used.",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: Namespace, Name: "config_reload_success_timestamp_seconds",
			Help: "Time at which the configuration in use was read.",
		}),
	}
	registry.MustRegister(r.success, r.last)
	return r
}

// Done records a reload that ended at the given time.
func (r *Reload) Done(at time.Time, err error) {
	if err != nil {
		r.success.Set(0)
		return
	}
	r.success.Set(1)
	r.last.Set(float64(at.UnixMilli()) / 1000)
}
