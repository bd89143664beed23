package destination

import (
	"fmt"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// What becomes of the secrets of a destination is decided here, without I/O: rows
// and the time go in, what is to be written comes out.

// usable reports whether a secret signs at a time.
func usable(s *store.Secret, now time.Time) bool {
	return s.IsActive == store.True && (s.ExpiresAt == nil || s.ExpiresAt.After(now))
}

// plan collects what is changed of rows, each row once.
type secretPlan struct {
	rows    []store.Secret
	changed map[string]bool
	now     time.Time
}

func newSecretPlan(rows []store.Secret, now time.Time) *secretPlan {
	return &secretPlan{rows: append([]store.Secret(nil), rows...), changed: map[string]bool{}, now: now}
}

func (p *secretPlan) find(id string) (*store.Secret, error) {
	for i := range p.rows {
		if p.rows[i].ID == id {
			return &p.rows[i], nil
		}
	}
	return nil, fmt.Errorf("secret %q: %w", id, store.ErrNotFound)
}

// usable returns the secrets that sign now.
func (p *secretPlan) usable() (list []*store.Secret) {
	for i := range p.rows {
		if usable(&p.rows[i], p.now) {
			list = append(list, &p.rows[i])
		}
	}
	return list
}

// primary makes one secret the only primary one; nil: none.
func (p *secretPlan) primary(of *store.Secret) {
	for i := range p.rows {
		is := store.False
		if &p.rows[i] == of {
			is = store.True
		}
		if p.rows[i].IsPrimary != is {
			p.rows[i].IsPrimary = is
			p.changed[p.rows[i].ID] = true
		}
	}
}

// settle makes sure that one of the usable secrets is primary, the newest if
// nobody has said which.
func (p *secretPlan) settle() {
	var newest *store.Secret
	for _, s := range p.usable() {
		if s.IsPrimary == store.True {
			return
		}
		if newest == nil || s.CreatedAt.After(newest.CreatedAt) {
			newest = s
		}
	}
	p.primary(newest)
}

func (p *secretPlan) writes() (list []store.SecretWrite) {
	for i := range p.rows {
		if p.changed[p.rows[i].ID] {
			list = append(list, store.SecretWrite{Row: p.rows[i]})
		}
	}
	return list
}

// add puts a new secret in and returns everything that is to be written.
func (p *secretPlan) add(fresh store.Secret, primary bool) ([]store.SecretWrite, error) {
	if len(p.usable()) >= store.MaxSecrets {
		return nil, ErrTooManySecrets
	}
	p.rows = append(p.rows, fresh)
	if primary {
		p.primary(&p.rows[len(p.rows)-1])
	}
	p.settle()
	p.changed[fresh.ID] = true
	writes := p.writes()
	for i := range writes {
		writes[i].New = writes[i].Row.ID == fresh.ID
	}
	return writes, nil
}

func planCreate(rows []store.Secret, now time.Time, fresh store.Secret, primary bool) ([]store.SecretWrite, error) {
	return newSecretPlan(rows, now).add(fresh, primary)
}

// planRotate ends the secrets of the new one's algorithm after the overlap; a
// receiver that verifies with another algorithm is not concerned.
func planRotate(rows []store.Secret, now time.Time, fresh store.Secret, overlap time.Duration) ([]store.SecretWrite, error) {
	p := newSecretPlan(rows, now)
	primary := true
	for _, s := range p.usable() {
		if algorithm(s.Algorithm) != fresh.Algorithm {
			primary = primary && s.IsPrimary != store.True
			continue
		}
		end := now.Add(overlap)
		if s.ExpiresAt == nil || s.ExpiresAt.After(end) {
			s.ExpiresAt = &end
		}
		s.RotatedAt, p.changed[s.ID] = &now, true
		if overlap == 0 {
			s.IsActive = store.False
		}
	}
	return p.add(fresh, primary)
}

func planRevoke(rows []store.Secret, now time.Time, id string, force bool) ([]store.SecretWrite, error) {
	p := newSecretPlan(rows, now)
	s, err := p.find(id)
	if err != nil {
		return nil, err
	}
	if usable(s, now) && len(p.usable()) == 1 && !force {
		return nil, fmt.Errorf("secret %q: %w", id, ErrLastSecret)
	}
	if s.IsActive != store.True {
		return nil, nil
	}
	s.IsActive, s.IsPrimary, s.RotatedAt = store.False, store.False, &now
	p.changed[id] = true
	p.settle()
	return p.writes(), nil
}

func planChange(rows []store.Secret, now time.Time, id string, c SecretChange) ([]store.SecretWrite, error) {
	p := newSecretPlan(rows, now)
	s, err := p.find(id)
	if err != nil {
		return nil, err
	}
	if s.IsActive != store.True {
		return nil, invalid("", "secret %q is revoked, which is for ever: create a new one", id)
	}
	if c.ExpiresAt != nil {
		if !c.ExpiresAt.After(now) {
			return nil, invalid("/expires_at", "is over already; to end a secret now, revoke it")
		}
		if !usable(s, now) && len(p.usable()) >= store.MaxSecrets {
			return nil, ErrTooManySecrets
		}
		s.ExpiresAt, p.changed[id] = c.ExpiresAt, true
	}
	if c.Primary {
		if !usable(s, now) {
			return nil, invalid("/primary", "secret %q is expired", id)
		}
		p.primary(s)
	}
	p.settle()
	return p.writes(), nil
}
