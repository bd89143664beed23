package table

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestTable(t *testing.T) {
	t.Parallel()
	table := New("Costs", "what", "µs", "rate")
	table.Row("daemon", "12.5", "1,000/s")
	table.Row("plugin and more", "µµµµµµ")
	table.Note("Two rows.")
	var got strings.Builder
	if _, err := table.WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	want := `Costs
what                 µs     rate
--------------------------------
daemon             12.5  1,000/s
plugin and more  µµµµµµ
Two rows.
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// TestAligned: every cell of a right-aligned column ends where the others do.
func TestAligned(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.IntRange(1, 5).Draw(t, "columns")
		cell := rapid.StringMatching(`[a-zµ]{1,9}`)
		row := rapid.SliceOfN(cell, columns, columns)
		table := New("t", row.Draw(t, "header")...)
		for _, r := range rapid.SliceOfN(row, 1, 6).Draw(t, "rows") {
			table.Row(r...)
		}
		var out strings.Builder
		if _, err := table.WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		for _, line := range lines[1:] {
			if columns > 1 && utf8.RuneCountInString(line) != utf8.RuneCountInString(lines[1]) {
				t.Fatalf("lines of different lengths:\n%s", out.String())
			}
		}
	})
}
