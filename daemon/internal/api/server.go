package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
)

// Bounds of a connection. A client that is slower than these is cut: without
// them a few thousand idle sockets would be enough to keep everyone else out.
const (
	headerTimeout = 10 * time.Second
	// readTimeout bounds a request with its body: 10 MiB at 1.4 Mbit/s.
	readTimeout = 60 * time.Second
	// writeTimeout counts from the end of the headers, so it holds the body and the work as well.
	writeTimeout   = 120 * time.Second
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 64 << 10
)

// NewServer returns an HTTP server for a handler, with every timeout set.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP implements http.Handler: it gives every request an id, keeps a panic
// of one from ending the daemon, and counts and logs how it ended.
func (a *API) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	started := time.Now()
	r := &request{id: requestID(req.Header), writer: w}
	r.http = req.WithContext(context.WithValue(req.Context(), requestKey{}, r))
	w.Header()["X-Request-Id"] = []string{r.id}
	defer a.finish(r, started)
	a.mux.ServeHTTP(r, r.http)
}

func (a *API) finish(r *request, started time.Time) {
	if cause := recover(); cause != nil {
		if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(cause)
		}
		a.log.Error("panic while serving a request", "request_id", r.id, "route", r.http.Pattern, "panic", cause, "stack", string(debug.Stack()))
		if r.status == 0 {
			writeProblem(r, internalProblem(nil))
		}
	}
	took := time.Since(started)
	a.observe(r, took)
	level := slog.LevelDebug
	if r.status >= http.StatusInternalServerError && r.status != http.StatusServiceUnavailable { // of that, see outage
		level = slog.LevelWarn
	}
	if a.log.Enabled(r.http.Context(), level) {
		a.log.LogAttrs(r.http.Context(), level, "request", slog.String("request_id", r.id), slog.String("method", r.http.Method),
			slog.String("path", r.http.URL.Path), slog.Int("status", r.status), slog.Duration("took", took),
			slog.String("api_key", r.caller.Key), slog.String("organization", r.caller.Organization), slog.String("remote", r.http.RemoteAddr))
	}
}

func (a *API) observe(r *request, took time.Duration) {
	route := r.http.Pattern
	if route == "" {
		route = "none"
	}
	a.durations.WithLabelValues(route, strconv.Itoa(r.status)).Observe(took.Seconds())
}

// writeProblem answers where huma is not involved.
func writeProblem(r *request, p *Problem) {
	for name, values := range p.GetHeaders() {
		r.Header()[name] = values
	}
	p.RequestID = r.id
	r.Header().Set("Content-Type", problemMediaType)
	r.WriteHeader(p.Status)
	_ = json.NewEncoder(r).Encode(p) // the client is gone if this fails
}

// writeJSON answers where huma is not involved.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// notFound answers for every path that no operation has, and for methods that a
// path does not have.
func (a *API) notFound(w http.ResponseWriter, req *http.Request) {
	r := requestOf(req.Context())
	if r.writer == nil {
		r.writer = w
	}
	var allow []string
	probe := req.Clone(req.Context())
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe.Method = method
		if _, pattern := a.mux.Handler(probe); pattern != "" && pattern != "/" {
			allow = append(allow, method)
		}
	}
	if len(allow) > 0 {
		p := newProblem(http.StatusMethodNotAllowed, CodeMethodNotAllowed, "This path does not take %s.", req.Method)
		p.allow = allow
		writeProblem(r, p)
		return
	}
	writeProblem(r, newProblem(http.StatusNotFound, CodeNotFound, "There is nothing at this path; GET /openapi.json lists what there is."))
}
