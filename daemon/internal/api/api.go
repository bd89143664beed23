// Package api is the HTTP face of the daemon: it turns requests into calls of
// the services behind it, and their results and errors into answers. Its
// operations are declared with huma, which writes the OpenAPI document from the
// same Go types that encode the answers.
//
// It must never decide what a delivery or a destination may do (the services
// do), let a caller see or touch what belongs to another organization than its
// key's, put a secret or another's error text into an answer, or read more of a
// request than its bounds say.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
)

// Deliveries takes and shows deliveries. Its errors may be *Problem, wrap a
// sentinel of the store, or be anything else, which is then an internal error.
type Deliveries interface {
	Submit(ctx context.Context, caller Caller, s *Submission) (*Accepted, error)
	// SubmitBatch returns one result per submission, in order.
	SubmitBatch(ctx context.Context, caller Caller, all []*Submission) ([]BatchItem, error)
	Get(ctx context.Context, caller Caller, id string) (*Delivery, error)
	List(ctx context.Context, caller Caller, filter DeliveryFilter) (*DeliveryPage, error)
	// Cancel and Replay work on one destination, or on all with an empty
	// reference; all three return how many rows they moved.
	Cancel(ctx context.Context, caller Caller, id, destination string) (int, error)
	Replay(ctx context.Context, caller Caller, id, destination string) (int, error)
	ReplayDeadLetters(ctx context.Context, caller Caller, filter DeadLetterFilter) (int, error)
}

// DeadLetterFilter chooses dead letters of one destination. Zero fields choose all.
type DeadLetterFilter struct {
	Destination  string
	Since, Until time.Time
	Reason, Type string
	Limit        int
}

// DeliveryFilter chooses deliveries. Zero fields choose all.
type DeliveryFilter struct {
	Status        string
	Destination   string
	CorrelationID string
	Since, Until  time.Time
	Cursor        string
	Limit         int
	// Undelivered chooses what waits for destinations that are disabled, paused or held.
	Undelivered bool
}

// Destinations shows and operates destinations. Its errors are as those of
// Deliveries.
type Destinations interface {
	List(ctx context.Context, caller Caller) ([]Destination, error)
	Get(ctx context.Context, caller Caller, ref string) (*Destination, error)
	Pause(ctx context.Context, caller Caller, ref string) (*Destination, error)
	Resume(ctx context.Context, caller Caller, ref string) (*Destination, error)
	Test(ctx context.Context, caller Caller, ref string, ping bool) (*TestResult, error)
	Create(ctx context.Context, caller Caller, n *NewDestination) (*Destination, error)
	Update(ctx context.Context, caller Caller, ref string, p *DestinationPatch) (*Destination, error)
	Delete(ctx context.Context, caller Caller, ref string, force bool) (*DeletedDestination, error)
	Enable(ctx context.Context, caller Caller, ref string) (*Destination, error)
	Disable(ctx context.Context, caller Caller, ref, reason string) (*Destination, error)
	Lanes(ctx context.Context, caller Caller) ([]Lane, error)
	OpenBreaker(ctx context.Context, caller Caller, ref, reason string) (*Destination, error)
	CloseBreaker(ctx context.Context, caller Caller, ref string) (*Destination, error)
}

// Secrets shows and changes the signing secrets of destinations. Its errors are as
// those of Deliveries.
type Secrets interface {
	List(ctx context.Context, caller Caller, ref string) ([]Secret, error)
	Create(ctx context.Context, caller Caller, ref string, s *NewSecret) (*CreatedSecret, error)
	Rotate(ctx context.Context, caller Caller, ref string, r *SecretRotation) (*CreatedSecret, error)
	Change(ctx context.Context, caller Caller, ref, id string, c *SecretChange) (*Secret, error)
	Revoke(ctx context.Context, caller Caller, ref, id string, force bool) (*Secret, error)
}

// AuditFilter chooses entries of the audit log. Zero fields choose all.
type AuditFilter struct {
	Actor, Action, TargetType, Target string
	Since, Until                      time.Time
	Before                            int64
	Limit                             int
}

