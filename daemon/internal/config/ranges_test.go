package config

import (
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
)

// The ranges of this package's table must be those of the settings themselves:
// what the table lets through, Validate does not refuse, and the other way round.
func TestRangesAgreeWithValidate(t *testing.T) {
	t.Parallel()
	// The least of these is bound to another setting, which has the same range.
	partner := map[string]string{"retry.cap": "retry.base", "retry.rate_limit_cap": "retry.rate_limit_base", "circuit_breaker.max_open_for": "circuit_breaker.open_for"}
	checked := 0
	for name := range settingPointers(&destination.Settings{RateLimit: &destination.RateLimit{}}) {
		for _, most := range []bool{false, true} {
			for _, beyond := range []bool{false, true} {
				s := destination.Settings{RateLimit: &destination.RateLimit{Events: 1}}
				pointers := settingPointers(&s)
				a := pointers[name].attribute
				if a.kind == kindString || a.kind == kindStrings {
					continue
				}
				if !a.bounded {
					t.Fatalf("%s has no range", name)
				}
				n, step := a.least, -1.0
				if most {
					n, step = a.most, 1
				}
				switch a.kind {
				case kindFloat:
					step /= 100_000
				case kindDuration:
					step *= 1000 // one nanosecond is lost in a year of them
				}
				if beyond {
					n += step
				}
				if n == 0 {
					continue // stands for "not given"
				}
				setNumber(t, a, pointers[name].pointer, n)
				if other, ok := partner[name]; ok && !most && !beyond {
					setNumber(t, pointers[other].attribute, pointers[other].pointer, n)
				}
				refused := false
				for _, problem := range destination.FieldErrors(s.WithDefaults().Validate()) {
					parts := strings.Split(name, ".")
					parts[len(parts)-1] = a.jsonName()
					refused = refused || problem.Field == strings.Join(parts, ".")
				}
				lower := a.kind == kindFloat && !most // exclusive there: any number above 0
				if refused != beyond && !lower {
					t.Errorf("%s = %v: refused %v, want %v", name, n, refused, beyond)
				}
				checked++
			}
		}
	}
	if checked < 60 {
		t.Errorf("only %d values checked", checked)
	}
}

func settingPointers(s *destination.Settings) map[string]given {
	all := map[string]given{}
	defaultsBlock().walk(s, nil, func(path []string, a *attribute, pointer any) { all[dotted(path, a)] = given{a, pointer} })
	return all
}

// setNumber stores a number past the table's own range check.
func setNumber(t *testing.T, a *attribute, pointer any, n float64) {
	t.Helper()
	free := *a
	free.bounded, free.hasZero = false, false
	var err error
	switch a.kind {
	case kindDuration, kindSize:
		err = setQuantity(pointer, int64(n))
	default:
		err = assignNumber(&free, pointer, cty.NumberFloatVal(n))
	}
	if err != nil {
		t.Fatal(err)
	}
}
