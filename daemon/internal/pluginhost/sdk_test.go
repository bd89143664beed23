package pluginhost_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// TestPluginOfTheSDK: host and SDK keep to the same contract.
func TestPluginOfTheSDK(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "sdk")
	r.open(t, "sdk", "one", `{"url":"https://example.com"}`)
	req := batch(knob{}, knob{Do: "panic"}, knob{Do: "print"}, knob{Do: "hang"})
	req.Items[3].Deadline = timestamppb.New(time.Now().Add(100 * time.Millisecond))
	got, err := r.deliver(t, "sdk", req)
	if err != nil || len(got) != 4 {
		t.Fatalf("%d results, %v", len(got), err)
	}
	for i, want := range []transportv1.Failure_Class{0, transportv1.Failure_CLASS_UNKNOWN_OUTCOME, 0, transportv1.Failure_CLASS_UNKNOWN_OUTCOME} {
		result := got[req.Items[i].GetId()]
		if (result.GetSuccess() != nil) != (want == 0) || result.GetFailure().GetClass() != want {
			t.Errorf("item %d: %v, want class %v", i, result, want)
		}
	}
	r.log.await(t, "sdk: printed by a transport")
	r.log.await(t, "[ERROR] sdk: transport panicked")

	err = r.Open(testContext(t), "sdk", openRequest("two", `{}`))
	var refused *pluginhost.DiagnosticsError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "url") {
		t.Errorf("a config without its required attribute: %v", err)
	}
	status := r.status(t, "sdk")
	if status.Missing != 0 || status.Strays != 0 || status.Clipped != 0 {
		t.Errorf("status %+v", status)
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		if err := syscall.Kill(status.PID, sig); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.deliver(t, "sdk", batch(knob{})); err != nil || got["item-0"].GetSuccess() == nil {
		t.Errorf("after signals: %v, %v", got, err)
	}
	begin := time.Now()
	if err := r.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, status.PID)
	t.Logf("stopped in %v", time.Since(begin).Round(time.Millisecond))
}
