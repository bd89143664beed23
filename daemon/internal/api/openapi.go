package api

import (
	"fmt"
	"net/http"
)

// spec is the OpenAPI document in both its forms. It is written once, when all
// operations are there: huma writes it on the first request, without a lock.
type spec struct{ json, yaml []byte }

func (a *API) buildSpec() (err error) {
	if a.spec.json, err = a.huma.OpenAPI().MarshalJSON(); err != nil {
		return fmt.Errorf("writing the OpenAPI document: %w", err)
	}
	if a.spec.yaml, err = a.huma.OpenAPI().YAML(); err != nil {
		return fmt.Errorf("writing the OpenAPI document: %w", err)
	}
	return nil
}

func (a *API) openapiJSON(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+json")
	_, _ = w.Write(a.spec.json)
}

func (a *API) openapiYAML(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+yaml")
	_, _ = w.Write(a.spec.yaml)
}
