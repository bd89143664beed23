// Package docs writes the reference documentation that follows from the code:
// docs/api.md from the API's OpenAPI document, docs/transports.md from what the
// shipped plugins say of themselves. (docs/configuration.md comes from package
// config.) What it writes depends on the code alone, so that
// `make check-generated` can tell when a page is stale.
//
// It must never describe anything that the document does not hold, except for
// what OpenAPI has no place for: the codes of problems and the paths that need no
// key.
package docs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

// OpenAPI returns the document that a daemon serves as /openapi.json, with an
// empty version: a page must not go stale with every commit.
func OpenAPI() ([]byte, error) {
	keys, err := api.NewKeys(nil)
	if err != nil {
		return nil, fmt.Errorf("making the API: %w", err)
	}
	served, err := api.New(api.Options{
		Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		MetricsHandler: http.NotFoundHandler(), Keys: keys,
	})
	if err != nil {
		return nil, fmt.Errorf("making the API: %w", err)
	}
	answer := httptest.NewRecorder()
	served.ServeHTTP(answer, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/openapi.json", http.NoBody))
	if answer.Code != http.StatusOK {
		return nil, fmt.Errorf("reading /openapi.json: status %d", answer.Code)
	}
	return answer.Body.Bytes(), nil
}

// API writes docs/api.md.
func API(w io.Writer) error {
	text, err := OpenAPI()
	if err != nil {
		return err
	}
	document, err := parse(text)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	document.write(&page)
	if _, err := w.Write(page.Bytes()); err != nil {
		return fmt.Errorf("writing the API's documentation: %w", err)
	}
	return nil
}
