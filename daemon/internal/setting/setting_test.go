package setting_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"pgregory.net/rapid"
)

func TestDurationJSON(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     time.Duration
		wantErr  string
	}{
		{"seconds", `"1s"`, time.Second, ""},
		{"mixed", `"1h30m"`, 90 * time.Minute, ""},
		{"null leaves it unset", `null`, 0, ""},
		{"bare number", `5`, 0, "number"},
		{"no unit", `"5"`, 0, `"5" is not a duration`},
		{"days", `"3d"`, 0, "72h"},
		{"empty", `""`, 0, "not a duration"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got setting.Duration
			err := json.Unmarshal([]byte(tc.in), &got)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error %v, want one with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil || got.Std() != tc.want {
				t.Fatalf("got %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

func TestDurationRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := setting.Duration(rapid.Int64().Draw(t, "d"))
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got setting.Duration
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Fatalf("%s came back as %v, %v; want %v", text, got, err, want)
		}
	})
}

func TestChecks(t *testing.T) {
	t.Parallel()
	var c setting.Checks
	c.Require(true, "fine", "never seen")
	if err := c.Err(); err != nil {
		t.Fatalf("no failed check, yet %v", err)
	}
	c.Require(false, "base", "is %d, want at least %d", 0, 1)
	c.Require(false, "cap", "is missing")
	err := c.Err()
	var field *setting.FieldError
	if !errors.As(err, &field) || field.Field != "base" {
		t.Fatalf("errors.As found %v in %v, want the field base", field, err)
	}
	if want := "base: is 0, want at least 1\ncap: is missing"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}
