package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func TestSubmitQueuesAllOrNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	good, bad := submission(newDeliveryID(), "acme", 1, 2), submission(newDeliveryID(), "acme", 1)
	bad.Items[0].Payload = `{"data":"\u0000"}`
	if _, err := f.Submit(t.Context(), []Submission{good, bad}); !errors.Is(err, ErrBadData) {
		t.Fatalf("err = %v, want ErrBadData", err)
	}
	if n := query[int](t, f, "select count(*) from delivery_queue"); n != 0 {
		t.Fatalf("%d rows of a submission that failed", n)
	}
	done := f.mustSubmit(t, good)
	items := f.ready(t, 1, 10)
	if len(items) != 1 || items[0].DeliveryID != good.DeliveryID || !items[0].Due.Equal(done.At) {
		t.Fatalf("ready = %+v, due at %v", items, done.At)
	}
	if want := done.At.Add(time.Hour); !items[0].ExpiresAt.Equal(want) {
		t.Errorf("expires at %v, want %v", items[0].ExpiresAt, want)
	}
}

func TestSubmitTakesAKeyOnce(t *testing.T) {
	t.Parallel()
	f := open(t)
	keyed := func(key string) Submission {
		sub := submission(newDeliveryID(), "acme", 1)
		sub.Key = &Key{OrganizationID: "acme", Key: key, DeliveryID: sub.DeliveryID, RequestHash: []byte(sub.DeliveryID)}
		sub.Items[0].IdempotencyKey = &key
		return sub
	}
	a, b, c := keyed("k"), keyed("k"), keyed("other")
	done := f.mustSubmit(t, a, b, c)
	if len(done.Taken) != 1 || !done.Taken[b.DeliveryID] {
		t.Errorf("taken = %v, want the second of the same key", done.Taken)
	}
	if done := f.mustSubmit(t, keyed("k")); len(done.Taken) != 1 {
		t.Errorf("a later submission took the key again")
	}
	if n := query[int](t, f, "select count(*) from delivery_queue"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
	key, err := f.IdempotencyKey(t.Context(), "acme", "k")
	if err != nil || key.DeliveryID != a.DeliveryID {
		t.Errorf("key = %+v, %v", key, err)
	}
	if _, err := f.IdempotencyKey(t.Context(), "umbrella", "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("another organization's key: %v", err)
	}
}

// TestSubmitsOfTheSameKeysDoNotDeadlock has writers take the same keys in random
// orders: each must get through, and each key be taken once.
func TestSubmitsOfTheSameKeysDoNotDeadlock(t *testing.T) {
	t.Parallel()
	f := open(t)
	const keys, writers, rounds = 40, 6, 8
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for round := range rounds {
				var subs []Submission
				for _, k := range rand.Perm(keys) {
					key := fmt.Sprintf("%d-%d", round, k)
					sub := submission(newDeliveryID(), "acme", 1)
					sub.Key = &Key{OrganizationID: "acme", Key: key, DeliveryID: sub.DeliveryID, RequestHash: []byte{1}}
					sub.Items[0].IdempotencyKey = &key
					subs = append(subs, sub)
				}
				if _, err := f.Submit(t.Context(), subs); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := query[int](t, f, "select count(*) from delivery_queue"); n != keys*rounds {
		t.Errorf("%d rows, want %d", n, keys*rounds)
	}
}
