package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const tagDaemon = "Daemon"

// readyTimeout bounds the check behind /readyz: an orchestrator asks every few
// seconds and gives up after about one.
const readyTimeout = time.Second

func (a *API) registerDaemon(metrics http.Handler) {
	register(a, operation{
		id: "reload-config", method: http.MethodPost, path: "/v1/reload", tag: tagDaemon, permission: reloadConfig,
		summary:     "Read the configuration again",
		description: "Whole or nothing: with any mistake in it, all of the old stays in effect and the answer says what is wrong. While another reload is at work, this one waits for it. It goes on when its caller gives up: the log and the metric deliveryd_config_reload_success say how it ended.",
		errors:      []int{http.StatusUnprocessableEntity}, long: true,
	}, reload)
	a.mux.HandleFunc("GET /healthz", a.healthz)
	a.mux.HandleFunc("GET /readyz", a.readyz)
	a.mux.Handle("GET /metrics", a.guarded(readMetrics, metrics))
	a.mux.HandleFunc("GET /openapi.json", a.openapiJSON)
	a.mux.HandleFunc("GET /openapi.yaml", a.openapiYAML)
}

// guarded protects a handler that huma knows nothing of.
func (a *API) guarded(p permission, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r := requestOf(req.Context())
		if problem := a.authenticate(r, p); problem != nil {
			writeProblem(r, problem)
			return
		}
		next.ServeHTTP(w, req)
	})
}

type reloadOutput struct{ Body *ReloadReport }

func reload(ctx context.Context, s *Services, _ Caller, _ *struct{}) (*reloadOutput, error) {
	report, err := s.Reload(ctx)
	if err != nil {
		return nil, err
	}
	return &reloadOutput{report}, nil
}

// ConfigProblem is the answer to a reload whose configuration has mistakes: each
// text names file, line and what would be right.
func ConfigProblem(mistakes []string) error {
	p := newProblem(http.StatusUnprocessableEntity, CodeInvalidConfig, "The configuration has mistakes; the old one stays in effect.")
	for i, text := range mistakes {
		if i == maxFieldProblems {
			p.Errors = append(p.Errors, FieldProblem{Detail: fmt.Sprintf("And %d more: `deliveryd config validate` prints all.", len(mistakes)-i)})
			break
		}
		p.Errors = append(p.Errors, FieldProblem{Detail: strings.TrimSpace(text)})
	}
	return p
}

// StoppingProblem is the answer of a daemon that is stopping.
func StoppingProblem() error {
	return unavailable(nil, retryUnavailable, "The daemon is stopping; nothing was changed.")
}

// healthState is the answer of /healthz and /readyz. They need no key, so they
// say nothing that a stranger could use.
type healthState struct {
	Status  string `json:"status"`
	Version string `json:"version,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// healthz says that the process lives. It never looks at the database: restarting
// the daemon would not bring that back.
func (a *API) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, healthState{Status: "alive", Version: a.version})
}

// readyz says whether work can be sent here.
func (a *API) readyz(w http.ResponseWriter, req *http.Request) {
	if err := a.ready(req.Context()); err != nil {
		w.Header().Set("Retry-After", "1")
		writeJSON(w, http.StatusServiceUnavailable, healthState{Status: "not ready", Reason: err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, healthState{Status: "ready", Version: a.version})
}

func (a *API) ready(ctx context.Context) error {
	if a.stopping.Load() {
		return errors.New("stopping")
	}
	services := a.services.Load()
	if services == nil {
		return errors.New("starting")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := services.Ready(ctx); err != nil {
		a.log.Warn("not ready", "error", err)
		return fmt.Errorf("waiting for the database")
	}
	return nil
}
