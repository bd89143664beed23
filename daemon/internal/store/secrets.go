package store

import (
	"context"
	"slices"
	"time"

	"github.com/go-jet/jet/v2/postgres"
	"github.com/jackc/pgx/v5"

	"github.com/deliveryd/deliveryd/gen/db/model"
	"github.com/deliveryd/deliveryd/gen/db/table"
)

// Secret is a row of webhook_secrets; SecretKey is sealed, or plain where another
// program wrote it.
type Secret = model.WebhookSecrets

const (
	// MaxSecrets bounds the signing secrets of a destination that are usable at
	// once: a signature header has one signature for each.
	MaxSecrets = 10
	// MaxSecretKey is the length of the column secret_key in characters.
	MaxSecretKey = 255
	// maxSecretRows bounds what is read of a destination's secrets, those that have
	// ended included.
	maxSecretRows = 1000
)

type secretStatements struct {
	usableOf, keptOf, list, insert, update statement
}

func buildSecretStatements() secretStatements {
	w, d := table.WebhookSecrets, table.DeliveryDestinations
	of := w.DestinationID.EQ(intParam("id"))
	ofAny := postgres.RawBool("destination_id = any(#ids::int[])", postgres.RawArgs{"#ids": param("ids")})
	// Each destination's own bound: of what another program wrote no more is read either.
	usable := postgres.RawBool("id in (select u.id from unnest(#ids::int[]) as d(id) cross join lateral ("+
		"select s.id from webhook_secrets s where s.destination_id = d.id and s.is_active = 'true' and (s.expires_at is null or s.expires_at > now()) "+
		"order by s.is_primary desc, s.created_at desc, s.id limit #most::int) u)",
		postgres.RawArgs{"#ids": param("ids"), "#most": param("most")})
	newest := []postgres.OrderByClause{w.IsPrimary.DESC(), w.CreatedAt.DESC(), w.ID}
	all := make([]any, 0, len(w.AllColumns))
	for _, c := range w.AllColumns {
		all = append(all, postgres.Raw(named(param(c.Name()))))
	}
	return secretStatements{
		usableOf: prepare(w.SELECT(w.AllColumns).WHERE(usable).ORDER_BY(newest...)),
		keptOf:   prepare(w.SELECT(w.DestinationID).DISTINCT().WHERE(ofAny)),
		list: prepare(postgres.SELECT(w.AllColumns).FROM(w.INNER_JOIN(d, d.ID.EQ(w.DestinationID))).
			WHERE(of.AND(d.OrganizationID.EQ(textParam("organization")))).
			ORDER_BY(w.IsActive.DESC(), w.IsPrimary.DESC(), w.CreatedAt.DESC(), w.ID).LIMIT(maxSecretRows)),
		insert: prepare(w.INSERT(w.AllColumns).VALUES(all[0], all[1:]...).RETURNING(w.AllColumns)),
		update: prepare(w.UPDATE().SET(
			w.IsActive.SET(textParam("is_active")),
			w.IsPrimary.SET(textParam("is_primary")),
			w.ExpiresAt.SET(timeParam("expires_at")),
			w.RotatedAt.SET(timeParam("rotated_at")),
		).WHERE(of.AND(w.ID.EQ(textParam("secret")))).RETURNING(w.AllColumns)),
	}
}

// Secrets returns the signing secrets of a destination that may be used now,
// primary first, then the newest, and whether any are kept at all, usable or not.
func (s *Store) Secrets(ctx context.Context, destinationID int32) (usable []Secret, kept bool, err error) {
	return s.secrets.get(ctx, destinationID)
}

