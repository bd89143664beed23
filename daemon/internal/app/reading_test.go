package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/deliveryd/deliveryd/daemon/internal/store"
)

// labelled are destinations whose label is "d" and the id.
type labelled struct{}

func (labelled) Get(_ context.Context, id int32) (*destination.Destination, error) {
	return &destination.Destination{ID: id, Label: fmt.Sprintf("d%d", id)}, nil
}

func (labelled) ByRef(_ context.Context, _, ref string) (*destination.Destination, error) {
	var id int32
	if _, err := fmt.Sscanf(ref, "d%d", &id); err != nil {
		return nil, store.ErrNotFound
	}
	return &destination.Destination{ID: id, Label: ref}, nil
}

// readingFixture has, for acme at destination 1: w1..w5 never attempted, r1..r3
// waiting for a retry, s1..s4 delivered, x1 and x2 dead letters; for globex one
// that waits.
func readingFixture(t *testing.T) deliveryService {
	t.Helper()
	ctx := t.Context()
	s, err := store.Open(ctx, store.Options{URL: pgtest.New(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	var subs []store.Submission
	for _, name := range strings.Fields("w1 w2 w3 w4 w5 r1 r2 r3 s1 s2 s3 s4 x1 x2 g1") {
		organization := "acme"
		if name == "g1" {
			organization = "globex"
		}
		subs = append(subs, store.Submission{DeliveryID: name, Items: []store.NewItem{{
			ID: name + "-1", DeliveryID: name, OrganizationID: organization, DestinationID: 1, Payload: `{"type":"t","data":{}}`, Metadata: "{}",
			ExpiresAfter: 3600e9, MaxRetries: 5,
		}}})
	}
	if _, err := s.SyncDestinations(ctx, []store.DestinationKey{{OrganizationID: "acme", Label: "d1"}, {OrganizationID: "globex", Label: "g"}},
		func([]store.Destination) ([]store.DestinationWrite, error) {
			row := func(organization, label string) store.DestinationWrite {
				return store.DestinationWrite{Row: store.Destination{
					OrganizationID: organization, Label: label, Type: "webhook", Disabled: store.False, IsDefault: store.False,
					Config: "{}", Settings: "{}", ManagedBy: store.ManagedByConfig, Generation: 1,
				}}
			}
			return []store.DestinationWrite{row("acme", "d1"), row("globex", "g")}, nil
		}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Submit(ctx, subs); err != nil {
		t.Fatal(err)
	}
	outcomes := &store.Outcomes{}
	attempt, object := []byte(`[{"at":"2026-01-01T00:00:00Z","class":"transient"}]`), []byte(`{"type":"t"}`)
	for _, sub := range subs {
		id := sub.Items[0].ID
		switch id[0] {
		case 's':
			outcomes.Delivered = append(outcomes.Delivered, store.Delivered{ID: id, Attempt: attempt, Object: object})
		case 'r', 'x':
			outcomes.Undelivered = append(outcomes.Undelivered, store.Undelivered{ID: id, Attempt: attempt, Object: object, Dead: id[0] == 'x', Burn: 1, After: 3600e9, Reason: "it said no"})
		}
	}
	if _, err := s.Record(ctx, outcomes, false); err != nil {
		t.Fatal(err)
	}
	return deliveryService{rows: s, labels: labelled{}}
}

func TestListFindsEachDeliveryOnceWhateverThePageSize(t *testing.T) {
	t.Parallel()
	s := readingFixture(t)
	caller := api.Caller{Organization: "acme"}
	for filter, want := range map[string]string{
		"": "r1 r2 r3 s1 s2 s3 s4 w1 w2 w3 w4 w5 x1 x2", pending: "w1 w2 w3 w4 w5", retrying: "r1 r2 r3", delivered: "s1 s2 s3 s4", failed: "x1 x2", processing: "",
	} {
		for _, limit := range []int{1, 2, 3, 5, 100} {
			seen := map[string]int{}
			f := api.DeliveryFilter{Status: filter, Limit: limit}
			for pages := 0; ; pages++ {
				page, err := s.List(t.Context(), caller, f)
				if err != nil {
					t.Fatal(err)
				}
				for _, it := range page.Items {
					seen[it.DeliveryID]++
					if wantStatus := map[byte]string{'w': pending, 'r': retrying, 's': delivered, 'x': failed}[it.DeliveryID[0]]; it.Status != wantStatus {
						t.Errorf("%s has the status %q, want %q", it.DeliveryID, it.Status, wantStatus)
					}
					if it.Label != "d1" || it.CreatedAt.IsZero() {
						t.Errorf("incomplete item %+v", it)
					}
				}
				if len(page.Items) > limit || pages > 30 {
					t.Fatalf("status %q limit %d: page %d has %d items", filter, limit, pages, len(page.Items))
				}
				if page.Next == "" {
					break
				}
				f.Cursor = page.Next
			}
			var got []string
			for _, id := range strings.Fields("g1 r1 r2 r3 s1 s2 s3 s4 w1 w2 w3 w4 w5 x1 x2") {
				if seen[id] > 0 {
					got = append(got, id)
				}
				if seen[id] > 1 {
					t.Errorf("status %q limit %d: %s was listed %d times", filter, limit, id, seen[id])
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("status %q limit %d: listed %v, want %s", filter, limit, got, want)
			}
		}
	}
}

func TestListByDestinationAndBadFilters(t *testing.T) {
	t.Parallel()
	s := readingFixture(t)
	caller := api.Caller{Organization: "acme"}
	page, err := s.List(t.Context(), caller, api.DeliveryFilter{Destination: "d2", Limit: 10})
	if err != nil || len(page.Items) > 0 {
		t.Errorf("another destination: %v, %v", page, err)
	}
	for _, bad := range []api.DeliveryFilter{{Destination: "nowhere", Limit: 10}, {Cursor: "!", Limit: 10}, {Cursor: "e30", Limit: 10}} {
		var problem *api.Problem
		if _, err := s.List(t.Context(), caller, bad); !errors.As(err, &problem) || problem.Errors[0].Parameter == "" {
			t.Errorf("%+v: %v, want a problem that names the parameter", bad, err)
		}
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	s := readingFixture(t)
	caller := api.Caller{Organization: "acme"}
	for id, status := range map[string]string{"w1": pending, "r1": retrying, "s1": delivered, "x1": failed} {
		d, err := s.Get(t.Context(), caller, id)
		if err != nil || d.Status != status || len(d.Destinations) != 1 || d.Destinations[0].Status != status {
			t.Errorf("Get(%s) = %+v, %v; want %s", id, d, err, status)
			continue
		}
		if it := d.Destinations[0]; id != "w1" && !strings.Contains(string(it.Attempts), "transient") || status == retrying && (it.NextRetryAt == nil || it.FailureReason != "it said no") {
			t.Errorf("Get(%s) shows %+v", id, it)
		}
	}
	for _, id := range []string{"g1", "nothing"} { // another organization's, nobody's
		var problem *api.Problem
		if _, err := s.Get(t.Context(), caller, id); !errors.As(err, &problem) || problem.Code != api.CodeNotFound {
			t.Errorf("Get(%s): %v", id, err)
		}
	}
}

func TestOverall(t *testing.T) {
	t.Parallel()
	for statuses, want := range map[string]string{
		"delivered": delivered, "delivered delivered": delivered, "failed failed": failed, "delivered failed": partial,
		"delivered pending": pending, "failed retrying": retrying, "pending retrying": retrying, "retrying processing": processing,
	} {
		var items []api.DeliveryItem
		for _, status := range strings.Fields(statuses) {
			items = append(items, api.DeliveryItem{Status: status})
		}
		if got := overall(items); got != want {
			t.Errorf("overall(%s) = %s, want %s", statuses, got, want)
		}
	}
}
