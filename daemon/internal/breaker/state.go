package breaker

import "fmt"

// State is the state of a breaker.
type State uint8

// The states. The zero value is Closed.
const (
	// Closed lets attempts through.
	Closed State = iota
	// Open lets nothing through.
	Open
	// HalfOpen lets one probe through at a time.
	HalfOpen
)

// String returns "closed", "open" or "half-open", as kept in
// destination_health.circuit_breaker_state.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// ParseState is the inverse of String.
func ParseState(s string) (State, error) {
	switch s {
	case "closed":
		return Closed, nil
	case "open":
		return Open, nil
	case "half-open":
		return HalfOpen, nil
	}
	return Closed, fmt.Errorf(`%q is not a circuit breaker state: want "closed", "open" or "half-open"`, s)
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(text []byte) error {
	parsed, err := ParseState(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// HoldKind says who holds a breaker open without an end.
type HoldKind string

// The kinds of hold.
const (
	// NotHeld means that nobody does.
	NotHeld HoldKind = ""
	// HeldByResult means that a Hold result did. Release, CheckPassed and
	// ForceClose end it.
	HeldByResult HoldKind = "result"
	// HeldByOperator means that ForceOpen did. Only ForceClose ends it.
	HeldByOperator HoldKind = "operator"
)
