package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Sealed is a text that holds secrets, and whose it is.
type Sealed struct {
	// ID is that of the destination, or of the secret.
	ID string
	// OrganizationID and Label name the destination.
	OrganizationID, Label string
	// Type and ManagedBy are the destination's; empty for a secret.
	Type, ManagedBy string
	// Text is the configuration, or the secret's key.
	Text string
}

const (
	sealedConfigsSQL = `
select id::text, organization_id, label, type, managed_by, config::text from delivery_destinations
where id > $1::int and updated_at >= $2 order by delivery_destinations.id limit $3`
	sealedSecretsSQL = `
select s.id, d.organization_id, d.label, '', '', s.secret_key from webhook_secrets s join delivery_destinations d on d.id = s.destination_id
where s.id > $1 and s.secret_key not like $2 order by s.id limit $3`
	// The old text is the fence: what somebody has changed meanwhile is theirs.
	resealConfigSQL = `update delivery_destinations set config = $3::jsonb, updated_at = now() where id = $1::int and config = $2::jsonb`
	resealSecretSQL = `update webhook_secrets set secret_key = $3 where id = $1 and secret_key = $2`
	resealingSQL    = `select set_config('deliveryd.resealing', 'on', true)`
)

// SealedConfigs returns at most limit configurations of destinations of all
// organizations that have changed since, by id, behind one.
func (s *Store) SealedConfigs(ctx context.Context, since time.Time, after int32, limit int) ([]Sealed, error) {
	return s.sealed(ctx, "reading configurations", sealedConfigsSQL, after, since, limit)
}

// SealedSecrets returns at most limit signing secrets of all organizations whose
// text does not begin with a prefix, by id, behind one.
func (s *Store) SealedSecrets(ctx context.Context, after, prefix string, limit int) ([]Sealed, error) {
	return s.sealed(ctx, "reading signing secrets", sealedSecretsSQL, after, prefix+"%", limit)
}

func (s *Store) sealed(ctx context.Context, doing, sql string, args ...any) ([]Sealed, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rows, err := s.durable.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(doing, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Sealed])
	return list, wrap(doing, err)
}

// ResealConfig puts a configuration that means the same in the place of one. False:
// it is not that one any more. Nothing is opened anew for it.
func (s *Store) ResealConfig(ctx context.Context, id, from, to string) (bool, error) {
	return s.reseal(ctx, "sealing a configuration", resealConfigSQL, id, from, to)
}

// ResealSecret is ResealConfig for a signing secret.
func (s *Store) ResealSecret(ctx context.Context, id, from, to string) (bool, error) {
	return s.reseal(ctx, "sealing a signing secret", resealSecretSQL, id, from, to)
}

func (s *Store) reseal(ctx context.Context, doing, sql, id, from, to string) (done bool, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	err = pgx.BeginFunc(ctx, s.durable, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, resealingSQL); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, sql, id, from, to)
		done = tag.RowsAffected() > 0
		return err
	})
	return done && err == nil, wrap(doing, err)
}
