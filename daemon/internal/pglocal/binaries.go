package pglocal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minMajor is the oldest major version that still gets fixes from its community (end of life of 13: November 2025).
const minMajor = 14

// binaries is a directory with initdb and postgres of one major version.
type binaries struct {
	dir   string
	major int
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// findBinaries returns the binaries to use. want is the major version that made the data directory, 0 for none yet: any
// version will do, and the first found wins. An explicit directory is never overruled by a search.
func findBinaries(ctx context.Context, explicit string, want int) (binaries, error) {
	if explicit != "" {
		b, err := inspect(ctx, explicit)
		if err != nil {
			return binaries{}, fmt.Errorf("%w in the directory that was set, %s: %w", ErrNoBinaries, explicit, err)
		}
		return choose([]binaries{b}, want)
	}
	return search(ctx, candidateDirs(ctx), want)
}

func search(ctx context.Context, dirs []string, want int) (binaries, error) {
	var found []binaries
	for _, dir := range dirs {
		if b, err := inspect(ctx, dir); err == nil {
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		return binaries{}, fmt.Errorf("%w (initdb and postgres, looked for in PATH, pg_config --bindir, %s): "+
			"install the package (Debian, Ubuntu: apt-get install postgresql; Fedora, RHEL: dnf install postgresql-server; "+
			"Alpine: apk add postgresql), name their directory, or use a server of your own by its URL",
			ErrNoBinaries, strings.Join(binGlobs(), ", "))
	}
	return choose(found, want)
}

func choose(found []binaries, want int) (binaries, error) {
	if want == 0 {
		if i := slices.IndexFunc(found, func(b binaries) bool { return b.major >= minMajor }); i >= 0 {
			return found[i], nil
		}
		return binaries{}, fmt.Errorf("%w: found %s, need %d or newer", ErrVersion, describe(found), minMajor)
	}
	if i := slices.IndexFunc(found, func(b binaries) bool { return b.major == want }); i >= 0 {
		return found[i], nil
	}
	return binaries{}, fmt.Errorf("%w: the data directory was made by PostgreSQL %d, but only %s is installed: "+
		"install the server of version %d (Debian, Ubuntu: apt-get install postgresql-%d) or move the data with pg_upgrade",
		ErrVersion, want, describe(found), want, want)
}

func describe(found []binaries) string {
	var out []string
	for _, b := range found {
		out = append(out, fmt.Sprintf("%d (%s)", b.major, b.dir))
	}
	return strings.Join(out, ", ")
}

// binGlobs are the places outside PATH where distributions keep server binaries: Debian and Ubuntu, the community's RPMs,
// Alpine, Homebrew on both architectures.
func binGlobs() []string {
	return []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	}
}

func candidateDirs(ctx context.Context) []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		// The link's target: initdb looks for postgres and its share directory beside itself.
		if target, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	if out, err := output(ctx, "pg_config", "--bindir"); err == nil {
		dirs = append(dirs, strings.TrimSpace(out))
	}
	for _, glob := range binGlobs() {
		// The only error is a malformed pattern, and these are constants.
		matches, _ := filepath.Glob(glob)
		slices.SortFunc(matches, func(a, b string) int { return cmp.Compare(numberIn(b), numberIn(a)) })
		dirs = append(dirs, matches...)
	}
	return uniq(dirs)
}

func uniq(in []string) []string {
	var out []string
	for _, s := range in {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// numberIn returns the first number in a path, which in the places searched is the version; 0 when there is none.
func numberIn(path string) int {
	digits := regexp.MustCompile(`[0-9]+`).FindString(path)
	n, _ := strconv.Atoi(digits)
	return n
}

func inspect(ctx context.Context, dir string) (binaries, error) {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return binaries{}, err
		}
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return binaries{}, fmt.Errorf("%s is not executable", filepath.Join(dir, name))
		}
	}
	out, err := output(ctx, filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return binaries{}, err
	}
	major, err := parseVersion(out)
	if err != nil {
		return binaries{}, err
	}
	return binaries{dir: dir, major: major}, nil
}

// parseVersion reads the major version from, for example, "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)" or
// "postgres (PostgreSQL) 19beta1".
func parseVersion(out string) (int, error) {
	m := regexp.MustCompile(`\(PostgreSQL\) ([0-9]{1,3})`).FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no version in %q", strings.TrimSpace(out))
	}
	return strconv.Atoi(m[1])
}

// output runs a program that only prints and returns what it printed; 10 seconds are for a machine that swaps.
func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("running %s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	return string(out), nil
}

// environment is what the server's programs may see: nothing of the daemon's own variables, which hold secrets, and no
// PG* variable, which would change what the programs do.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
