package pluginhost

import (
	"errors"
	"fmt"
	"strings"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Errors that callers decide on; test with errors.Is.
var (
	// ErrUnknownTransport is in errors of every method that takes a transport,
	// when no file of that name was found. The error is an *UnknownTransportError.
	ErrUnknownTransport = errors.New("unknown transport")
	// ErrUnavailable is in errors of every method that calls a plugin, when no
	// process is ready. Nothing was sent.
	ErrUnavailable = errors.New("transport is not available")
	// ErrInvalidRequest is in errors of Deliver, Upload and Open: the request
	// breaks the contract. Nothing was sent; the same request fails again.
	ErrInvalidRequest = errors.New("invalid request to a transport")
)

// FileFailure tells why a file of the plugin directory is not in use.
type FileFailure struct {
	// File is the path of the file.
	File string
	// Reason is one line for people.
	Reason string
}

// UnknownTransportError is an ErrUnknownTransport with what would have been right.
type UnknownTransportError struct {
	// Name that was asked for.
	Name string
	// Known transports, sorted; among them may be some that do not work now.
	Known []string
	// Failed files, sorted: the transport asked for may be in one of them.
	Failed []FileFailure
}

// Error names the transport, those that exist and the files that failed.
func (e *UnknownTransportError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%v %q; ", ErrUnknownTransport, e.Name)
	if len(e.Known) == 0 {
		text.WriteString("no plugin was found")
	} else {
		fmt.Fprintf(&text, "there are: %s", strings.Join(e.Known, ", "))
	}
	for _, failure := range e.Failed {
		fmt.Fprintf(&text, "; %s failed: %s", failure.File, failure.Reason)
	}
	return text.String()
}

// Is reports whether target is ErrUnknownTransport.
func (e *UnknownTransportError) Is(target error) bool { return target == ErrUnknownTransport }

// DiagnosticsError is what Open returns when the plugin refuses a configuration.
type DiagnosticsError struct {
	// Transport that refused.
	Transport string
	// Diagnostics holds at least one error, and warnings.
	Diagnostics []*transportv1.Diagnostic
}

// Error lists the summaries of the errors.
func (e *DiagnosticsError) Error() string {
	var summaries []string
	for _, d := range e.Diagnostics {
		if isError(d) {
			summaries = append(summaries, d.GetSummary())
		}
	}
	return fmt.Sprintf("transport %q refuses the configuration: %s", e.Transport, strings.Join(summaries, "; "))
}

// isError takes an unspecified severity as an error, as the contract says.
func isError(d *transportv1.Diagnostic) bool {
	return d.GetSeverity() != transportv1.Diagnostic_SEVERITY_WARNING
}

// IncompleteError is what Deliver returns when items may have been attempted
// but have no result. Their outcome is unknown.
type IncompleteError struct {
	// Transport that left them out.
	Transport string
	// Missing item ids, in the order of the request.
	Missing []string
	// PluginDied is set when the plugin's process ended or was killed: a fault
	// of the plugin, which says nothing about the destination.
	PluginDied bool
	// Err is the cause.
	Err error
}

// Error names the transport, how many items are missing and why.
func (e *IncompleteError) Error() string {
	return fmt.Sprintf("transport %q gave no result for %d items: %v", e.Transport, len(e.Missing), e.Err)
}

// Unwrap gives the cause.
func (e *IncompleteError) Unwrap() error { return e.Err }

// permanentError is a failed start that another try cannot mend before someone
// changes the file or the settings.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(format string, args ...any) error {
	return permanentError{fmt.Errorf(format, args...)}
}

func isPermanent(err error) bool {
	var p permanentError
	return errors.As(err, &p)
}
