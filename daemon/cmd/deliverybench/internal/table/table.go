// Package table prints rows of text in aligned columns, the same on a terminal and in a file. It must never cut a cell.
package table

import (
	"io"
	"strings"
	"unicode/utf8"
)

// Table is a title, a header and rows. The first column is aligned left, the others right.
type Table struct {
	title  string
	header []string
	rows   [][]string
	notes  []string
}

// New returns a table without rows.
func New(title string, header ...string) *Table {
	return &Table{title: title, header: header}
}

// Row adds a row; cells that it lacks are empty.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// Note adds a line below the table.
func (t *Table) Note(text string) { t.notes = append(t.notes, text) }

// WriteTo implements io.WriterTo.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	widths := t.widths()
	var b strings.Builder
	b.WriteString(t.title + "\n")
	writeRow(&b, widths, t.header)
	total := 0
	for _, width := range widths {
		total += width + len(gap)
	}
	if total > len(gap) {
		b.WriteString(strings.Repeat("-", total-len(gap)) + "\n")
	}
	for _, row := range t.rows {
		writeRow(&b, widths, row)
	}
	for _, note := range t.notes {
		b.WriteString(note + "\n")
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

const gap = "  "

func (t *Table) widths() []int {
	var widths []int
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

func writeRow(b *strings.Builder, widths []int, row []string) {
	var line strings.Builder
	for i, cell := range row {
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if i == 0 {
			line.WriteString(cell + pad)
			continue
		}
		line.WriteString(gap + pad + cell)
	}
	b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
}
