package destination

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

const (
	// resealPage bounds what is read at once.
	resealPage = 200
	// maxUnopened bounds the names in a report.
	maxUnopened = 100
	// sweepEvery is the time between two searches for plain secrets.
	sweepEvery = time.Minute
	// sweepAll is how many searches pass between two of everything.
	sweepAll = 60
)

// Resealed says what Reseal did.
type Resealed struct {
	// Destinations and Secrets were sealed with the current key.
	Destinations, Secrets int
	// Current were sealed with it already, or hold no secret.
	Current int
	// Unopened are sealed with a key that is not configured, as
	// organization/label, at most 100 of them; UnopenedCount is their number.
	Unopened      []string
	UnopenedCount int
	// Skipped hold plain secrets perhaps, which nobody can tell while the plugin is
	// not there; or were changed by somebody else at that moment.
	Skipped int
}

// Reseal seals every secret in the database with the current key: what another key
// sealed and what another program wrote in plain. Any daemon may run it at any
// time, also several at once, and as often as wanted: what is done is not done
// again. Destinations go on with what they have open.
func (r *Registry) Reseal(ctx context.Context) (Resealed, error) {
	return r.reseal(ctx, resealing{rekey: true})
}

// SealPlain is Reseal for what is plain alone, in destinations that changed since
// a time: while a key is being rotated, daemons disagree about which is current.
func (r *Registry) SealPlain(ctx context.Context, since time.Time) (Resealed, error) {
	return r.reseal(ctx, resealing{since: since})
}

// resealing is one pass.
type resealing struct {
	since  time.Time
	rekey  bool
	report Resealed
}

func (r *Registry) reseal(ctx context.Context, pass resealing) (Resealed, error) {
	if err := r.resealConfigs(ctx, &pass); err != nil {
		return pass.report, err
	}
	err := r.resealSecrets(ctx, &pass)
	return pass.report, err
}

func (r *Registry) resealConfigs(ctx context.Context, pass *resealing) error {
	for after := int32(0); ; {
		page, err := r.store.SealedConfigs(ctx, pass.since, after, resealPage)
		if err != nil {
			return err
		}
		for i := range page {
			if err := r.resealConfig(ctx, &page[i], pass); err != nil {
				return err
			}
		}
		if len(page) < resealPage {
			return nil
		}
		last, err := strconv.ParseInt(page[len(page)-1].ID, 10, 32)
		if err != nil {
			return fmt.Errorf("sealing configurations: %w", err)
		}
		after = int32(last)
	}
}

func (r *Registry) resealConfig(ctx context.Context, row *store.Sealed, pass *resealing) error {
	report := &pass.report
	place := sealPlace(row.OrganizationID, row.Label)
	var paths []string
	described, unknownType := r.transports.Describe(row.Type)
	if unknownType == nil {
		paths = SecretPaths(described.GetSchema())
	}
	unknown := unknownType != nil && row.ManagedBy != store.ManagedByConfig
	text, changed, err := r.box.ResealPaths([]byte(row.Text), paths, place, pass.rekey)
	switch {
	case errors.Is(err, secret.ErrUnknownKey), errors.Is(err, secret.ErrOpen):
		report.unopened(row)
		return nil
	case err != nil:
		report.Skipped++
		return nil //nolint:nilerr // no JSON object that we could read: Open says so
	case !changed && unknown:
		report.Skipped++
		return nil
	case !changed:
		report.Current++
		return nil
	}
	done, err := r.store.ResealConfig(ctx, row.ID, row.Text, string(text))
	report.count(&report.Destinations, done)
	return err
}

func (r *Registry) resealSecrets(ctx context.Context, pass *resealing) error {
	done := secret.SealedPrefix
	if pass.rekey {
		done = r.box.Prefix()
	}
	for after := ""; ; {
		page, err := r.store.SealedSecrets(ctx, after, done, resealPage)
		if err != nil {
			return err
		}
		for i := range page {
			if err := r.resealSecret(ctx, &page[i], &pass.report); err != nil {
				return err
			}
		}
		if len(page) < resealPage {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

func (r *Registry) resealSecret(ctx context.Context, row *store.Sealed, report *Resealed) error {
	plain, err := r.openSecret(&store.Secret{ID: row.ID, SecretKey: row.Text})
	if err != nil {
		report.unopened(row)
		return nil //nolint:nilerr // it is in the report
	}
	sealed, err := r.box.Seal(plain, secretPlace(row.ID))
	if err != nil || len(sealed) > store.MaxSecretKey {
		report.Skipped++ // longer than any key that could sign: it is of no use as it is
		return nil       //nolint:nilerr // see above
	}
	done, err := r.store.ResealSecret(ctx, row.ID, row.Text, sealed)
	report.count(&report.Secrets, done)
	return err
}

func (p *Resealed) unopened(row *store.Sealed) {
	if p.UnopenedCount++; len(p.Unopened) < maxUnopened {
		p.Unopened = append(p.Unopened, row.OrganizationID+"/"+row.Label)
	}
}

func (p *Resealed) count(into *int, done bool) {
	if done {
		*into++
	} else {
		p.Skipped++
	}
}

// RunSweep seals plain secrets that other programs write, every minute until ctx
// ends: of what has changed since the last time, and of everything every hour, or
// when something had to be left out.
func (r *Registry) RunSweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	var since time.Time
	for passes := 1; ; passes++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if passes%sweepAll == 0 {
			since = time.Time{}
		}
		began, err := r.store.Now(ctx)
		var report Resealed
		if err == nil {
			report, err = r.SealPlain(ctx, since)
		}
		if err == nil && report.Skipped == 0 {
			since = began.Add(-watchSlack)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.log.Warn("sealing plain secrets failed, and is tried again", "error", err)
		case report.Destinations+report.Secrets > 0:
			r.log.Info("plain secrets sealed that another program had written", "destinations", report.Destinations, "signing_secrets", report.Secrets)
		}
	}
}

// RotateKeys is Reseal on an operator's word, with an entry in the audit log.
func (r *Registry) RotateKeys(ctx context.Context, by By) (Resealed, error) {
	report, err := r.Reseal(ctx)
	if err != nil {
		return report, err
	}
	return report, r.store.RecordAudit(ctx, &store.Audit{
		OrganizationID: store.AllOrganizations, Actor: by.Actor, RequestID: by.RequestID,
		Action: "keys.rotate", TargetType: "encryption_key", Target: r.box.KeyID(),
		Details: fmt.Appendf(nil, `{"destinations":%d,"secrets":%d,"unopened":%d,"skipped":%d}`, report.Destinations, report.Secrets, report.UnopenedCount, report.Skipped),
	})
}

// KeyID names the key that secrets are sealed with.
func (r *Registry) KeyID() string { return r.box.KeyID() }
