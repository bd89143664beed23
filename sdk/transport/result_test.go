package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func one(t *testing.T, f *fake) *transportv1.Result {
	t.Helper()
	client := serveFake(t, f, transport.Capabilities{})
	ref := open(t, client, 1, 0)
	return deliver(t, client, &transportv1.DeliverRequest{Instances: []*transportv1.InstanceRef{ref}, Items: items(1, time.Now().Add(time.Minute))})["item-0"]
}

func TestErrorsBecomeFailures(t *testing.T) {
	t.Parallel()
	base := errors.New("it broke")
	blocked := &egress.BlockedError{Host: "intranet", Kind: "private"}
	for _, c := range []struct {
		name string
		err  error
		want *transportv1.Failure
	}{
		{"plain", base, &transportv1.Failure{Class: transportv1.Failure_CLASS_TRANSIENT, Code: "transient", Message: "it broke"}},
		{"transient", transport.Transient(base, transport.WithCode("http.502"), transport.WithStatus(502), transport.WithExcerpt([]byte("x"))), &transportv1.Failure{Class: transportv1.Failure_CLASS_TRANSIENT, Code: "http.502", Message: "it broke", Status: 502, Excerpt: []byte("x")}},
		{"rate limited", transport.RetryAfter(base, time.Minute), &transportv1.Failure{Class: transportv1.Failure_CLASS_RATE_LIMITED, Code: "rate_limited", Message: "it broke"}},
		{"unavailable", transport.Unavailable(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_UNAVAILABLE, Code: "unavailable", Message: "it broke"}},
		{"auth", transport.Auth(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_AUTH, Code: "auth", Message: "it broke"}},
		{"config", transport.ConfigError(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_CONFIG, Code: "config", Message: "it broke"}},
		{"permanent", transport.Permanent(base, transport.WithDisable()), &transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: "permanent", Message: "it broke", Disable: true}},
		{"expired", transport.Expired(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_EXPIRED, Code: "expired", Message: "it broke"}},
		{"unknown", transport.UnknownOutcome(base), &transportv1.Failure{Class: transportv1.Failure_CLASS_UNKNOWN_OUTCOME, Code: "unknown_outcome", Message: "it broke"}},
		{"wrapped", fmt.Errorf("sending: %w", transport.Permanent(base)), &transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: "permanent", Message: "sending: it broke"}},
		{"deadline", fmt.Errorf("waiting: %w", context.DeadlineExceeded), &transportv1.Failure{Class: transportv1.Failure_CLASS_UNKNOWN_OUTCOME, Code: "timeout", Message: "waiting: context deadline exceeded"}},
		{"canceled", context.Canceled, &transportv1.Failure{Class: transportv1.Failure_CLASS_UNKNOWN_OUTCOME, Code: "canceled", Message: "context canceled"}},
		{"egress", &net.OpError{Op: "dial", Err: blocked}, &transportv1.Failure{Class: transportv1.Failure_CLASS_CONFIG, Code: "egress.blocked", Message: (&net.OpError{Op: "dial", Err: blocked}).Error()}},
		{"unheard-of class", &transport.Error{Class: 99}, &transportv1.Failure{Class: transportv1.Failure_CLASS_TRANSIENT, Code: "transient", Message: "transient"}},
		{
			"beyond every bound", transport.Classify(transport.ClassPermanent, errors.New(strings.Repeat("é", 1000)+"\xff"), transport.WithCode(strings.Repeat("c", 100)), transport.WithStatus(-1), transport.WithExcerpt(make([]byte, 5000))),
			&transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: strings.Repeat("c", 64), Message: strings.Repeat("é", 512), Excerpt: make([]byte, 4096)},
		},
		{"broken text", transport.Permanent(errors.New("a\xffb")), &transportv1.Failure{Class: transportv1.Failure_CLASS_PERMANENT, Code: "permanent", Message: "a?b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := one(t, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
				return transport.Receipt{UsedSecrets: []string{"s1"}, Resume: []byte("here")}, c.err
			}})
			f := got.GetFailure()
			if f.GetClass() != c.want.GetClass() || f.GetCode() != c.want.GetCode() || f.GetMessage() != c.want.GetMessage() || f.GetStatus() != c.want.GetStatus() ||
				!bytes.Equal(f.GetExcerpt(), c.want.GetExcerpt()) || f.GetDisable() != c.want.GetDisable() {
				t.Errorf("got %v, want %v", f, c.want)
			}
			if fmt.Sprint(got.GetUsedSecrets()) != "[s1]" || string(got.GetResume()) != "here" {
				t.Errorf("secrets %v and resume %q must be kept with a failure", got.GetUsedSecrets(), got.GetResume())
			}
		})
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	t.Parallel()
	for given, want := range map[time.Duration]time.Duration{0: 0, -time.Second: 0, time.Minute: time.Minute, 48 * time.Hour: 24 * time.Hour} {
		got := one(t, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
			return transport.Receipt{}, transport.RetryAfter(errors.New("slow down"), given)
		}})
		if d := got.GetFailure().GetRetryAfter().AsDuration(); d != want {
			t.Errorf("%s became %s, want %s", given, d, want)
		}
	}
}

func TestSuccessIsBounded(t *testing.T) {
	t.Parallel()
	details := map[string]string{}
	for i := range 40 {
		details[fmt.Sprintf("%02d%s", i, strings.Repeat("k", 100))] = strings.Repeat("v", 1000)
	}
	got := one(t, &fake{deliver: func(context.Context, *transport.Delivery) (transport.Receipt, error) {
		return transport.Receipt{
			Reference: strings.Repeat("ö", 400) + "\xff", Status: 1 << 40, Excerpt: make([]byte, 1<<20), Details: details,
			Resume: make([]byte, 1<<20), UsedSecrets: make([]string, 100),
		}, nil
	}})
	s := got.GetSuccess()
	if s.GetReference() != strings.Repeat("ö", 255) || len(s.GetExcerpt()) != 4096 || len(s.GetDetails()) != 16 || got.GetResume() != nil || len(got.GetUsedSecrets()) > 16 {
		t.Errorf("reference %d bytes, excerpt %d, %d details, resume %d, %d secrets", len(s.GetReference()), len(s.GetExcerpt()), len(s.GetDetails()), len(got.GetResume()), len(got.GetUsedSecrets()))
	}
	for key, value := range s.GetDetails() {
		if len(key) > 64 || len(value) > 255 {
			t.Errorf("detail of %d and %d bytes", len(key), len(value))
		}
	}
}
