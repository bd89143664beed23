// Package uploadbench measures how fast a transport's plugin takes an artifact, in
// its own process and behind gRPC as in the daemon, beside other ways to bring
// the same bytes to the same server.
//
// What it leaves out is how the daemon gets the bytes: reading them from its store,
// and finding their digest right as it does.
//
// It is for benchmarks only. Sides must run in turn, and ratios be of the same
// round: what else the machine does changes from minute to minute.
package uploadbench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/plugintest"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	limit = 10 * time.Minute
)

// File reads as size bytes, of which each read is the same.
func File(size int64) io.Reader { return io.LimitReader(&endless{block: block()}, size) }

// block repeats to make a file, so that the bench needs no memory for it.
func block() []byte { return bytes.Repeat([]byte("deliveryd moves what must arrive\n"), 1<<15) }

type endless struct {
	block []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.block[e.at:])
	e.at = (e.at + n) % len(e.block)
	return n, nil
}

// Plugin is a transport's plugin with one open instance.
type Plugin struct {
	process *conformance.Process
	size    int64
	digest  []byte
}

// Start builds the plugin in dir, starts it and opens an instance that may dial
// the loopback interface.
func Start(b *testing.B, dir, config string, size int64) *Plugin {
	b.Helper()
	process, err := conformance.StartProcess(b.Context(), []string{plugintest.Build(b, dir)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(process.Stop)
	if err := process.Open(b.Context(), instance(), config); err != nil {
		b.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, File(size)); err != nil {
		b.Fatal(err)
	}
	return &Plugin{process, size, sum.Sum(nil)}
}

func instance() *transportv1.InstanceRef { return &transportv1.InstanceRef{Id: "d", Generation: 1} }

// Upload sends the file as the daemon does.
func (p *Plugin) Upload(ctx context.Context, id string) error {
	stream, err := p.process.Client.Upload(ctx)
	if err != nil {
		return err
	}
	header := &transportv1.UploadHeader{Instance: instance(), DigestChecked: true, Item: &transportv1.Item{
		Id: id, DeliveryId: id, Attempt: 1, OrganizationId: "acme", CreatedAt: timestamppb.Now(), Deadline: timestamppb.New(time.Now().Add(limit)),
		Artifact: &transportv1.Artifact{Name: "big.txt", ContentType: "text/plain", Size: uint64(p.size), Sha256: p.digest},
	}}
	if err := stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Header{Header: header}}); err == nil {
		if err := transport.SendBody(stream, File(p.size)); err != nil {
			return err
		}
	}
	response, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if f := response.GetResult().GetFailure(); f != nil {
		return errors.New(f.GetMessage())
	}
	return nil
}

// Memory reads one line of the status of the plugin's process, such as VmHWM, in KiB.
func (p *Plugin) Memory(b *testing.B, name string) (kib int64) {
	b.Helper()
	n, err := p.process.Memory(name)
	if err != nil {
		b.Fatal(err)
	}
	return n >> 10
}

// Side is one way to bring the file to the server.
type Side struct {
	Name string
	// Run brings it there once; round tells names apart.
	Run func(ctx context.Context, round int) error
}

// Compare runs the sides in turn, rounds times, and reports the median rate of
// each and, against each of the others, the median over the rounds of the first
// one's share. A round that is not counted comes first. CPU time is the sender's:
// that of this process, of programs that it ran, and of the plugin.
func Compare(b *testing.B, rounds int, plugin *Plugin, sides ...Side) {
	b.Helper()
	seconds, cpu := make([][]float64, len(sides)), make([][]float64, len(sides))
	for round := range rounds + 1 {
		line := ""
		for i := range sides {
			i = (i + round) % len(sides) // nobody is always first
			took, used := measure(b, sides[i], round, plugin)
			line += fmt.Sprintf("  %s %.2f s, CPU %.2f s", sides[i].Name, took, used)
			if round > 0 {
				seconds[i], cpu[i] = append(seconds[i], took), append(cpu[i], used)
			}
		}
		b.Logf("round %d:%s", round, line)
	}
	mib := float64(plugin.size) / (1 << 20)
	for i, side := range sides {
		b.ReportMetric(mib/median(seconds[i]), side.Name+"-MiB/s")
		b.ReportMetric(median(cpu[i])/mib*1024, side.Name+"-CPU-s/GiB")
		if i > 0 {
			b.ReportMetric(100*median(ratios(seconds[i], seconds[0])), "%-of-"+side.Name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func measure(b *testing.B, side Side, round int, plugin *Plugin) (seconds, cpu float64) {
	b.Helper()
	before, started := cpuTime(b, plugin), time.Now()
	if err := side.Run(b.Context(), round); err != nil {
		b.Fatalf("%s: %v", side.Name, err)
	}
	seconds = time.Since(started).Seconds()
	return seconds, (cpuTime(b, plugin) - before).Seconds()
}

// cpuTime of this process, of its ended children and of the plugin.
func cpuTime(b *testing.B, plugin *Plugin) (sum time.Duration) {
	b.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if err := syscall.Getrusage(who, &usage); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	plugins, err := plugin.process.CPU()
	if err != nil {
		b.Fatal(err)
	}
	return sum + plugins
}

func ratios(over, under []float64) []float64 {
	list := make([]float64, len(over))
	for i := range over {
		list[i] = over[i] / under[i]
	}
	return list
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	if len(list)%2 == 1 {
		return list[len(list)/2]
	}
	return (list[len(list)/2-1] + list[len(list)/2]) / 2
}
