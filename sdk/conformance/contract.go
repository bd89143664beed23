package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"google.golang.org/protobuf/proto"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// validateTimeout is the contract's bound.
const validateTimeout = 2 * time.Second

func contractCases() []Case {
	return []Case{
		{Name: "describe", Promise: "Describe is stable; name, version and summary are in form; every attribute is described and every default is valid.", check: checkDescribe},
		{Name: "valid-config", Promise: "A valid configuration gives no error, within 2 s.", check: checkValidConfig},
		{Name: "required", Promise: "Each missing required attribute gives an error diagnostic with its path.", check: checkRequired},
		{Name: "validate-offline", Promise: "Validate uses no network.", NeedsPeer: true, check: checkValidateOffline},
		{Name: "test-connection", Promise: "TestConnection reports steps, finds a dead peer, and delivers nothing.", NeedsPeer: true, applies: canTest, check: checkTestConnection},
	}
}

func canTest(d *transportv1.DescribeResponse) bool { return d.GetCapabilities().GetTestConnection() }

var (
	nameForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,49}$`)
	semverForm = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

func checkDescribe(ctx context.Context, s *session) error {
	again, err := s.client.Describe(ctx, &transportv1.DescribeRequest{HostVersion: hostVersion, HostFeatures: []string{"unheard-of"}})
	if err != nil {
		return fmt.Errorf("calling Describe again: %w", err)
	}
	d := s.describe
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !proto.Equal(again, d) {
		problem("two answers differ")
	}
	if !nameForm.MatchString(d.GetName()) {
		problem("name %q: want lower case letters, digits and '-', at most 50", d.GetName())
	}
	if !semverForm.MatchString(d.GetVersion()) {
		problem("version %q: want semver without a leading v", d.GetVersion())
	}
	if d.GetSummary() == "" {
		problem("no summary")
	}
	if d.GetCapabilities() == nil {
		problem("no capabilities")
	}
	return errors.Join(append(problems, schema.Verify(d.GetSchema()))...)
}

func (s *session) validate(ctx context.Context, config []byte) (schema.Diagnostics, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	machine, start := s.watchPlugin(ctx), time.Now()
	response, err := s.client.Validate(ctx, &transportv1.ValidateRequest{Config: &transportv1.Config{Json: config}})
	took, most := time.Since(start), validateTimeout+machine.stop()
	if err != nil {
		return nil, fmt.Errorf("calling Validate: %w", err)
	}
	if took > most {
		return nil, fmt.Errorf("a call of Validate took %s; want at most %s", took, most)
	}
	return schema.FromProto(response.GetDiagnostics()), nil
}

func checkValidConfig(ctx context.Context, s *session) error {
	d, err := s.validate(ctx, s.config)
	if err != nil {
		return err
	}
	if d.HasErrors() {
		return fmt.Errorf("a valid configuration gives: %s", d)
	}
	if d, err = s.validate(ctx, []byte(`[]`)); err != nil || !d.HasErrors() {
		return fmt.Errorf("a configuration that is no object gives: %s, %w", d, err)
	}
	return nil
}

func checkRequired(ctx context.Context, s *session) error {
	var config any
	if err := json.Unmarshal(s.config, &config); err != nil {
		return err
	}
	var problems []error
	for _, path := range requiredPaths(nil, s.describe.GetSchema(), config) {
		broken, err := without(s.config, path)
		if err != nil {
			return err
		}
		d, err := s.validate(ctx, broken)
		if err != nil {
			return err
		}
		if !namesPath(d, path) {
			problems = append(problems, fmt.Errorf("without %s: %q; want an error at that path", path, d.String()))
		}
	}
	return errors.Join(problems...)
}

func namesPath(d schema.Diagnostics, path schema.Path) bool {
	for _, one := range d {
		if !one.Warning && one.Path.String() == path.String() {
			return true
		}
	}
	return false
}

// requiredPaths lists the required attributes that config holds.
func requiredPaths(at schema.Path, s *transportv1.ConfigSchema, config any) (paths []schema.Path) {
	object, _ := config.(map[string]any)
	for _, a := range s.GetAttributes() {
		if a.GetRequired() && object[a.GetName()] != nil {
			paths = append(paths, at.Attribute(a.GetName()))
		}
	}
	for _, b := range s.GetBlocks() {
		switch inner := object[b.GetType()].(type) {
		case map[string]any:
			paths = append(paths, requiredPaths(at.Attribute(b.GetType()), b.GetBody(), inner)...)
		case []any:
			for i, one := range inner {
				paths = append(paths, requiredPaths(at.Attribute(b.GetType()).Index(i), b.GetBody(), one)...)
			}
		}
	}
	return paths
}

func checkValidateOffline(ctx context.Context, s *session) error {
	if _, err := s.validate(ctx, s.config); err != nil {
		return err
	}
	// What is connected late is caught too: Open may connect, so it comes
	// after the count.
	if n := s.peer.Connections(); n != 0 {
		return fmt.Errorf("%d connections were opened by Validate", n)
	}
	return nil
}

func checkTestConnection(ctx context.Context, s *session) error {
	ref, err := s.open(ctx, 1)
	if err != nil {
		return err
	}
	steps, err := s.testConnection(ctx, ref)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if !step.GetOk() {
			return fmt.Errorf("step %q failed with a peer that takes everything: %v", step.GetName(), step.GetFailure())
		}
	}
	if n := s.peer.Deliveries(); n != 0 {
		return fmt.Errorf("TestConnection made %d deliveries", n)
	}
	s.peer.Close()
	if steps, err = s.testConnection(ctx, ref); err != nil {
		return err
	}
	last := steps[len(steps)-1]
	if last.GetOk() || last.GetFailure().GetClass() == transportv1.Failure_CLASS_UNSPECIFIED {
		return fmt.Errorf("the last step is %v although the peer is gone; want a failed step with a class", last)
	}
	return nil
}

func (s *session) testConnection(ctx context.Context, ref *transportv1.InstanceRef) ([]*transportv1.TestStep, error) {
	response, err := s.client.TestConnection(ctx, &transportv1.TestConnectionRequest{Instance: ref})
	if err != nil {
		return nil, fmt.Errorf("calling TestConnection: %w", err)
	}
	steps := response.GetSteps()
	if len(steps) == 0 {
		return nil, errors.New("TestConnection reported no steps")
	}
	for i, step := range steps {
		if step.GetName() == "" || step.GetTook() == nil {
			return nil, fmt.Errorf("step %d lacks a name or its length: %v", i+1, step)
		}
		if !step.GetOk() && i != len(steps)-1 {
			return nil, fmt.Errorf("steps go on after %q failed", step.GetName())
		}
	}
	return steps, nil
}
