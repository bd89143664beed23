package pglocal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for out, want := range map[string]int{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": 15,
		"postgres (PostgreSQL) 19beta1":                          19,
		"postgres (PostgreSQL) 9.6.24":                           9,
	} {
		got, err := parseVersion(out)
		if err != nil || got != want {
			t.Errorf("parseVersion(%q) = %d, %v, want %d", out, got, err, want)
		}
	}
	for _, out := range []string{"", "bash 5.2", "postgres (PostgreSQL) devel", "postgres (PostgreSQL) "} {
		if got, err := parseVersion(out); err == nil {
			t.Errorf("parseVersion(%q) = %d, want an error", out, got)
		}
	}
}

// fakeBinaries makes a directory whose postgres says that it is of a version.
func fakeBinaries(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"initdb", "postgres"} {
		script := "#!/bin/sh\necho '" + name + " (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSearchChoosesTheVersionThatMadeTheData(t *testing.T) {
	t.Parallel()
	v17, v15, v12 := fakeBinaries(t, "17.2"), fakeBinaries(t, "15.18"), fakeBinaries(t, "12.22")
	for name, test := range map[string]struct {
		dirs    []string
		made    int
		want    binaries
		failure error
		mention string
	}{
		"new cluster, first wins":           {dirs: []string{v17, v15}, want: binaries{v17, 17}},
		"new cluster, too old is passed by": {dirs: []string{v12, v15}, want: binaries{v15, 15}},
		"existing cluster":                  {dirs: []string{v17, v15}, made: 15, want: binaries{v15, 15}},
		"existing cluster, old but its own": {dirs: []string{v17, v12}, made: 12, want: binaries{v12, 12}},
		"existing cluster of another major": {
			dirs: []string{v17}, made: 15, failure: ErrVersion,
			mention: "made by PostgreSQL 15, but only 17 (" + v17 + ") is installed",
		},
		"only too old": {dirs: []string{v12}, failure: ErrVersion, mention: "need 14 or newer"},
		"none":         {dirs: []string{t.TempDir()}, failure: ErrNoBinaries, mention: "dnf install postgresql-server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := search(t.Context(), test.dirs, test.made)
			if test.failure == nil {
				if err != nil || got != test.want {
					t.Fatalf("search = %v, %v, want %v", got, err, test.want)
				}
				return
			}
			if !errors.Is(err, test.failure) || !strings.Contains(err.Error(), test.mention) {
				t.Errorf("search: error %v, want %v that mentions %q", err, test.failure, test.mention)
			}
		})
	}
}

func TestExplicitDirectoryIsNotOverruled(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	_, err := findBinaries(t.Context(), empty, 0)
	if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), empty) {
		t.Errorf("findBinaries with an empty directory set: %v, want ErrNoBinaries that names %s", err, empty)
	}
	dir := fakeBinaries(t, "16.1")
	if err := os.Chmod(filepath.Join(dir, "initdb"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = findBinaries(t.Context(), dir, 0); err == nil || !strings.Contains(err.Error(), "not executable") {
		t.Errorf("findBinaries with a file that cannot run: %v, want an error that says so", err)
	}
}

func TestNewestFirst(t *testing.T) {
	t.Parallel()
	paths := []string{"/usr/lib/postgresql/9/bin", "/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/x/bin"}
	slices.SortFunc(paths, func(a, b string) int { return numberIn(b) - numberIn(a) })
	want := []string{"/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/9/bin", "/usr/lib/postgresql/x/bin"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("order of versions (-want +got):\n%s", diff)
	}
}

func TestStartRefusesDataOfAnotherMajor(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"9.6\n", "13\n"} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
		major, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(version, ".6\n")))
		want := "made by PostgreSQL " + strconv.Itoa(major)
		if _, err := Start(t.Context(), Options{Dir: dir}); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), want) {
			t.Errorf("Start on data of version %q: %v, want ErrVersion that mentions %q", version, err, want)
		}
	}
}

func TestStartRefusesWhatIsNoCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data", "pictures"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "not a PostgreSQL data directory") {
		t.Errorf("Start on a directory of something else: %v, want an error that says so", err)
	}
	if _, err := Start(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "no directory") {
		t.Errorf("Start without a directory: %v, want an error that says so", err)
	}
}
