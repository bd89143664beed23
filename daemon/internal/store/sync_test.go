package store

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// A sync of more rows than go in one round trip is still one transaction: where the
// last of them has changed meanwhile, none is written.
func TestSyncOfManyIsAllOrNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	sync := func(plan func([]Destination) []DestinationWrite) ([]Destination, error) {
		return f.SyncDestinations(t.Context(), nil, func(current []Destination) ([]DestinationWrite, error) { return plan(current), nil })
	}
	const n = syncBatch + 3
	made, err := sync(func([]Destination) (writes []DestinationWrite) {
		for i := range n {
			writes = append(writes, DestinationWrite{Row: Destination{
				OrganizationID: "acme", Label: fmt.Sprintf("d%03d", i), Type: "webhook", Config: `{}`, Settings: "{}",
				IsDefault: False, Disabled: False, ManagedBy: ManagedByConfig, Generation: 1,
			}})
		}
		return writes
	})
	if err != nil || len(made) != n {
		t.Fatalf("%d rows of %d: %v", len(made), n, err)
	}
	for i := range made {
		if want := fmt.Sprintf("d%03d", i); made[i].Label != want || made[i].ID == 0 {
			t.Fatalf("row %d is %s with id %d, want %s", i, made[i].Label, made[i].ID, want)
		}
	}
	plans := 0
	_, err = sync(func(current []Destination) (writes []DestinationWrite) {
		plans++
		for i := range current {
			current[i].Type = "sftp"
			writes = append(writes, DestinationWrite{Row: current[i]})
		}
		writes[n-1].Row.UpdatedAt = writes[n-1].Row.UpdatedAt.Add(-time.Second)
		return writes
	})
	if !errors.Is(err, ErrNotFound) || plans != syncAttempts {
		t.Errorf("a row that is not what was read: %v, after %d plans", err, plans)
	}
	if changed := query[int](t, f, `select count(*) from delivery_destinations where type <> 'webhook'`); changed > 0 {
		t.Errorf("%d rows were written", changed)
	}
}
