package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// submission is the body of a submission; see GET /openapi.json.
type submission struct {
	Destinations   any     `json:"destinations"`
	Payload        payload `json:"payload"`
	IdempotencyKey string  `json:"idempotency_key"`
	CorrelationID  string  `json:"correlation_id"`
}

type payload struct {
	Type     string            `json:"type"`
	Data     *order            `json:"data"`
	Metadata map[string]string `json:"metadata"`
}

func submissionOf(o *order) submission {
	s := submission{
		Destinations: "default", IdempotencyKey: "order.created/" + o.ID, CorrelationID: "checkout-" + o.ID,
		Payload: payload{"order.created", o, map[string]string{"shop": o.organization + ".example"}},
	}
	if o.organization == "globex" {
		s.Destinations = []string{"analytics"}
	}
	return s
}

// batchSize is how many orders go in one request where they go in batches.
const batchSize = 25

// submitAll submits at a steady rate: the first half one by one, as a shop does
// at its checkout, the second half in batches, as an importer does.
func submitAll(ctx context.Context, o options, d *daemon, orders []*order, s *state) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	due := time.Now()
	half := len(orders) / 2
	for _, one := range orders[:half] {
		due = due.Add(time.Second / time.Duration(o.rate))
		if !sleep(ctx, time.Until(due)) {
			break
		}
		group.Go(func() error { return submitOne(ctx, d, one, s) })
	}
	for _, organization := range []string{"acme", "globex"} {
		for _, batch := range batches(orders[half:], organization) {
			due = due.Add(time.Second * time.Duration(len(batch)) / time.Duration(o.rate))
			if !sleep(ctx, time.Until(due)) {
				break
			}
			group.Go(func() error { return submitBatch(ctx, d, organization, batch, s) })
		}
	}
	return group.Wait()
}

func batches(orders []*order, organization string) [][]*order {
	var all [][]*order
	var batch []*order
	for _, o := range orders {
		if o.organization != organization {
			continue
		}
		if batch = append(batch, o); len(batch) == batchSize {
			all, batch = append(all, batch), nil
		}
	}
	if len(batch) > 0 {
		all = append(all, batch)
	}
	return all
}

func submitOne(ctx context.Context, d *daemon, o *order, s *state) error {
	s.receivers.submitting(o, time.Now())
	var accepted struct{ Destinations []struct{ Label string } }
	if err := d.call(ctx, o.organization, http.MethodPost, "/v1/deliveries", submissionOf(o), &accepted); err != nil {
		return fmt.Errorf("submitting %s: %w", o.ID, err)
	}
	if want := len(destinationsOf(o.organization)); len(accepted.Destinations) != want {
		return fmt.Errorf("%s was accepted for %d destinations instead of %d", o.ID, len(accepted.Destinations), want)
	}
	s.accepted.Add(1)
	return nil
}

func submitBatch(ctx context.Context, d *daemon, organization string, orders []*order, s *state) error {
	request := struct {
		Deliveries []submission `json:"deliveries"`
	}{}
	for _, o := range orders {
		s.receivers.submitting(o, time.Now())
		request.Deliveries = append(request.Deliveries, submissionOf(o))
	}
	var result struct{ Accepted, Rejected int }
	if err := d.call(ctx, organization, http.MethodPost, "/v1/deliveries/batch", request, &result); err != nil {
		return fmt.Errorf("submitting a batch for %s: %w", organization, err)
	}
	if result.Accepted != len(orders) {
		return errors.New("a batch was not accepted as a whole")
	}
	s.accepted.Add(int64(len(orders)))
	return nil
}

// state is what the progress line shows.
type state struct {
	began      time.Time
	orders     int
	deliveries int
	accepted   atomic.Int64
	receivers  *receivers
	daemon     *daemon
	opened     map[string]bool // labels whose breaker was seen open; of the watching goroutine
}
