package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/conformance"
	"github.com/deliveryd/deliveryd/sdk/plugintest"
)

// plugin is the built binary with one open instance, as the daemon runs it.
type plugin struct {
	*conformance.Process

	ref *transportv1.InstanceRef
}

func started(t testing.TB, config string) *plugin {
	t.Helper()
	process, err := conformance.StartProcess(t.Context(), []string{plugintest.Build(t, ".")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Stop)
	p := &plugin{process, &transportv1.InstanceRef{Id: "mail", Generation: 1}}
	if err := p.Open(t.Context(), p.ref, config); err != nil {
		t.Fatal(err)
	}
	return p
}

func item(id string, data []byte) *transportv1.Item {
	return &transportv1.Item{
		Id: id, DeliveryId: "dlv_" + id, Attempt: 1, OrganizationId: "acme", Type: "report.ready", CreatedAt: timestamppb.Now(),
		Deadline: timestamppb.New(time.Now().Add(5 * time.Minute)), Data: data,
	}
}

// deliver sends one batch and wants all of it delivered.
func (p *plugin) deliver(ctx context.Context, items ...*transportv1.Item) error {
	stream, err := p.Client.Deliver(ctx, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{p.ref}, Items: items})
	if err != nil {
		return err
	}
	n := 0
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) && n == len(items) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d results: %w", n, len(items), err)
		}
		for _, result := range response.GetResults() {
			if f := result.GetFailure(); f != nil {
				return fmt.Errorf("%s: %s", result.GetId(), f.GetMessage())
			}
			n++
		}
	}
}

// upload streams one artifact, in the chunks of the daemon.
func (p *plugin) upload(ctx context.Context, id string, body []byte) error {
	stream, err := p.Client.Upload(ctx)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(body)
	one := item(id, nil)
	one.Artifact = &transportv1.Artifact{Name: "export.bin", ContentType: "application/octet-stream", Size: uint64(len(body)), Sha256: digest[:]}
	err = stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Header{Header: &transportv1.UploadHeader{Instance: p.ref, Item: one}}})
	for rest := body; len(rest) > 0 && err == nil; {
		n := min(256<<10, len(rest))
		err = stream.Send(&transportv1.UploadRequest{Frame: &transportv1.UploadRequest_Chunk{Chunk: rest[:n]}})
		rest = rest[n:]
	}
	response, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if f := response.GetResult().GetFailure(); f != nil {
		return fmt.Errorf("%s: %s", id, f.GetMessage())
	}
	return nil
}

func (p *plugin) memory(t testing.TB, field string) int64 {
	t.Helper()
	n, err := p.Memory(field)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMemory hands the plugin 200 messages with attachments of 1 MiB at the same
// moment, half of them in the payload and half as artifacts: they must not be in
// its memory at the same moment.
func TestMemory(t *testing.T) {
	t.Parallel()
	const messages, most = 200, 64 << 20
	peer, err := plugintest.NewSMTPPeer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.Close)
	p := started(t, fmt.Sprintf(`{"host":%q,"security":"none","from":"reports@acme.example","to":["a@acme.example"],
		"attachment":[{"name":"report.pdf","field":"pdf","encoding":"base64","optional":true}]}`, peer.Address()))
	attachment := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	data := fmt.Appendf(nil, `{"pdf":%q}`, base64.StdEncoding.EncodeToString(attachment))
	if err := errors.Join(p.deliver(t.Context(), item("first", []byte(`{}`))), p.upload(t.Context(), "second", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	idle := p.memory(t, "VmRSS")
	var all sync.WaitGroup
	failed := make(chan error, messages)
	for i := range messages {
		all.Go(func() {
			id := strconv.Itoa(i)
			if i%2 == 0 {
				failed <- p.deliver(t.Context(), item(id, data))
			} else {
				failed <- p.upload(t.Context(), id, attachment)
			}
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			t.Fatal(err)
		}
	}
	peak := p.memory(t, "VmHWM")
	t.Logf("%d messages: idle %d MiB, peak %d MiB, above idle %d MiB", messages, idle>>20, peak>>20, (peak-idle)>>20)
	if peak-idle > most {
		t.Errorf("%d MiB above idle, want at most %d", (peak-idle)>>20, most>>20)
	}
	if n := peer.Deliveries(); n != messages+2 {
		t.Errorf("%d messages arrived, want %d", n, messages+2)
	}
}
