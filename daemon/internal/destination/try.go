package destination

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// parallelTries bounds the instances that Try opens at once.
	parallelTries = 8
	// maxSilent is how many tries a plugin may leave unanswered: each takes as long
	// as the host waits.
	maxSilent = 3
)

// Trials is where instances are tried: the plugins as they will be.
type Trials interface {
	// Try opens an instance and closes it again.
	Try(ctx context.Context, transport string, req *transportv1.OpenRequest) error
}

// Refusal is a declared destination that cannot be opened.
type Refusal struct {
	// Declaration is its index among those of the plan.
	Declaration int
	// Err is a *ConfigError where the plugin says what is wrong with the
	// configuration, or says why it could not be asked.
	Err error
}

// Try opens each destination that a plan creates, changes for its plugin or
// enables, in an instance of its own that is closed again, and returns those that
// cannot be opened, in the order of their declarations. The generation itself is
// opened by whoever owns the lane, which may be another daemon, and only when the
// row that declares it is there.
func (r *Registry) Try(ctx context.Context, p *Plan, in Trials) ([]Refusal, error) {
	kept, err := r.keptSecrets(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("trying the changed destinations: %w", err)
	}
	silent := silence{count: map[string]int{}}
	found := make([]error, len(p.writes))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelTries)
	for i := range p.writes {
		w := &p.writes[i]
		if !w.opens {
			continue
		}
		signing, ok := kept[w.Row.ID]
		if ok && len(signing) == 0 {
			continue // none may be used, which is not the file's fault: the lane is held until somebody creates one
		}
		group.Go(func() error {
			if transport := p.declared[w.declaration].Type; !silent.tooMany(transport) {
				found[i] = r.tryOne(ctx, &p.declared[w.declaration], signing, in)
				silent.note(transport, found[i])
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("trying the changed destinations: %w", err)
	}
	var refused []Refusal
	for i, err := range found {
		if err != nil {
			refused = append(refused, Refusal{p.writes[i].declaration, err})
		}
	}
	return refused, nil
}

// keptSecrets returns the signing secrets that are kept of the destinations that a
// plan opens: all at once, since a reload may change thousands.
func (r *Registry) keptSecrets(ctx context.Context, p *Plan) (map[int32][]store.Secret, error) {
	var ids []int32
	for i := range p.writes {
		if w := &p.writes[i]; w.opens && w.Row.ID != 0 {
			ids = append(ids, w.Row.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return r.store.SecretsOf(ctx, ids)
}

// tryOne tries a declaration with the signing secrets that are kept of its destination, if any are.
func (r *Registry) tryOne(ctx context.Context, d *Declaration, signing []store.Secret, in Trials) error {
	name := d.OrganizationID + "/" + d.Label
	req := &transportv1.OpenRequest{
		Instance: &transportv1.InstanceRef{Id: "try-" + rand.Text(), Generation: 1},
		Config:   &transportv1.Config{Json: d.Config}, Concurrency: uint32(d.Settings.Concurrency), OrganizationId: d.OrganizationID, Label: d.Label,
	}
	var err error
	if req.Secrets, err = r.openSecrets(name, signing); err != nil {
		return nil // they are not the file's: the lane is held until somebody mends them
	}
	secrets := secret.TextsAt(d.Config, d.SecretPaths)
	for _, one := range req.GetSecrets() {
		secrets = append(secrets, one.GetKey())
	}
	defer r.know(secrets...)()
	err = in.Try(ctx, d.Type, req)
	var refused *pluginhost.DiagnosticsError
	if errors.As(err, &refused) {
		return &ConfigError{Destination: name, Diagnostics: scrubDiagnostics(refused.Diagnostics, secrets)}
	}
	return err
}

// silence counts the tries that a plugin has not answered.
type silence struct {
	mu    sync.Mutex
	count map[string]int
}

func (s *silence) note(transport string, err error) {
	switch {
	case errors.Is(err, pluginhost.ErrUnavailable):
		s.add(transport, maxSilent)
	case errors.Is(err, context.DeadlineExceeded):
		s.add(transport, 1)
	}
}

func (s *silence) add(transport string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[transport] += n
}

func (s *silence) tooMany(transport string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[transport] >= maxSilent
}
