package transport

import (
	"context"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// healthTimeout is how long a HealthReporter may take.
const healthTimeout = time.Second

// Health answers while Deliver is saturated: it takes no slot of the pool.
func (s *Server) Health(_ context.Context, r *transportv1.HealthRequest) (*transportv1.HealthResponse, error) {
	s.onCall()
	response := &transportv1.HealthResponse{}
	for _, i := range s.healthTargets(r.GetInstances()) {
		response.Instances = append(response.Instances, s.healthOf(i))
	}
	return response, nil
}

func (s *Server) healthTargets(refs []*transportv1.InstanceRef) (targets []*instance) {
	if len(refs) > 0 {
		for _, i := range s.lookup(refs) {
			if i != nil {
				targets = append(targets, i)
			}
		}
		return targets
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, i := range s.instances {
		if i.transport != nil {
			targets = append(targets, i)
		}
	}
	return targets
}

func (s *Server) healthOf(i *instance) *transportv1.InstanceHealth {
	n, draining := s.pool.inFlight(i)
	h := &transportv1.InstanceHealth{
		Instance: &transportv1.InstanceRef{Id: i.key.id, Generation: i.key.generation},
		State:    transportv1.InstanceHealth_STATE_OK, InFlight: uint32(n),
	}
	if reporter, ok := i.transport.(HealthReporter); ok {
		report := s.ask(i, reporter)
		h.State, h.Reason = transportv1.InstanceHealth_State(report.state), clipString(report.reason, maxMessage)
	}
	if draining {
		h.State = transportv1.InstanceHealth_STATE_DRAINING
	}
	return h
}

// healthReport is what a HealthReporter said.
type healthReport struct {
	state  HealthState
	reason string
}

// ask waits for a HealthReporter for a moment only. One that hangs is asked no
// second time before it has answered the first.
func (s *Server) ask(i *instance, reporter HealthReporter) healthReport {
	if !i.asking.CompareAndSwap(false, true) {
		return healthReport{HealthDegraded, "the transport has not yet answered the last question about its health"}
	}
	answer := make(chan healthReport, 1)
	go func() {
		report := healthReport{HealthFailed, "the transport panicked when asked about its health"}
		_ = s.guarded("Health", func() { report.state, report.reason = reporter.Health() })
		i.asking.Store(false)
		answer <- report
	}()
	timer := time.NewTimer(healthTimeout)
	defer timer.Stop()
	select {
	case report := <-answer:
		return report
	case <-timer.C:
		return healthReport{HealthDegraded, "the transport did not answer the question about its health in time"}
	}
}
