package health

import "fmt"

// Status is a rung of the ladder.
type Status uint8

// The statuses, from good to bad. The zero value is Healthy.
const (
	// Healthy is below every threshold.
	Healthy Status = iota
	// Degraded is from Settings.DegradedAfter on.
	Degraded
	// Unhealthy is from Settings.UnhealthyAfter on.
	Unhealthy
	// Disabled gets no deliveries until it is enabled.
	Disabled
)

// String returns "healthy", "degraded", "unhealthy" or "disabled", as kept in
// destination_health.status.
func (s Status) String() string {
	switch s {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	case Unhealthy:
		return "unhealthy"
	case Disabled:
		return "disabled"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// ParseStatus is the inverse of String.
func ParseStatus(s string) (Status, error) {
	switch s {
	case "healthy":
		return Healthy, nil
	case "degraded":
		return Degraded, nil
	case "unhealthy":
		return Unhealthy, nil
	case "disabled":
		return Disabled, nil
	}
	return Healthy, fmt.Errorf(`%q is not a health status: want "healthy", "degraded", "unhealthy" or "disabled"`, s)
}

// MarshalText implements encoding.TextMarshaler.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Status) UnmarshalText(text []byte) error {
	parsed, err := ParseStatus(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}
