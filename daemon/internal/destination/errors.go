package destination

import (
	"errors"
	"fmt"
	"strings"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

var (
	// ErrTransportUnavailable is wrapped by Open and Test where the plugin of the
	// destination's type is missing or does not run: nothing is wrong with the
	// destination, and it may work later.
	ErrTransportUnavailable = errors.New("transport is not available")
	// ErrManaged is wrapped where the configuration file decides, and only a change
	// of the file can change it.
	ErrManaged = errors.New("managed by the configuration file")
)

// InvalidError says what is wrong with what a caller wants; nothing was changed.
type InvalidError struct{ Fields []InvalidField }

// InvalidField is one mistake.
type InvalidField struct {
	// Pointer is the JSON Pointer of the place; empty: no place in particular.
	Pointer string
	// Problem says what is wrong and what would be right; without secrets.
	Problem string
}

// Error names every mistake.
func (e *InvalidError) Error() string {
	all := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		all[i] = strings.TrimSpace(f.Pointer + " " + f.Problem)
	}
	return strings.Join(all, "; ")
}

func invalid(pointer, format string, args ...any) error {
	return &InvalidError{Fields: []InvalidField{{Pointer: pointer, Problem: fmt.Sprintf(format, args...)}}}
}

// ConfigError says that a destination cannot be used as it is configured.
type ConfigError struct {
	// Destination is organization/label.
	Destination string
	// Diagnostics are what the schema or the plugin says; without secrets.
	Diagnostics []*transportv1.Diagnostic
	// Err is the cause where there are no diagnostics.
	Err error
}

// Error names the destination and every error.
func (e *ConfigError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the configuration of %s cannot be used: %v", e.Destination, e.Err)
	}
	var all []string
	for _, d := range schema.FromProto(e.Diagnostics) {
		if d.Warning {
			continue
		}
		one := d.Summary
		if len(d.Path) > 0 {
			one = d.Path.String() + ": " + one
		}
		all = append(all, one)
	}
	return fmt.Sprintf("the configuration of %s is refused: %s", e.Destination, strings.Join(all, "; "))
}

// Unwrap gives the cause.
func (e *ConfigError) Unwrap() error { return e.Err }
