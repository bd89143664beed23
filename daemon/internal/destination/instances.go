package destination

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// closeTimeout bounds the draining of an instance that nothing is in flight of.
const closeTimeout = 30 * time.Second

type instanceKey struct {
	transport string
	ref       string
	gen       uint64
}

func keyOf(transport string, ref *transportv1.InstanceRef) instanceKey {
	return instanceKey{transport, ref.GetId(), ref.GetGeneration()}
}

// instances are those that this process has opened in plugins.
type instances struct {
	mu   sync.Mutex
	open map[instanceKey]*instance
}

// instance is one generation of a destination in a plugin. The token of turn is
// held by who opens or closes it.
type instance struct {
	turn   chan struct{}
	opened bool
	forget func() // its secrets; set while it is open
	gone   bool   // closed, and out of the map
}

// take returns the instance of a key with its turn.
func (s *instances) take(ctx context.Context, key instanceKey) (*instance, error) {
	for {
		s.mu.Lock()
		i, ok := s.open[key]
		if !ok {
			i = &instance{turn: make(chan struct{}, 1)}
			s.open[key] = i
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case i.turn <- struct{}{}:
		}
		if !i.gone {
			return i, nil
		}
		<-i.turn
	}
}

// put gives the turn back; what is not open is forgotten.
func (s *instances) put(key instanceKey, i *instance) {
	if !i.opened {
		i.gone = true
		s.mu.Lock()
		delete(s.open, key)
		s.mu.Unlock()
	}
	<-i.turn
}

// Open makes sure that an instance of d's generation is open in its plugin, and
// returns its name. Callers of the same generation wait for the first. Errors
// wrap ErrTransportUnavailable, are a *ConfigError, or are the store's.
func (r *Registry) Open(ctx context.Context, d *Destination) (*transportv1.InstanceRef, error) {
	ref := &transportv1.InstanceRef{Id: strconv.Itoa(int(d.ID)), Generation: uint64(d.Generation)}
	key := keyOf(d.Type, ref)
	i, err := r.instance.take(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", d.key(), err)
	}
	defer r.instance.put(key, i)
	if i.opened {
		return ref, nil
	}
	if _, i.forget, err = r.openAs(ctx, d, ref); err != nil {
		return nil, err
	}
	i.opened = true
	return ref, nil
}

// openAs opens d under a name and returns its secrets, which are kept out of the
// log until forget is called.
func (r *Registry) openAs(ctx context.Context, d *Destination, ref *transportv1.InstanceRef) (secrets []string, forget func(), err error) {
	req, secrets, err := r.openRequest(ctx, d, ref)
	if err != nil {
		return nil, nil, err
	}
	forget = r.know(secrets...)
	if err := r.openInstance(ctx, d, req, secrets); err != nil {
		forget()
		return nil, nil, err
	}
	return secrets, forget, nil
}

func (r *Registry) openInstance(ctx context.Context, d *Destination, req *transportv1.OpenRequest, secrets []string) error {
	err := r.transports.Open(ctx, d.Type, req)
	var refused *pluginhost.DiagnosticsError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return &ConfigError{Destination: d.key(), Diagnostics: scrubDiagnostics(refused.Diagnostics, secrets)}
	case errors.Is(err, pluginhost.ErrUnavailable):
		// The host would open it when the plugin is back; who wants it then asks again.
		_ = r.transports.Close(ctx, d.Type, req.GetInstance())
	}
	return fmt.Errorf("opening %s: %w", d.key(), unavailable(err))
}

// unavailable makes ErrTransportUnavailable of the host's errors that mean it.
func unavailable(err error) error {
	if errors.Is(err, pluginhost.ErrUnavailable) || errors.Is(err, pluginhost.ErrUnknownTransport) {
		return fmt.Errorf("%w: %w", ErrTransportUnavailable, err)
	}
	return err
}

// openRequest makes the request that opens d, and lists the secrets in it.
func (r *Registry) openRequest(ctx context.Context, d *Destination, ref *transportv1.InstanceRef) (_ *transportv1.OpenRequest, secrets []string, err error) {
	if d.broken != nil {
		return nil, nil, &ConfigError{Destination: d.key(), Err: d.broken}
	}
	described, err := r.transports.Describe(d.Type)
	if err != nil {
		return nil, nil, fmt.Errorf("opening %s: %w", d.key(), unavailable(err))
	}
	plain, err := r.box.OpenPaths(d.sealed, d.place())
	if err != nil {
		return nil, nil, &ConfigError{Destination: d.key(), Err: err}
	}
	// Another program's row may lack defaults, and a newer plugin may want more.
	filled, found := schema.Check(described.GetSchema(), plain)
	if found.HasErrors() {
		return nil, nil, &ConfigError{Destination: d.key(), Diagnostics: found.Proto()}
	}
	signing, err := r.signingSecrets(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	// Not the schema's alone: a configuration file may have any attribute from env().
	secrets = secret.TextsAt(filled, slices.Concat(SecretPaths(described.GetSchema()), secret.SealedAt(d.sealed)))
	for _, one := range signing {
		secrets = append(secrets, one.GetKey())
	}
	return &transportv1.OpenRequest{
		Instance: ref, Config: &transportv1.Config{Json: filled}, Concurrency: uint32(d.Settings.Concurrency), Secrets: signing,
		OrganizationId: d.OrganizationID, Label: d.Label,
	}, secrets, nil
}

func (r *Registry) signingSecrets(ctx context.Context, d *Destination) ([]*transportv1.Secret, error) {
	rows, kept, err := r.store.Secrets(ctx, d.ID)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", d.key(), err)
	}
	if kept && len(rows) == 0 {
		// Never unsigned because all have ended. Where none were ever kept, the
		// configuration's own is the plugin's affair.
		return nil, &ConfigError{Destination: d.key(), Err: ErrNoUsableSecret}
	}
	return r.openSecrets(d.key(), rows)
}

