package pluginhost_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// BenchmarkHop measures what the way through a plugin costs: items of 1 KB, a
// transport that does nothing, written with the SDK. It prints the CPU of host and plugin together
// per item (requirement: at most 20 µs), and at one item in flight the 99th
// percentile of the latency (requirement: at most 1 ms).
func BenchmarkHop(b *testing.B) {
	for _, mtls := range []bool{true, false} {
		for _, shape := range []struct{ batch, callers int }{{1, 1}, {16, 4}, {32, 1}, {32, 4}, {64, 4}} {
			b.Run(fmt.Sprintf("mtls=%v/batch=%d/callers=%d", mtls, shape.batch, shape.callers), func(b *testing.B) {
				benchmarkHop(b, mtls, shape.batch, shape.callers)
			})
		}
	}
}

func benchmarkHop(b *testing.B, mtls bool, size, callers int) {
	directory, state := b.TempDir(), filepath.Join(os.TempDir(), "hop"+strconv.Itoa(os.Getpid()))
	b.Cleanup(func() { os.RemoveAll(state) })
	install(b, directory, "sdk", "")
	host, err := pluginhost.New(pluginhost.Options{
		Directory: directory, StateDir: state, Plugins: map[string]pluginhost.PluginOptions{"sdk": {AutoMTLS: &mtls}},
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := host.Start(testContext(b)); err != nil {
		b.Fatal(err)
	}
	defer host.Stop(context.Background())
	if err := host.Open(context.Background(), "sdk", openRequest("one", `{"url":"https://example.com"}`)); err != nil {
		b.Fatal(err)
	}
	pid := host.Transports()[0].PID

	var left atomic.Int64
	left.Store(int64(b.N))
	latencies := make([][]time.Duration, callers)
	before := cpu(b, 0) + cpu(b, pid)
	b.ResetTimer()
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for {
				n := min(left.Add(-int64(size))+int64(size), int64(size))
				if n <= 0 {
					return
				}
				began := time.Now()
				if err := host.Deliver(context.Background(), "sdk", kilobytes(int(n)), func([]*transportv1.Result) {}); err != nil {
					b.Error(err)
					return
				}
				latencies[i] = append(latencies[i], time.Since(began))
			}
		})
	}
	group.Wait()
	b.StopTimer()
	used := cpu(b, 0) + cpu(b, pid) - before
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/item")
	all := slices.Concat(latencies...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
}

// kilobytes makes a batch as the engine would: building it is part of the cost.
func kilobytes(n int) *transportv1.DeliverRequest {
	deadline := timestamppb.New(time.Now().Add(time.Minute))
	req := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref("one")}, Items: make([]*transportv1.Item, n)}
	for i := range req.Items {
		req.Items[i] = &transportv1.Item{
			Id: itemIDs[i], Attempt: 1, Deadline: deadline, DeliveryId: itemIDs[i], OrganizationId: "acme",
			Type: "order.paid", CreatedAt: deadline, Data: kilobyte,
		}
	}
	return req
}

var (
	kilobyte = make([]byte, 1024)
	itemIDs  = func() (ids [64]string) {
		for i := range ids {
			ids[i] = fmt.Sprintf("0198f3a2-7c1e-7d4b-9f00-%012d", i)
		}
		return ids
	}()
)

// cpu gives the CPU time of a process, 0 for this one, by its own clock: that
// of /proc/PID/stat ticks every 10 ms.
func cpu(b *testing.B, pid int) time.Duration {
	clock := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		clock = ^int32(pid)<<3 | 2 // clock_getcpuclockid(3)
	}
	var spent unix.Timespec
	if err := unix.ClockGettime(clock, &spent); err != nil {
		b.Fatal(err)
	}
	return time.Duration(spent.Nano())
}
