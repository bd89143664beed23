package breaker_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
)

func TestSettingsJSONAndDefaults(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(defaults())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"failures":5,"window_ratio":0.5,"window_min":10,"window":"5m0s","open_for":"1m0s","max_open_for":"10m0s","successes":3,"max_pause":"5m0s"}`
	if string(text) != want {
		t.Errorf("defaults %s, want %s", text, want)
	}
	var back breaker.Settings
	if err := json.Unmarshal(text, &back); err != nil || back != defaults() {
		t.Errorf("came back as %+v, %v", back, err)
	}
	if err := defaults().Validate(); err != nil {
		t.Error(err)
	}
	long := breaker.Settings{OpenFor: setting.Duration(time.Hour)}.WithDefaults()
	if err := long.Validate(); err != nil {
		t.Errorf("open_for alone: %v", err)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	t.Parallel()
	tests := []struct {
		field  string
		change func(*breaker.Settings)
	}{
		{"failures", func(s *breaker.Settings) { s.Failures = -1 }},
		{"failures", func(s *breaker.Settings) { s.Failures = 1_000_001 }},
		{"window_ratio", func(s *breaker.Settings) { s.WindowRatio = -0.1 }},
		{"window_ratio", func(s *breaker.Settings) { s.WindowRatio = 50 }},
		{"window_ratio", func(s *breaker.Settings) { s.WindowRatio = math.NaN() }},
		{"window_min", func(s *breaker.Settings) { s.WindowMin = -1 }},
		{"window", func(s *breaker.Settings) { s.Window = 1 }},
		{"open_for", func(s *breaker.Settings) { s.OpenFor = -1 }},
		{"max_open_for", func(s *breaker.Settings) { s.MaxOpenFor = 1 }},
		{"max_open_for", func(s *breaker.Settings) { s.MaxOpenFor = setting.Duration(25 * time.Hour) }},
		{"successes", func(s *breaker.Settings) { s.Successes = -3 }},
		{"max_pause", func(s *breaker.Settings) { s.MaxPause = 1 }},
	}
	for _, tc := range tests {
		s := defaults()
		tc.change(&s)
		err := s.Validate()
		var field *setting.FieldError
		if !errors.As(err, &field) || field.Field != tc.field || !strings.Contains(field.Problem, "want") {
			t.Errorf("Validate(%+v) = %v, want an error about %s that says what would be right", s, err, tc.field)
		}
	}
}
