package schema

import (
	"fmt"
	"strconv"
	"strings"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Diagnostic is one finding about a configuration. It is an error too, so that
// Open can return one with its path.
type Diagnostic struct {
	// Warning means that the configuration can be used all the same.
	Warning bool
	// Summary is one line without secrets.
	Summary string
	// Detail says what would be right; may be empty.
	Detail string
	// Path leads from the top of config {} to the place; may be empty.
	Path Path
}

// Error is the path and the summary.
func (d Diagnostic) Error() string {
	text := d.Summary
	if len(d.Path) > 0 {
		text = d.Path.String() + ": " + text
	}
	if d.Detail != "" {
		text += " (" + d.Detail + ")"
	}
	return text
}

// WithDetail says what would be right.
func (d Diagnostic) WithDetail(format string, args ...any) Diagnostic {
	d.Detail = fmt.Sprintf(format, args...)
	return d
}

// Errorf makes an error at path.
func Errorf(path Path, format string, args ...any) Diagnostic {
	return Diagnostic{Summary: fmt.Sprintf(format, args...), Path: path}
}

// Warningf makes a warning at path.
func Warningf(path Path, format string, args ...any) Diagnostic {
	return Diagnostic{Warning: true, Summary: fmt.Sprintf(format, args...), Path: path}
}

// Diagnostics are findings in the order in which they were made.
type Diagnostics []Diagnostic

// HasErrors says whether one of them is more than a warning.
func (d Diagnostics) HasErrors() bool {
	for _, one := range d {
		if !one.Warning {
			return true
		}
	}
	return false
}

// String is one finding per line.
func (d Diagnostics) String() string {
	lines := make([]string, len(d))
	for i, one := range d {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Proto is the wire form.
func (d Diagnostics) Proto() []*transportv1.Diagnostic {
	wire := make([]*transportv1.Diagnostic, 0, len(d))
	for _, one := range d {
		w := &transportv1.Diagnostic{Severity: transportv1.Diagnostic_SEVERITY_ERROR, Summary: valid(one.Summary), Detail: valid(one.Detail)}
		if one.Warning {
			w.Severity = transportv1.Diagnostic_SEVERITY_WARNING
		}
		for _, step := range one.Path {
			w.Path = append(w.Path, step.proto())
		}
		wire = append(wire, w)
	}
	return wire
}

func valid(s string) string { return strings.ToValidUTF8(s, "?") }

// FromProto reads the wire form, which may come from any plugin.
func FromProto(wire []*transportv1.Diagnostic) Diagnostics {
	d := make(Diagnostics, 0, len(wire))
	for _, w := range wire {
		one := Diagnostic{Warning: w.GetSeverity() == transportv1.Diagnostic_SEVERITY_WARNING, Summary: w.GetSummary(), Detail: w.GetDetail()}
		for _, step := range w.GetPath() {
			switch s := step.GetStep().(type) {
			case *transportv1.PathStep_Attribute:
				one.Path = append(one.Path, Step{Attribute: s.Attribute})
			case *transportv1.PathStep_Index:
				one.Path = append(one.Path, Step{Index: int(s.Index), IsIndex: true})
			case *transportv1.PathStep_Key:
				one.Path = append(one.Path, Step{Key: s.Key, IsKey: true})
			}
		}
		d = append(d, one)
	}
	return d
}

// Path leads from the top of a configuration to a place in it.
type Path []Step

// Step is an attribute or block type, an index into a list, or a key of a map.
type Step struct {
	Attribute string
	Index     int
	Key       string
	IsIndex   bool
	IsKey     bool
}

// At makes a path of attribute names.
func At(attributes ...string) Path {
	p := make(Path, len(attributes))
	for i, name := range attributes {
		p[i] = Step{Attribute: name}
	}
	return p
}

// Attribute is p with one more attribute or block type.
func (p Path) Attribute(name string) Path { return p.with(Step{Attribute: name}) }

// Index is p with one more index.
func (p Path) Index(i int) Path { return p.with(Step{Index: i, IsIndex: true}) }

// Key is p with one more map key.
func (p Path) Key(key string) Path { return p.with(Step{Key: key, IsKey: true}) }

func (p Path) with(s Step) Path { return append(p[:len(p):len(p)], s) }

// String is as one would write it: auth.tokens[0], headers["X-A"].
func (p Path) String() string {
	var b strings.Builder
	for _, s := range p {
		switch {
		case s.IsIndex:
			fmt.Fprintf(&b, "[%d]", s.Index)
		case s.IsKey:
			fmt.Fprintf(&b, "[%s]", strconv.Quote(s.Key))
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.Attribute)
		}
	}
	return b.String()
}

func (s Step) proto() *transportv1.PathStep {
	switch {
	case s.IsIndex:
		return &transportv1.PathStep{Step: &transportv1.PathStep_Index{Index: uint32(s.Index)}}
	case s.IsKey:
		return &transportv1.PathStep{Step: &transportv1.PathStep_Key{Key: valid(s.Key)}}
	default:
		return &transportv1.PathStep{Step: &transportv1.PathStep_Attribute{Attribute: valid(s.Attribute)}}
	}
}
