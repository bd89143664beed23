package pluginhost_test

import (
	"errors"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/pluginhost"
)

func TestDeliversThroughAPlugin(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop")
	r.open(t, "noop", "one", `{"a":1}`)

	got, err := r.deliver(t, "noop", batch(knob{}, knob{Do: "where"}, knob{}))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("%d results, want 3", len(got))
	}
	details := got["item-1"].GetSuccess().GetDetails()
	if details["open"] != "true" || details["config"] != `{"a":1}` {
		t.Errorf("the instance in the plugin: %v", details)
	}
	status := r.status(t, "noop")
	if status.State != pluginhost.Ready || status.PID == 0 || status.Version != "1.2.3" || len(status.SHA256) != 64 || status.InFlight != 0 || status.Instances != 1 || status.MemoryBytes == 0 {
		t.Errorf("status: %+v", status)
	}
	described, err := r.Describe("noop")
	if err != nil || described.GetName() != "noop" {
		t.Errorf("described as %v, %v", described, err)
	}
}

func TestUnknownTransportNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	r := started(t, nil, "noop", "talks")
	_, err := r.Describe("sftp")
	var unknown *pluginhost.UnknownTransportError
	if !errors.Is(err, pluginhost.ErrUnknownTransport) || !errors.As(err, &unknown) {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
	if len(unknown.Known) != 2 || len(unknown.Failed) != 1 {
		t.Errorf("known %v, failed %v", unknown.Known, unknown.Failed)
	}
}
