package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// maxWrong bounds what is printed of what went wrong.
const maxWrong = 10

// report prints what became of the deliveries and returns an error unless all of
// them arrived.
func report(ctx context.Context, s *state, want expected, took time.Duration) error {
	d, receivers := s.daemon, s.receivers
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	attempts, err := d.attempts(ctx, want)
	if err != nil {
		return err
	}
	breakers, err := d.breakers(ctx)
	if err != nil {
		return err
	}
	fmt.Println()
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(out, "destination\tdelivered\tattempts\tretries\tfailed on purpose\tarrived twice\tp50\tp99\tbreaker\t")
	var wrong []string
	for _, r := range receivers.list {
		p50, p99 := r.latencies()
		n, breaker := r.count(), breakers[r.label]
		if s.opened[r.label] && breaker == "closed" {
			breaker = "closed again"
		}
		_, _ = fmt.Fprintf(out, "%s\t%d of %d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t\n", r.label, n, len(want[r.label]),
			attempts[r.label], attempts[r.label]-n, r.failed, r.doubles, p50, p99, breaker)
		for _, one := range r.check(want[r.label]) {
			wrong = append(wrong, r.label+": "+one)
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if len(wrong) > 0 {
		for _, one := range wrong[:min(len(wrong), maxWrong)] {
			fmt.Println("  wrong:", one)
		}
		return fmt.Errorf("%d things are wrong with what arrived", len(wrong))
	}
	fmt.Printf("\nAll %d deliveries arrived with a valid signature, in %.1f s. (p50 and p99: from submitting to receiving.)\n", want.total(), took.Seconds())
	return nil
}

// attempts counts the attempts at each destination, as the daemon recorded them.
func (d *daemon) attempts(ctx context.Context, want expected) (map[string]int, error) {
	counts := map[string]int{}
	for organization := range d.tokens {
		list, err := d.items(ctx, organization, "", want.total())
		if err != nil {
			return nil, err
		}
		for _, one := range list {
			counts[one.Destination] += len(one.Attempts)
		}
	}
	return counts, nil
}

// latencies returns the median and the 99th percentile of the times from
// submitting an order to its arrival.
func (r *receiver) latencies() (p50, p99 string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]time.Duration, 0, len(r.arrived))
	for _, a := range r.arrived {
		all = append(all, a.after)
	}
	if len(all) == 0 {
		return "-", "-"
	}
	slices.Sort(all)
	at := func(share float64) string {
		d := all[min(int(share*float64(len(all))), len(all)-1)]
		if d < time.Second {
			return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
		}
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return at(0.50), at(0.99)
}