// Services is what the API answers with.
type Services struct {
	Deliveries   Deliveries
	Artifacts    Artifacts
	Destinations Destinations
	Alerts       Alerts
	Secrets      Secrets
	// Audit lists the audit log.
	Audit func(ctx context.Context, caller Caller, filter AuditFilter) (*AuditPage, error)
	// RotateKeys seals all secrets with the current key.
	RotateKeys func(ctx context.Context, caller Caller) (*KeyRotation, error)
	// Reload reads the configuration again.
	Reload func(ctx context.Context) (*ReloadReport, error)
	// Plugins says how the plugins are, by name.
	Plugins func() []Plugin
	// Ready returns an error that says what is missing before work can be done.
	Ready func(ctx context.Context) error
}

// Limits bounds requests.
type Limits struct {
	// Body is the most bytes of a request's body. No default.
	Body int64
	// Batch is the most deliveries in one batch. No default.
	Batch int
}

// Options are what an API needs from its first moment; the services come with
// Serve.
type Options struct {
	Logger *slog.Logger
	// Metrics is where the API's own metrics are registered.
	Metrics prometheus.Registerer
	// MetricsHandler answers GET /metrics.
	MetricsHandler http.Handler
	Version        string
	Keys           *Keys
	Limits         Limits
}

// API is an http.Handler. It answers from the start, so that an orchestrator can
// tell a daemon that waits for its database from one that hangs.
type API struct {
	log       *slog.Logger
	mux       *http.ServeMux
	huma      huma.API
	bodies    *bodies
	uploads   chan struct{} // a slot each
	keys      atomic.Pointer[Keys]
	limits    atomic.Pointer[Limits]
	services  atomic.Pointer[Services]
	stopping  atomic.Bool
	outage    outage
	durations *prometheus.HistogramVec
	version   string
	spec      spec
}

// New returns an API that has no services yet: operations answer 503.
func New(o Options) (*API, error) {
	a := &API{log: o.Logger, mux: http.NewServeMux(), version: o.Version, uploads: make(chan struct{}, maxUploads)}
	a.SetKeys(o.Keys)
	a.SetLimits(o.Limits)
	a.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "deliveryd", Name: "http_request_duration_seconds",
		Help:    "Time from the headers of a request to its answer.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"route", "status"})
	if err := o.Metrics.Register(a.durations); err != nil {
		return nil, err
	}
	a.huma = humago.New(a.mux, humaConfig(o.Version))
	a.bodies = newBodies(a.huma.OpenAPI().Components.Schemas)
	a.registerDeliveries()
	a.registerArtifacts()
	a.registerDestinations()
	a.registerBreaker()
	a.registerAlerts()
	a.registerManage()
	a.registerSecrets()
	a.registerAudit()
	a.registerEncryption()
	a.registerLifecycle()
	a.registerPlugins()
	a.registerDaemon(o.MetricsHandler)
	a.mux.HandleFunc("/", a.notFound)
	return a, a.buildSpec()
}

func humaConfig(version string) huma.Config {
	config := huma.DefaultConfig("deliveryd", version)
	config.Info.Description = "Takes things that must arrive and delivers them, reliably and provably."
	// Its documentation page loads scripts from a CDN; the schema links would
	// add a member to every answer; the document is served by this package.
	config.DocsPath, config.SchemasPath, config.OpenAPIPath = "", "", ""
	config.CreateHooks, config.Transformers = nil, nil
	config.RejectUnknownQueryParameters = true
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		securityScheme: {Type: "http", Scheme: "bearer", Description: "The token of an api_key"},
	}
	return config
}

const securityScheme = "api_key"

// Serve gives the API its services: from now on it is ready.
func (a *API) Serve(s *Services) { a.services.Store(s) }

// Stopping makes the API say that it is not ready and refuse submissions; other
// requests are still answered.
func (a *API) Stopping() { a.stopping.Store(true) }

// SetKeys changes who may call.
func (a *API) SetKeys(keys *Keys) { a.keys.Store(keys) }

// SetLimits changes the bounds of requests.
func (a *API) SetLimits(limits Limits) { a.limits.Store(&limits) }
