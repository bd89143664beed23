package destination

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	defaults := Settings{}.WithDefaults()
	if err := defaults.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if again := defaults.WithDefaults(); !cmp.Equal(defaults, again) {
		t.Error("WithDefaults twice differs from once")
	}
	if defaults.Concurrency != 32 || defaults.Timeout.Std() != 30*time.Second || defaults.Expiry.Std() != 72*time.Hour || defaults.RateLimit != nil {
		t.Errorf("%+v", defaults)
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	defaults := Settings{
		Concurrency: 8, RateLimit: &RateLimit{Events: 100, Per: setting.Duration(time.Minute)},
		Retry: backoff.Policy{MaxRetries: 9, Factor: 3},
	}
	own := Settings{RateLimit: &RateLimit{Events: Off}, Retry: backoff.Policy{MaxRetries: backoff.NoRetries}}
	merged := own.Merge(defaults)
	want := Settings{
		Concurrency: 8, RateLimit: &RateLimit{Events: Off, Per: setting.Duration(time.Minute)},
		Retry: backoff.Policy{MaxRetries: backoff.NoRetries, Factor: 3},
	}
	if diff := cmp.Diff(want, merged); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if merged.WithDefaults().RateLimit != nil {
		t.Error("a rate limit that is Off is still there")
	}
	if own.RateLimit.Per != 0 {
		t.Error("Merge changed its receiver")
	}
	inherited := Settings{}.Merge(defaults)
	inherited.RateLimit.Events = 1
	if defaults.RateLimit.Events != 100 {
		t.Error("the result shares its rate limit with the defaults")
	}
}

// Every field must survive JSON, be merged and have a default or a nil.
func TestEveryFieldMergesAndRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		full := Settings{RateLimit: &RateLimit{}}
		randomize(t, reflect.ValueOf(&full).Elem(), "s")
		text, err := json.Marshal(full)
		if err != nil {
			t.Fatal(err)
		}
		var back Settings
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(full, back); diff != "" {
			t.Fatalf("JSON (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(full, Settings{}.Merge(full)); diff != "" {
			t.Fatalf("inherited (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(full, full.Merge(Settings{}.WithDefaults())); diff != "" {
			t.Fatalf("kept (-want +got):\n%s", diff)
		}
	})
}

func randomize(t *rapid.T, v reflect.Value, label string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			randomize(t, v.Field(i), label+"."+v.Type().Field(i).Name)
		}
	case reflect.Pointer:
		randomize(t, v.Elem(), label)
	case reflect.Int, reflect.Int64:
		v.SetInt(rapid.Int64Range(1, 1<<40).Draw(t, label))
	case reflect.String:
		v.SetString(rapid.StringN(1, 20, -1).Draw(t, label))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), rapid.IntRange(0, 3).Draw(t, label), 3))
		for i := range v.Len() {
			randomize(t, v.Index(i), label)
		}
	case reflect.Float64:
		v.SetFloat(rapid.Float64Range(0.001, 1000).Draw(t, label))
	default:
		t.Fatalf("%s: a %s, which this test does not know", label, v.Kind())
	}
}

func TestValidateNamesEveryField(t *testing.T) {
	t.Parallel()
	bad := Settings{
		Concurrency: -1, RateLimit: &RateLimit{Events: -2}, MaxInFlightBytes: 1, Timeout: 1, Expiry: 1,
		AutoDisable: AutoDisable{Failures: -2, After: -1},
	}.WithDefaults()
	bad.Retry.Factor, bad.Breaker.Failures = 0, 0
	var fields []string
	for _, field := range FieldErrors(bad.Validate()) {
		fields = append(fields, field.Field)
		if field.Problem == "" {
			t.Errorf("%s has no problem", field.Field)
		}
	}
	want := []string{
		"concurrency", "max_in_flight_bytes", "timeout", "expiry", "rate_limit.events",
		"auto_disable.failures", "auto_disable.after", "retry.factor", "circuit_breaker.failures",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
