package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// printJSON prints v for a script.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// table prints rows under a header. Cells are cleaned: they may hold what a
// stranger wrote, and a terminal obeys escape sequences.
func table(w io.Writer, header []string, rows [][]string) error {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(out, strings.Join(header, "\t"))
	for _, row := range rows {
		clean := make([]string, len(row))
		for i, cell := range row {
			clean[i] = oneLine(cell)
		}
		_, _ = fmt.Fprintln(out, strings.Join(clean, "\t"))
	}
	return out.Flush()
}

// maxCell bounds a cell of a table.
const maxCell = 100

// oneLine makes text fit for one cell of a table on a terminal.
func oneLine(text string) string {
	if text == "" {
		return "-"
	}
	text = printable(text)
	if runes := []rune(text); len(runes) > maxCell {
		return string(runes[:maxCell-1]) + "…"
	}
	return text
}

// printable makes what others wrote one line without what a terminal obeys.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// when prints a time for people, in their zone.
func when(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}
