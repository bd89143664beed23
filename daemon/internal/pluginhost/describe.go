package pluginhost

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	maxSchemaDepth  = 8
	maxSchemaFields = 512
)

// semver is the expression that semver.org suggests, without a leading v.
var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(\+([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?$`)

var fieldName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// checkDescription checks what the host itself relies on. Types, patterns and
// defaults of the schema are checked by whoever builds from it.
func checkDescription(name string, d *transportv1.DescribeResponse) error {
	switch {
	case d.GetName() != name:
		return fmt.Errorf("it calls itself %q, but its file name ends in %q: rename the file to %s%s", clip(d.GetName(), 64), name, FilePrefix, clip(printable(d.GetName()), 64))
	case len(d.GetVersion()) > 64 || !semver.MatchString(d.GetVersion()):
		return fmt.Errorf("its version is %q; it must be like 1.2.3", clip(d.GetVersion(), 64))
	case d.GetSummary() == "":
		return errors.New("it has no summary; the contract asks for one sentence")
	case d.GetSchema() == nil:
		return errors.New("it has no config schema; the contract asks for one, be it empty")
	case d.GetCapabilities() == nil:
		return errors.New("it has no capabilities; the contract asks for them, be they empty")
	}
	fields := 0
	return checkSchema(d.GetSchema(), "config", 1, &fields)
}

func checkSchema(schema *transportv1.ConfigSchema, path string, depth int, fields *int) error {
	if depth > maxSchemaDepth {
		return fmt.Errorf("its schema is deeper than %d levels at %s", maxSchemaDepth, path)
	}
	if *fields += len(schema.GetAttributes()) + len(schema.GetBlocks()); *fields > maxSchemaFields {
		return fmt.Errorf("its schema has more than %d attributes and blocks", maxSchemaFields)
	}
	seen := make(map[string]bool)
	for _, attribute := range schema.GetAttributes() {
		if err := checkField(attribute.GetName(), path, seen); err != nil {
			return err
		}
		if attribute.GetType() == "" {
			return fmt.Errorf("its schema gives no type for %s.%s", path, attribute.GetName())
		}
	}
	for _, block := range schema.GetBlocks() {
		if err := checkField(block.GetType(), path, seen); err != nil {
			return err
		}
		if err := checkSchema(block.GetBody(), path+"."+block.GetType(), depth+1, fields); err != nil {
			return err
		}
	}
	return nil
}

func checkField(name, path string, seen map[string]bool) error {
	if len(name) > 64 || !fieldName.MatchString(name) {
		return fmt.Errorf("its schema has the name %q in %s; names are like [a-z][a-z0-9_]*, at most 64", clip(name, 64), path)
	}
	if seen[name] {
		return fmt.Errorf("its schema has %s.%s twice", path, name)
	}
	seen[name] = true
	return nil
}

const (
	maxDiagnostics = 100
	maxTextBytes   = 1 << 10
	maxDetailBytes = 4 << 10
	maxPathSteps   = 32
)

// cleanDiagnostics bounds what a plugin says about a configuration.
func cleanDiagnostics(diagnostics []*transportv1.Diagnostic, clean func(string, int) string) []*transportv1.Diagnostic {
	kept := diagnostics[:min(len(diagnostics), maxDiagnostics)]
	for _, d := range kept {
		d.Summary = clean(d.GetSummary(), maxTextBytes)
		d.Detail = cleanLines(d.GetDetail(), maxDetailBytes, clean)
		d.Path = d.GetPath()[:min(len(d.GetPath()), maxPathSteps)]
	}
	return kept
}

// cleanLines cleans text of several lines.
func cleanLines(text string, limit int, clean func(string, int) string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = clean(line, limit)
	}
	return clip(strings.Join(lines, "\n"), limit)
}

func hasError(diagnostics []*transportv1.Diagnostic) bool {
	for _, d := range diagnostics {
		if isError(d) {
			return true
		}
	}
	return false
}

// clipString clips in place and reports whether it had to.
func clipString(text *string, limit int) bool {
	if len(*text) <= limit {
		return false
	}
	*text = clip(*text, limit)
	return true
}

// clipBytes clips in place, at the boundary of a character where it is text.
func clipBytes(data *[]byte, limit int) bool {
	if len(*data) <= limit {
		return false
	}
	cut := limit
	for cut > limit-utf8.UTFMax && !utf8.RuneStart((*data)[cut]) {
		cut--
	}
	*data = (*data)[:cut]
	return true
}
