package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A reload may take longer than a connection otherwise may, reading or writing.
func TestReloadOutlastsTheLimitsOfItsConnection(t *testing.T) {
	t.Parallel()
	const limit = 500 * time.Millisecond
	a := newTestAPI(t, &fake{})
	services := *a.services.Load()
	services.Reload = func(ctx context.Context) (*ReloadReport, error) {
		select {
		case <-time.After(2 * limit):
			return &ReloadReport{Summary: "at last"}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	a.Serve(&services)
	server := httptest.NewUnstartedServer(a)
	server.Config.ReadTimeout, server.Config.WriteTimeout = limit, limit
	server.Start()
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/reload", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+fleetAdmin)
	response, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %s", response.Status)
	}
}

// Each mistake is one entry; those that are left out are counted.
func TestConfigProblem(t *testing.T) {
	t.Parallel()
	var mistakes []string
	for i := range maxFieldProblems + 7 {
		mistakes = append(mistakes, fmt.Sprintf("Error: wrong\n\n  on delivery.hcl line %d:\n\nIt must be right.\n\n", i))
	}
	var p *Problem
	if !errors.As(ConfigProblem(mistakes[:2]), &p) || len(p.Errors) != 2 || !strings.HasSuffix(p.Errors[1].Detail, "line 1:\n\nIt must be right.") {
		t.Errorf("two mistakes: %+v", p)
	}
	if !errors.As(ConfigProblem(mistakes), &p) || len(p.Errors) != maxFieldProblems+1 || !strings.Contains(p.Errors[maxFieldProblems].Detail, "7 more") {
		t.Errorf("many mistakes: %d, %+v", len(p.Errors), p.Errors[len(p.Errors)-1])
	}
}
