// Package sink is a transport that takes deliveries without sending them
// anywhere, and that misbehaves in every way a plugin can when its
// configuration says so.
//
// It must never misbehave unless told to: it is also the no-op transport of
// benchmarks.
package sink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Sink is one process: what its instances share.
type Sink struct {
	mu        sync.Mutex
	instances map[key]*instance
	leaked    [][]byte
}

type key struct {
	id         string
	generation uint64
}

func keyOf(ref *transportv1.InstanceRef) key { return key{ref.GetId(), ref.GetGeneration()} }

// New makes the state of a process.
func New() *Sink { return &Sink{instances: map[key]*instance{}} }

// Plugin is what main serves.
func (s *Sink) Plugin() transport.Plugin[Config] {
	return transport.Plugin[Config]{
		Name: "sink", Version: "0.1.0",
		Summary:      "Takes deliveries and misbehaves on demand; for tests.",
		Homepage:     "https://github.com/deliveryd/deliveryd",
		Capabilities: transport.Capabilities{TestConnection: true, Idempotent: true, Upload: true},
		Open:         s.open,
	}
}

// instance is one destination.
type instance struct {
	sink     *Sink
	key      key
	config   *Config
	rules    []rule
	file     *os.File
	received atomic.Int64
}

func (s *Sink) open(ctx context.Context, in transport.Instance, c *Config) (transport.Transport, error) {
	if err := openMisbehaviour(ctx, c); err != nil {
		return nil, err
	}
	i := &instance{sink: s, key: key{in.ID, in.Generation}, config: c}
	for n, o := range c.Outcomes {
		r, err := newRule(o)
		if err != nil {
			return nil, schema.Errorf(schema.At("outcome").Index(n).Attribute("match"), "%v", err)
		}
		i.rules = append(i.rules, r)
	}
	if c.File != "" {
		f, err := os.OpenFile(c.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, schema.Errorf(schema.At("file"), "%v", err)
		}
		i.file = f
	}
	if c.LogSecret {
		in.Logger.Info("the secret is " + c.Secret)
		rawWrite(2, "the secret is "+c.Secret+"\n")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances[i.key] = i
	return i, nil
}

// Close forgets the instance.
func (i *instance) Close(ctx context.Context) error {
	if i.config.CloseHang {
		<-ctx.Done()
	}
	i.sink.mu.Lock()
	delete(i.sink.instances, i.key)
	i.sink.mu.Unlock()
	if i.file == nil {
		return nil
	}
	return i.file.Close()
}

// Deliver notes the arrival, misbehaves as told, waits and answers.
func (i *instance) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	n := i.received.Add(1)
	if err := i.note(d); err != nil {
		return transport.Receipt{}, err
	}
	i.misbehave(n)
	if err := i.wait(ctx); err != nil {
		return transport.Receipt{}, err
	}
	for k := range i.rules {
		if i.rules[k].applies(d) {
			return i.rules[k].answer()
		}
	}
	return transport.Receipt{Reference: d.ID, Status: 200}, nil
}

// note appends one line per attempt: item id, attempt, instance, generation.
// One write each, so that a killed process loses no line and tears none.
func (i *instance) note(d *transport.Delivery) error {
	if i.file == nil {
		return nil
	}
	line := make([]byte, 0, 128)
	line = append(line, d.ID...)
	line = append(line, ' ')
	line = strconv.AppendInt(line, int64(d.Attempt), 10)
	line = append(line, ' ')
	line = append(line, i.key.id...)
	line = append(line, ' ')
	line = strconv.AppendUint(line, i.key.generation, 10)
	line = append(line, '\n')
	if _, err := i.file.Write(line); err != nil {
		return transport.Transient(fmt.Errorf("noting the arrival: %w", err))
	}
	return nil
}

func (i *instance) wait(ctx context.Context) error {
	if i.config.Latency <= 0 {
		return nil
	}
	timer := time.NewTimer(i.config.Latency)
	defer timer.Stop()
	if i.config.IgnoreDeadline {
		<-timer.C
		return nil
	}
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestConnection reports one step.
func (i *instance) TestConnection(_ context.Context, ping bool) []transport.Step {
	var steps transport.Steps
	steps.Run("sink", func() (string, error) {
		if i.config.TestFails {
			return "", transport.ConfigError(errors.New("told to fail"))
		}
		return fmt.Sprintf("ping %t", ping), nil
	})
	return steps.All()
}

// Health reports what it was told to.
func (i *instance) Health() (transport.HealthState, string) {
	if i.config.HealthHang {
		select {}
	}
	if i.config.HealthFailed {
		return transport.HealthFailed, "told to fail"
	}
	return transport.HealthOK, ""
}