// openSecrets opens the rows of a destination.
func (r *Registry) openSecrets(name string, rows []store.Secret) ([]*transportv1.Secret, error) {
	secrets := make([]*transportv1.Secret, 0, len(rows))
	for i := range rows {
		key, err := r.openSecret(&rows[i])
		if err != nil {
			return nil, &ConfigError{Destination: name, Err: fmt.Errorf("signing secret %q: %w", rows[i].ID, err)}
		}
		one := &transportv1.Secret{Id: rows[i].ID, Key: key, Algorithm: algorithm(rows[i].Algorithm)}
		if one.Algorithm == "" {
			return nil, &ConfigError{Destination: name, Err: fmt.Errorf("signing secret %q: its algorithm is %q, want %s or %s", rows[i].ID, rows[i].Algorithm, HMACSHA256, Ed25519)}
		}
		if rows[i].ExpiresAt != nil {
			one.ExpiresAt = timestamppb.New(*rows[i].ExpiresAt)
		}
		secrets = append(secrets, one)
	}
	return secrets, nil
}

// Release says that nothing of an instance is in flight any more and that nothing
// will be sent through it. It is closed in the background.
func (r *Registry) Release(transport string, ref *transportv1.InstanceRef) {
	r.release(transport, ref, func() {})
}

func (r *Registry) release(transport string, ref *transportv1.InstanceRef, closed func()) {
	r.closing.Go(func() {
		defer closed()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		key := keyOf(transport, ref)
		i, err := r.instance.take(ctx, key)
		if err == nil {
			defer r.instance.put(key, i)
			i.opened = false
			err = r.transports.Close(ctx, transport, ref)
			if i.forget != nil {
				i.forget()
			}
		}
		if err != nil {
			r.log.Warn("closing an instance of a destination", "transport", transport, "instance", ref.GetId(), "generation", ref.GetGeneration(), "error", err)
		}
	})
}

// Stop waits for instances that are being closed.
func (r *Registry) Stop() { r.closing.Wait() }

// Test has the plugin try an organization's destination as it is configured, in
// an instance of its own; it delivers nothing. A step that failed is in the
// answer; errors are those of Open. A good test ends a hold, and lets an open
// breaker try a probe at once.
func (r *Registry) Test(ctx context.Context, organization, ref string, ping bool, by By) (*transportv1.TestConnectionResponse, error) {
	d, err := r.ByRef(ctx, organization, ref)
	if err != nil {
		return nil, err
	}
	answer, err := r.test(ctx, d, ping)
	if err == nil && passed(answer) {
		err = r.endHold(ctx, d, by)
	}
	return answer, err
}

// Check is Test for the daemon itself, of a destination of any organization: it
// says whether the test passed, and else at which step it failed and why, and
// changes nothing.
func (r *Registry) Check(ctx context.Context, d *Destination) (ok bool, reason string, err error) {
	answer, err := r.test(ctx, d, false)
	if err != nil {
		return false, "", err
	}
	for _, step := range answer.GetSteps() {
		if !step.GetOk() {
			return false, step.GetName() + ": " + step.GetDetail(), nil
		}
	}
	return passed(answer), "the transport tested nothing", nil
}

func (r *Registry) test(ctx context.Context, d *Destination, ping bool) (*transportv1.TestConnectionResponse, error) {
	name := &transportv1.InstanceRef{Id: "test-" + strconv.Itoa(int(d.ID)) + "-" + rand.Text()[:8], Generation: uint64(d.Generation)}
	secrets, forget, err := r.openAs(ctx, d, name)
	if err != nil {
		return nil, err
	}
	defer r.release(d.Type, name, forget)
	answer, err := r.transports.TestConnection(ctx, d.Type, name, ping)
	if err != nil {
		return nil, fmt.Errorf("testing %s: %w", d.key(), unavailable(err))
	}
	scrubSteps(answer.GetSteps(), secrets)
	return answer, nil
}

func passed(answer *transportv1.TestConnectionResponse) bool {
	for _, step := range answer.GetSteps() {
		if !step.GetOk() {
			return false
		}
	}
	return len(answer.GetSteps()) > 0
}

// endHold makes the lane try again if its breaker is open or held, unless an
// operator holds it. The lane's owner, which may be another daemon, knows of a hold
// before its row does: so it is told also where anything waits, which a hold by a
// result leaves behind. Where there was none, it opens its instance anew and that is all.
func (r *Registry) endHold(ctx context.Context, d *Destination, by By) error {
	if d.BreakerForced || d.Disabled {
		return nil
	}
	h, err := r.store.Health(ctx, d.ID)
	if err != nil {
		return err
	}
	if h.HeldAt == nil && h.CircuitBreakerState == breaker.Closed.String() {
		if waits, err := r.store.Waits(ctx, d.ID); err != nil || !waits {
			return err
		}
	}
	if _, err := r.store.ReleaseDestination(ctx, d.OrganizationID, d.ID, auditOf(d, "destination.test", by, nil)); err != nil {
		return err
	}
	r.changedHere(d.ID)
	return nil
}
