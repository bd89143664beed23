package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// Severity of a diagnostic.
type Severity string

// The severities.
const (
	// SeverityError: the configuration cannot be used.
	SeverityError Severity = "error"
	// SeverityWarning: it can be used all the same.
	SeverityWarning Severity = "warning"
)

// Range is a place in a file. Lines and columns count from 1; the end is the
// place behind the last character.
type Range struct {
	File        string `json:"file"`
	StartLine   int    `json:"start_line"`
	StartColumn int    `json:"start_column"`
	EndLine     int    `json:"end_line"`
	EndColumn   int    `json:"end_column"`
}

// String returns "file:line:column", as editors take it.
func (r Range) String() string {
	if r.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", r.File, r.StartLine, r.StartColumn)
}

func rangeOf(r hcl.Range) Range {
	return Range{r.Filename, r.Start.Line, r.Start.Column, r.End.Line, r.End.Column}
}

// Diagnostic is one finding. It never holds the value of a secret.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	// Summary says in one line what is wrong.
	Summary string `json:"summary"`
	// Detail says what would be right.
	Detail string `json:"detail,omitempty"`
	// Range is where; nil when it is nowhere in a file.
	Range *Range `json:"range,omitempty"`
	// Snippet holds the lines of Range, secrets masked.
	Snippet string `json:"snippet,omitempty"`
	// Destination names the destination that the finding is about, as
	// "organization/label"; empty for the rest of the configuration.
	Destination string `json:"destination,omitempty"`

	hcl  *hcl.Diagnostic
	file *maskedFile
}

// String returns "file:line:column: summary; detail" in one line.
func (d Diagnostic) String() string {
	text := d.Summary
	if d.Detail != "" {
		text += "; " + strings.Join(strings.Fields(d.Detail), " ")
	}
	if d.Range != nil {
		text = d.Range.String() + ": " + text
	}
	return text
}

// Diagnostics are findings, sorted by file, line and column.
type Diagnostics []Diagnostic

// HasErrors reports whether one of them is more than a warning.
func (d Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(d, func(one Diagnostic) bool { return one.Severity == SeverityError })
}

// Err returns an error with all findings, one per line, or nil when there is
// no error among them.
func (d Diagnostics) Err() error {
	if !d.HasErrors() {
		return nil
	}
	return diagnosticsError(d)
}

type diagnosticsError Diagnostics

// Error returns one finding per line.
func (d diagnosticsError) Error() string {
	lines := make([]string, len(d))
	for i, one := range d {
		lines[i] = string(one.Severity) + ": " + one.String()
	}
	return strings.Join(lines, "\n")
}

// WriteText writes the findings for people, each with its lines. width is
// the terminal's, 0 to leave lines as they are; color adds VT100 sequences.
// Without color, carets stand for the underline.
func (d Diagnostics) WriteText(w io.Writer, width uint, color bool) error {
	for i := range d {
		text, err := d[i].text(width, color)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err != nil {
			return fmt.Errorf("writing a diagnostic: %w", err)
		}
	}
	return nil
}

// text puts the excerpt into what HCL writes of the finding without a place: HCL
// itself allocates for every line up to the place, for each finding.
func (d *Diagnostic) text(width uint, color bool) (string, error) {
	bare := hcl.Diagnostic{Severity: d.hcl.Severity, Summary: d.hcl.Summary, Detail: d.hcl.Detail}
	var text strings.Builder
	if err := hcl.NewDiagnosticTextWriter(&text, nil, width, color).WriteDiagnostic(&bare); err != nil {
		return "", err
	}
	if d.hcl.Subject == nil {
		return text.String(), nil
	}
	head := bare.Summary + "\n\n"
	before, detail, _ := strings.Cut(text.String(), head)
	return before + head + d.file.excerpt(*d.hcl.Subject, d.hcl.Context, color) + detail, nil
}

