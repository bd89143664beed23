package destination

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const plainSecret = "whsec_c2VjcmV0LXNlY3JldA=="

// plugins records what the registry asks of the plugin host. What plugins really
// do is tested with the host.
type plugins struct {
	mu     sync.Mutex
	down   error
	refuse string
	failed string // the step that a connection test fails at
	opened []*transportv1.OpenRequest
	open   map[string]int
	slow   chan struct{} // if set, Open waits for it
}

func (p *plugins) Describe(transport string) (*transportv1.DescribeResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if transport != "webhook" {
		return nil, &pluginhost.UnknownTransportError{Name: transport}
	}
	if p.down != nil {
		return nil, p.down
	}
	return &transportv1.DescribeResponse{Name: "webhook", Schema: &transportv1.ConfigSchema{Attributes: []*transportv1.Attribute{
		{Name: "url", Type: "string", Required: true},
		{Name: "secret", Type: "string", Secret: true},
		{Name: "timeout", Type: "string", DefaultJson: []byte(`"30s"`)},
	}, Blocks: []*transportv1.Block{{Type: "auth", Max: 1, Body: &transportv1.ConfigSchema{
		Attributes: []*transportv1.Attribute{{Name: "token", Type: "string", Secret: true}},
	}}}}}, nil
}

func (p *plugins) Validate(_ context.Context, _ string, config []byte) ([]*transportv1.Diagnostic, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down != nil {
		return nil, p.down
	}
	if strings.Contains(string(config), "ftp://") {
		return []*transportv1.Diagnostic{{
			Severity: transportv1.Diagnostic_SEVERITY_ERROR, Summary: "must be https",
			Path: []*transportv1.PathStep{{Step: &transportv1.PathStep_Attribute{Attribute: "url"}}},
		}}, nil
	}
	return nil, nil
}

func refName(ref *transportv1.InstanceRef) string {
	return fmt.Sprintf("%s/%d", ref.GetId(), ref.GetGeneration())
}

func (p *plugins) Open(ctx context.Context, transport string, req *transportv1.OpenRequest) error {
	p.mu.Lock()
	slow := p.slow
	p.mu.Unlock()
	if slow != nil {
		<-slow
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down != nil {
		return p.down
	}
	if p.refuse != "" {
		return &pluginhost.DiagnosticsError{Transport: transport, Diagnostics: []*transportv1.Diagnostic{{
			Severity: transportv1.Diagnostic_SEVERITY_ERROR, Summary: p.refuse,
			Path: []*transportv1.PathStep{{Step: &transportv1.PathStep_Attribute{Attribute: "url"}}},
		}}}
	}
	p.opened = append(p.opened, req)
	p.open[refName(req.GetInstance())]++
	return nil
}

func (p *plugins) Close(_ context.Context, _ string, ref *transportv1.InstanceRef) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, refName(ref))
	return nil
}

func (p *plugins) TestConnection(_ context.Context, _ string, ref *transportv1.InstanceRef, _ bool) (*transportv1.TestConnectionResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[refName(ref)] == 0 {
		return nil, errors.New("the instance is not open")
	}
	answer := &transportv1.TestConnectionResponse{Steps: []*transportv1.TestStep{{Name: "dns", Ok: true}}}
	if p.failed != "" {
		answer.Steps = append(answer.Steps, &transportv1.TestStep{Name: p.failed, Detail: p.failed, Failure: &transportv1.Failure{Message: p.failed}})
	}
	return answer, nil
}

func (p *plugins) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *plugins) instances() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

type fixture struct {
	*Registry
	store   *store.Store
	plugins *plugins
	box     *secret.Box
	sql     *pgxpool.Pool
	db      *pgtest.Database
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	db := pgtest.New(t)
	f := &fixture{plugins: &plugins{open: map[string]int{}}, db: db, sql: db.Pool(t)}
	var err error
	if f.box, err = secret.NewBox(secret.NewKey()); err != nil {
		t.Fatal(err)
	}
	f.store, f.Registry = f.another(t)
	return f
}

// another is the registry of a second daemon on the same database.
func (f *fixture) another(t testing.TB) (*store.Store, *Registry) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{URL: f.db.URL, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, NewRegistry(Options{
		Store: s, Transports: f.plugins, Box: f.box, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
}

func (f *fixture) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := f.sql.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func declaration(organization, label string) Declaration {
	return Declaration{
		OrganizationID: organization, Label: label, Type: "webhook", Source: "delivery.hcl", Line: 12,
		Settings: Settings{}.WithDefaults(), Resolved: true,
		Config:      []byte(`{"url":"https://x.example","secret":"` + plainSecret + `","auth":{"token":"tok-123456"},"timeout":"30s"}`),
		SecretPaths: []string{"/secret", "/auth/token"},
	}
}

func (f *fixture) apply(t testing.TB, declared ...Declaration) Report {
	t.Helper()
	report, err := f.Apply(t.Context(), declared)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func (f *fixture) get(t testing.TB, organization, ref string) *Destination {
	t.Helper()
	d, err := f.ByRef(t.Context(), organization, ref)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
