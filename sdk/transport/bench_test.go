package transport_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkHop measures host and plugin side together, in one process, through
// a unix socket: CPU per 1 KB item with a transport that does nothing.
func BenchmarkHop(b *testing.B) {
	for _, size := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			client := serveFake(b, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
				return transport.Receipt{Status: 200}, nil
			}}, transport.Capabilities{})
			ref := open(b, client, 1, 0)
			list := items(size, time.Now().Add(time.Hour))
			for _, item := range list {
				item.Data = make([]byte, 1024)
			}
			request := &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: list}
			b.ReportAllocs()
			before := cpu()
			b.ResetTimer()
			b.SetParallelism(2)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					deliver(b, client, request)
				}
			})
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/1000/float64(b.N*size), "cpu-us/item")
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "items/s")
		})
	}
}
