package migrations

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

// The tests that need a database are beside the test clusters, in daemon/internal/pglocal/pgtest.

func TestFilesAreNumberedWithoutGaps(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("embedded files: %v, %v", names, err)
	}
	for i, name := range names {
		if want := fmt.Sprintf("%05d_", i+1); !strings.HasPrefix(name, want) {
			t.Errorf("%s: want a name that starts with %s: goose refuses gaps that are filled later", name, want)
		}
	}
}
