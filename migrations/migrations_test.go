package migrations

import (
	"io/fs"
	"strconv"
	"strings"
	"testing"
)

// The tests that need a database are beside the test clusters, in daemon/internal/pglocal/pgtest.

func TestFilesAreNumbered(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("embedded files: %v, %v", names, err)
	}
	last := 0
	for _, name := range names {
		number, _, found := strings.Cut(name, "_")
		n, err := strconv.Atoi(number)
		if !found || len(number) != 5 || err != nil || n <= last {
			t.Errorf("%s: want a name that starts with five digits, each number once: goose refuses one that is filled in later", name)
		}
		last = n
	}
}