// SecretsOf returns for each of the destinations that has signing secrets those that
// may be used now, in the order of Secrets. Where none of them may, the list is
// empty; where none are kept, there is no list.
func (s *Store) SecretsOf(ctx context.Context, destinationIDs []int32) (map[int32][]Secret, error) {
	const doing = "reading the signing secrets of destinations"
	v := values{"ids": destinationIDs, "most": MaxSecrets}
	kept, err := all[struct{ ID int32 }](ctx, s, doing, s.sql.secret.keptOf, v)
	if err != nil || len(kept) == 0 {
		return nil, err
	}
	of := make(map[int32][]Secret, len(kept))
	for _, one := range kept {
		of[one.ID] = nil
	}
	usable, err := all[Secret](ctx, s, doing, s.sql.secret.usableOf, v)
	if err != nil {
		return nil, err
	}
	for i := range usable {
		id := usable[i].DestinationID
		of[id] = append(of[id], usable[i])
	}
	return of, nil
}

// ListSecrets returns all signing secrets of an organization's destination: active
// ones first, of these the primary, then the newest.
func (s *Store) ListSecrets(ctx context.Context, organization string, destinationID int32) ([]Secret, error) {
	return all[Secret](ctx, s, "listing signing secrets", s.sql.secret.list, values{"id": destinationID, "organization": organization})
}

// SecretWrite is one change of ChangeSecrets: a new row, or what an update may
// change of one, which is whether it is active or primary, when it expires and
// when it was rotated.
type SecretWrite struct {
	Row Secret
	New bool
}

// lockSecretsSQL lets one change of a destination's secrets in at a time: there may
// be no row yet that could be locked. Outcomes, which count uses, do not wait for it.
const lockSecretsSQL = `select pg_advisory_xact_lock(hashtextextended('deliveryd secrets ' || $1::int, 0)), now()`

// ChangeSecrets runs plan on all signing secrets of an organization's destination
// and carries out what it returns: all of it or nothing. now is the time by the
// clock of the database. ErrNotFound where the organization has no such
// destination. Whoever has opened the destination is told by its generation.
func (s *Store) ChangeSecrets(ctx context.Context, organization string, destinationID int32, a *Audit, plan func(rows []Secret, now time.Time) ([]SecretWrite, error)) ([]Secret, error) {
	var after []Secret
	err := s.audited(ctx, "changing the signing secrets of a destination", a, func(ctx context.Context, tx pgx.Tx) error {
		var now time.Time
		if err := tx.QueryRow(ctx, lockSecretsSQL, destinationID).Scan(nil, &now); err != nil {
			return err
		}
		v := values{"id": destinationID, "organization": organization}
		if _, err := rowIn[Destination](ctx, tx, s.sql.destination.ofOrganization, v); err != nil {
			return err
		}
		rows, err := rowsIn[Secret](ctx, tx, s.sql.secret.list, v)
		if err != nil {
			return err
		}
		writes, err := plan(rows, now)
		if err != nil {
			return err
		}
		// What ends before what begins: there is one primary at a time.
		slices.SortStableFunc(writes, func(a, b SecretWrite) int { return rank(a) - rank(b) })
		for i := range writes {
			if err := s.writeSecret(ctx, tx, destinationID, &writes[i]); err != nil {
				return err
			}
		}
		after, err = rowsIn[Secret](ctx, tx, s.sql.secret.list, v)
		return err
	})
	return after, err
}

func rank(w SecretWrite) int {
	if w.Row.IsPrimary == True {
		return 1
	}
	return 0
}

func (s *Store) writeSecret(ctx context.Context, tx pgx.Tx, destinationID int32, w *SecretWrite) error {
	r := &w.Row
	if w.New {
		_, err := rowIn[Secret](ctx, tx, s.sql.secret.insert, values{
			"id": r.ID, "destination_id": destinationID, "secret_key": r.SecretKey, "algorithm": r.Algorithm,
			"is_active": r.IsActive, "is_primary": r.IsPrimary, "expires_at": r.ExpiresAt, "rotated_at": r.RotatedAt,
			"usage_count": 0, "last_used_at": nil, "created_at": r.CreatedAt, "created_by": r.CreatedBy,
		})
		return err
	}
	_, err := rowIn[Secret](ctx, tx, s.sql.secret.update, values{
		"id": destinationID, "secret": r.ID, "is_active": r.IsActive, "is_primary": r.IsPrimary,
		"expires_at": r.ExpiresAt, "rotated_at": r.RotatedAt,
	})
	return err
}
