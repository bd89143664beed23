package config

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxSnippetLines bounds a snippet: a finding about a block shows its start.
const maxSnippetLines = 10

// maskedFile is a file of the configuration as diagnostics may show it.
type maskedFile struct {
	source []byte // secrets masked
	heads  []head
	known  knownNames
}

// head is where a top-level block is, and how it begins.
type head struct {
	start, end int
	name       string
	labels     []string
}

func (l *loader) addHeads(file string, body *hclsyntax.Body) {
	for _, b := range body.Blocks {
		l.heads[file] = append(l.heads[file], head{b.TypeRange.Start.Byte, b.CloseBraceRange.End.Byte, b.Type, b.Labels})
	}
}

// around returns the head of the top-level block around offset. Labels
// that the block should not have are left out: they may be misplaced values.
func (f *maskedFile) around(offset int) string {
	i := slices.IndexFunc(f.heads, func(h head) bool { return h.start <= offset && offset < h.end })
	if i < 0 {
		return ""
	}
	h := f.heads[i]
	switch labels, known := f.known.blocks[h.name]; {
	case !known:
		return ""
	case len(h.labels) != labels:
		return h.name
	}
	text := h.name
	for _, label := range h.labels {
		text += " " + strconv.Quote(label)
	}
	return text
}

// lines returns the lines of a range, and the offset at which they begin. It
// finds them by offset, since counting lines from the top would cost as much for
// each finding as the file is large.
func (f *maskedFile) lines(where hcl.Range) (lines []byte, start int) {
	// HCL's ranges of broken files are not always ranges.
	first := min(max(where.Start.Byte, 0), len(f.source))
	last := min(max(where.End.Byte-1, first), len(f.source))
	start = bytes.LastIndexByte(f.source[:first], '\n') + 1
	end := len(f.source)
	if n := bytes.IndexByte(f.source[last:], '\n'); n >= 0 {
		end = last + n + 1
	}
	return f.source[start:end], start
}

// snippet returns the first lines of a range.
func (f *maskedFile) snippet(where hcl.Range) string {
	if f == nil || where.Start.Line < 1 {
		return ""
	}
	source, _ := f.lines(where)
	var lines []string
	for line := range bytes.Lines(source) {
		if lines = append(lines, trimmed(line)); len(lines) == maxSnippetLines {
			break
		}
	}
	return strings.Join(lines, "\n")
}

// excerpt returns the lines of a place and of what HCL shows with it, under a line
// that says where that is. What the place covers is underlined.
func (f *maskedFile) excerpt(place hcl.Range, context *hcl.Range, color bool) string {
	if f == nil {
		return fmt.Sprintf("  on %s line %d\n\n", place.Filename, place.Start.Line)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "  on %s line %d", place.Filename, place.Start.Line)
	if block := f.around(place.Start.Byte); block != "" {
		out.WriteString(", in " + block)
	}
	out.WriteString(":\n")
	shown := place
	if context != nil {
		shown = hcl.RangeOver(shown, *context)
	}
	number := shown.Start.Line
	lines, start := f.lines(shown)
	for line := range bytes.Lines(lines) {
		if color {
			fmt.Fprintf(&out, "%4d: %s\n", number, highlighted(trimmed(line), place.Start.Byte-start, place.End.Byte-start))
		} else {
			fmt.Fprintf(&out, "%4d: %s\n", number, trimmed(line))
			if number == place.Start.Line {
				out.WriteString(carets(trimmed(line), rangeOf(place)))
			}
		}
		start += len(line)
		number++
	}
	return out.String() + "\n"
}

// trimmed returns a line without its end.
func trimmed(line []byte) string { return string(bytes.TrimRight(line, "\r\n")) }

// highlighted underlines the bytes of a line from start to end, as far as it has
// them, and at least one.
func highlighted(line string, start, end int) string {
	end = min(max(end, start+1), len(line))
	start = max(start, 0)
	if start >= end {
		return line
	}
	return line[:start] + "\x1b[1;4m" + line[start:end] + "\x1b[0m" + line[end:]
}

// carets returns a line with carets below what a range covers of its first line.
func carets(line string, where Range) string {
	length := utf8.RuneCountInString(line)
	start, end := min(where.StartColumn-1, length), length
	if where.EndLine == where.StartLine {
		end = min(where.EndColumn-1, end)
	}
	if start < 0 || end <= start {
		return ""
	}
	// As wide as what stands above: a tab stays a tab.
	blank := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string([]rune(line)[:start]))
	return strings.Repeat(" ", len("1234: ")) + blank + strings.Repeat("^", end-start) + "\n"
}
