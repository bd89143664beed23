package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/plugintest"
	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// benchMiB is the size of the file: go test ./plugins/s3 -run '^$' -bench Upload -mib 1024
var benchMiB = flag.Int64("mib", 256, "MiB to upload in BenchmarkUpload")

// block repeats to make a file, so that the bench needs no memory for it.
var block = bytes.Repeat([]byte("deliveryd moves what must arrive\n"), 1<<15)

// file reads as size bytes.
func file(size int64) io.Reader {
	return io.LimitReader(&endless{}, size)
}

type endless struct{ at int }

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, block[e.at:])
	e.at = (e.at + n) % len(block)
	return n, nil
}

// BenchmarkUpload compares the plugin, in its process and behind gRPC as in the
// daemon, with the uploader of the SDK in this process, in turn and in one run:
// the ratio of their medians is what the plugin keeps of the speed.
func BenchmarkUpload(b *testing.B) {
	size := *benchMiB << 20
	server, err := versitygw.Start()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Stop)
	if err := server.CreateBucket(b.Context(), "bench"); err != nil {
		b.Fatal(err)
	}
	p := startPlugin(b, server.URL)
	h := sha256.New()
	if _, err := io.Copy(h, file(size)); err != nil {
		b.Fatal(err)
	}
	digest := h.Sum(nil)
	idle := memory(b, p.Pid(), "VmRSS")
	var ours, bare []float64
	b.ResetTimer()
	for n := range max(b.N, 3) {
		start := time.Now()
		if err := upload(b.Context(), p.Client, fmt.Sprintf("%d", n), size, digest); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(start).Seconds())
		start = time.Now()
		if err := uploadBare(b.Context(), server.Client(), fmt.Sprintf("bare-%d", n), size); err != nil {
			b.Fatal(err)
		}
		bare = append(bare, time.Since(start).Seconds())
	}
	sort.Float64s(ours)
	sort.Float64s(bare)
	rate := func(seconds []float64) float64 { return float64(*benchMiB) / seconds[len(seconds)/2] }
	b.ReportMetric(rate(ours), "plugin-MiB/s")
	b.ReportMetric(rate(bare), "sdk-MiB/s")
	b.ReportMetric(100*rate(ours)/rate(bare), "%-of-sdk")
	b.ReportMetric(float64(memory(b, p.Pid(), "VmHWM")-idle)/1024, "MiB-above-idle")
	b.ReportMetric(0, "ns/op")
}

func startPlugin(b *testing.B, url string) *conformance.Process {
	b.Helper()
	p, err := conformance.StartProcess(b.Context(), []string{plugintest.Build(b, ".")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Stop)
	described, err := p.Client.Describe(b.Context(), &transportv1.DescribeRequest{HostVersion: "0.1.0"})
	if err != nil {
		b.Fatal(err)
	}
	config, found := schema.Check(described.GetSchema(), fmt.Appendf(nil, `{"bucket":"bench","endpoint":%q,"credentials":{"access_key_id":%q,"secret_access_key":%q}}`,
		url, versitygw.AccessKey, versitygw.SecretKey))
	if found.HasErrors() {
		b.Fatal(found)
	}
	response, err := p.Client.Open(b.Context(), &transportv1.OpenRequest{
		Instance: &transportv1.InstanceRef{Id: "d", Generation: 1}, Config: &transportv1.Config{Json: config},
		Egress: &transportv1.EgressPolicy{AllowCidrs: []string{"127.0.0.0/8"}}, OrganizationId: "acme", Label: "bench",
	})
	if err != nil || len(response.GetDiagnostics()) > 0 {
		b.Fatal(err, response.GetDiagnostics())
	}
	return p
}

// upload sends as the daemon does: in chunks of 256 KiB.
func upload(ctx context.Context, client transportv1.TransportClient, id string, size int64, digest []byte) error {
	stream, err := client.Upload(ctx)
	if err != nil {
		return err
	}
	header := &transportv1.UploadHeader{Instance: &transportv1.InstanceRef{Id: "d", Generation: 1}, Item: &transportv1.Item{
		Id: id, DeliveryId: id, Attempt: 1, OrganizationId: "acme", CreatedAt: timestamppb.Now(), Deadline: timestamppb.New(time.Now().Add(10 * time.Minute)),
		Artifact: &transportv1.Artifact{Name: "big.txt", ContentType: "text/plain", Size: uint64(size), Sha256: digest},
	}}
	err = stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Header{Header: header}})
	body, chunk := file(size), make([]byte, 256<<10)
	for err == nil {
		n, readErr := io.ReadFull(body, chunk)
		if n > 0 {
			err = stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Chunk{Chunk: chunk[:n]}})
		}
		if readErr != nil {
			break
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

// uploadBare is the SDK's own uploader with the same parts, parallelism and
// checksums.
func uploadBare(ctx context.Context, client *s3.Client, key string, size int64) error {
	uploader := manager.NewUploader(client, func(u *manager.Uploader) { u.PartSize, u.Concurrency = 5<<20, 4 }) //nolint:staticcheck // its successor is not yet 1.0
	bucket := "bench"
	_, err := uploader.Upload(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: file(size), ChecksumAlgorithm: types.ChecksumAlgorithmSha256}) //nolint:staticcheck // as above
	return err
}

// memory reads one line of a process's status, in KiB.
func memory(b *testing.B, pid int, name string) (kib int64) {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if _, err := fmt.Sscanf(string(line), name+": %d kB", &kib); err == nil {
			return kib
		}
	}
	b.Fatalf("no %s in the status of the plugin", name)
	return 0
}
