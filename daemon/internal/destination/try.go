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
	silent := silence{count: map[string]int{}}
	found := make([]error, len(p.writes))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelTries)
	for i := range p.writes {
		w := &p.writes[i]
		if !w.opens {
			continue
		}
		group.Go(func() error {
			if transport := p.declared[w.declaration].Type; !silent.tooMany(transport) {
				found[i] = r.tryOne(ctx, &p.declared[w.declaration], w.Row.ID, in)
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

// tryOne tries a declaration; id is 0 while there is no row of it.
func (r *Registry) tryOne(ctx context.Context, d *Declaration, id int32, in Trials) error {
	name := d.OrganizationID + "/" + d.Label
	req := &transportv1.OpenRequest{
		Instance: &transportv1.InstanceRef{Id: "try-" + rand.Text(), Generation: 1},
		Config:   &transportv1.Config{Json: d.Config}, Concurrency: uint32(d.Settings.Concurrency), OrganizationId: d.OrganizationID, Label: d.Label,
	}
	if id != 0 {
		var err error
		req.Secrets, err = r.signingSecrets(ctx, &Destination{ID: id, OrganizationID: d.OrganizationID, Label: d.Label})
		var unusable *ConfigError
		if errors.As(err, &unusable) {
			return nil // they are not the file's: the lane is held until somebody mends them
		}
		if err != nil {
			return err
		}
	}
	secrets := secret.TextsAt(d.Config, d.SecretPaths)
	for _, one := range req.GetSecrets() {
		secrets = append(secrets, one.GetKey())
	}
	defer r.know(secrets...)()
	err := in.Try(ctx, d.Type, req)
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