// WriteJSON writes {"valid", "errors", "warnings", "diagnostics": [...]}.
func (d Diagnostics) WriteJSON(w io.Writer) error {
	result := struct {
		Valid       bool        `json:"valid"`
		Errors      int         `json:"errors"`
		Warnings    int         `json:"warnings"`
		Diagnostics Diagnostics `json:"diagnostics"`
	}{Valid: !d.HasErrors(), Diagnostics: d}
	if d == nil {
		result.Diagnostics = Diagnostics{}
	}
	for _, one := range d {
		if one.Severity == SeverityError {
			result.Errors++
		} else {
			result.Warnings++
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(result); err != nil {
		return fmt.Errorf("writing diagnostics: %w", err)
	}
	return nil
}

// Join returns the findings of both, sorted.
func (d Diagnostics) Join(other Diagnostics) Diagnostics {
	all := slices.Concat(d, other)
	slices.SortStableFunc(all, compareDiagnostics)
	return all
}

func compareDiagnostics(a, b Diagnostic) int {
	switch {
	case a.Range == nil && b.Range == nil:
		return cmp.Compare(a.Summary, b.Summary)
	case a.Range == nil:
		return -1
	case b.Range == nil:
		return 1
	}
	return cmp.Or(
		strings.Compare(a.Range.File, b.Range.File),
		cmp.Compare(a.Range.StartLine, b.Range.StartLine),
		cmp.Compare(a.Range.StartColumn, b.Range.StartColumn),
		cmp.Compare(a.Summary, b.Summary),
	)
}

// Finding is what somebody found who tried what a configuration says: a
// certificate that does not load, a peer that does not answer.
type Finding struct {
	// Destination is what it is about; nil for the rest of the configuration.
	Destination *Destination
	// Setting points to the field of the Config that it is about; its place is
	// where that was given. Nil: the block of Destination.
	Setting any
	// Severity of the finding. Defaults to SeverityError.
	Severity Severity
	// Summary says in one line what is wrong.
	Summary string
	// Detail says what would be right. It may hold what a plugin or a peer wrote.
	Detail string
}

// Place turns findings into Diagnostics with their places in the files; the
// secrets of the configuration are removed from their texts.
func (c *Config) Place(findings ...Finding) Diagnostics {
	l := c.inner.loader
	placed := make(hcl.Diagnostics, len(findings))
	for i, f := range findings {
		one := problem(clean(f.Summary, maxPluginSummary), "%s", clean(f.Detail, maxPluginDetail))
		if f.Severity == SeverityWarning {
			one.Severity = hcl.DiagWarning
		}
		if f.Destination != nil {
			one.Subject, one.Extra = &f.Destination.place, about{destination: f.Destination.Key()}
		}
		if where, ok := l.sources[f.Setting]; ok {
			one.Subject = &where
		}
		placed[i] = one
	}
	return l.export(placed)
}

// about is the Extra of this package's own findings.
type about struct {
	// hcl: the text is HCL's, which quotes the source.
	hcl bool
	// destination is what the finding is about, if it is one.
	destination Key
}

// export turns what HCL and this package found into Diagnostics: nothing in
// them can print a secret, however they are printed.
func (l *loader) export(found hcl.Diagnostics) Diagnostics {
	if len(found) == 0 {
		return nil
	}
	redactor := l.redactor()
	masked := map[string]*maskedFile{}
	all := make(Diagnostics, 0, len(found))
	for _, one := range found {
		if one.Subject != nil && one.Subject.Filename == "" {
			// HCL points to a bracket that a broken file does not have.
			placed := *one
			placed.Subject, placed.Context = one.Context, nil
			one = &placed
		}
		clean := &hcl.Diagnostic{
			Severity: one.Severity, Subject: one.Subject, Context: one.Context,
			Summary: redactor.Text(one.Summary),
			Detail:  redactor.Text(strings.TrimSpace(one.Detail + hint(one))),
			// No Expression and no EvalContext: HCL's writer would print the
			// values of the variables in it.
		}
		var file *maskedFile
		if one.Subject != nil {
			file = l.maskedFile(masked, redactor, one.Subject.Filename)
		}
		extra, own := one.Extra.(about)
		if file != nil && (!own || extra.hcl) {
			words := secret.NewRedactor(hiddenWords(l.files[one.Subject.Filename].Bytes, file.source, *one.Subject)...)
			clean.Summary, clean.Detail = words.Text(clean.Summary), words.Text(clean.Detail)
		}
		d := Diagnostic{Severity: SeverityError, Summary: clean.Summary, Detail: clean.Detail, hcl: clean}
		if one.Severity == hcl.DiagWarning {
			d.Severity = SeverityWarning
		}
		if extra.destination != (Key{}) {
			d.Destination = extra.destination.String()
		}
		if one.Subject != nil {
			where := rangeOf(*one.Subject)
			d.Range = &where
			d.file = file
			d.Snippet = file.snippet(*one.Subject)
		}
		all = append(all, d)
	}
	slices.SortStableFunc(all, compareDiagnostics)
	return slices.CompactFunc(all, func(a, b Diagnostic) bool {
		return compareDiagnostics(a, b) == 0 && a.Detail == b.Detail && a.Severity == b.Severity
	})
}

// unknownFunction finds the name in HCL's text about a function that is not there.
var unknownFunction = regexp.MustCompile(`^There is no function named "([^"]+)"\.$`)

// hint adds to a finding of HCL's what a beginner needs to know.
func hint(d *hcl.Diagnostic) string {
	if d.Summary == "Unknown variable" && d.Subject != nil {
		return " Text needs quotes; the values of locals blocks are called local.NAME."
	}
	if name := unknownFunction.FindStringSubmatch(d.Detail); name != nil {
		return didYouMean(name[1], FunctionNames())
	}
	return ""
}
