package pluginhost

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	minMemory = 16 << 20 // a Go plugin that does nothing has 14 MB resident
	minNoFile = 32
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// check says which setting is wrong.
func (o PluginOptions) check() error {
	if o.SHA256 != "" {
		if raw, err := hex.DecodeString(o.SHA256); err != nil || len(raw) != 32 {
			return fmt.Errorf("sha256 is %q; it must be 64 hexadecimal digits", o.SHA256)
		}
	}
	if o.LogLevel != "" && hclog.LevelFromString(o.LogLevel) == hclog.NoLevel {
		return fmt.Errorf("log level is %q; it must be trace, debug, info, warn, error or off", o.LogLevel)
	}
	if o.MemoryMax != 0 && o.MemoryMax < minMemory {
		return fmt.Errorf("memory limit is %d bytes; it must be 0 or at least %d", o.MemoryMax, minMemory)
	}
	if o.NoFile != 0 && o.NoFile < minNoFile {
		return fmt.Errorf("limit of open files is %d; it must be 0 or at least %d", o.NoFile, minNoFile)
	}
	if o.MaxProcs < 0 {
		return fmt.Errorf("max procs is %d; it must be 0 or more", o.MaxProcs)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Env)) {
		if !envName.MatchString(name) || strings.ContainsRune(o.Env[name], 0) {
			return fmt.Errorf("environment variable %q: a name has letters, digits and '_', and a value no zero byte", name)
		}
	}
	_, err := o.credential()
	return err
}

func (o PluginOptions) logLevel() hclog.Level {
	if o.LogLevel == "" {
		return hclog.Info
	}
	return hclog.LevelFromString(o.LogLevel)
}

// credential looks up the user; nil means the daemon's own.
func (o PluginOptions) credential() (*syscall.Credential, error) {
	if o.User == "" {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("user is %q, but only a daemon that runs as root can start plugins as another user", o.User)
	}
	account, err := user.Lookup(o.User)
	if err != nil {
		if account, err = user.LookupId(o.User); err != nil {
			return nil, fmt.Errorf("user is %q: there is no such user", o.User)
		}
	}
	uid, errUID := strconv.ParseUint(account.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(account.Gid, 10, 32)
	if err := errors.Join(errUID, errGID); err != nil {
		return nil, fmt.Errorf("user is %q: reading its ids: %w", o.User, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// environment of a process whose private directory is dir. Of the daemon's own
// environment, where the database password is, nothing is passed on.
func (o PluginOptions) environment(dir string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"TMPDIR=" + dir,
		"HOME=" + dir,
		"GOTRACEBACK=all", // what SIGABRT prints when a plugin hangs
		transport.LogLevelEnv + "=" + o.logLevel().String(),
	}
	if o.MaxProcs > 0 {
		env = append(env, "GOMAXPROCS="+strconv.Itoa(o.MaxProcs))
	}
	if o.MemoryMax > 0 {
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(o.MemoryMax/10*9, 10))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Env)) {
		env = append(env, name+"="+o.Env[name])
	}
	return env
}

// limit sets what can only be set on a running process. RLIMIT_AS is not among
// it: it breaks the Go runtime, which reserves far more address space than it
// uses.
func (o PluginOptions) limit(pid int) error {
	// The kernel, when out of memory, should rather choose a plugin than the
	// daemon. Failing that is no reason not to run.
	_ = os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj"), []byte("500"), 0)
	if o.NoFile == 0 {
		return nil
	}
	files := unix.Rlimit{Cur: o.NoFile, Max: o.NoFile}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &files, nil); err != nil {
		return fmt.Errorf("limiting open files: %w", err)
	}
	return nil
}

// giveTo makes a process's directory its user's own.
func giveTo(dir string, credential *syscall.Credential) error {
	if credential == nil {
		return nil
	}
	if err := os.Chown(dir, int(credential.Uid), int(credential.Gid)); err != nil {
		return fmt.Errorf("giving the run directory to the plugin's user: %w", err)
	}
	return checkReachable(filepath.Dir(dir))
}

// checkReachable finds the directory that would make exec fail with a bare
// "permission denied".
func checkReachable(directory string) error {
	for at := directory; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return fmt.Errorf("reading directory: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return permanent("the plugin's user cannot pass through %s (mode %04o): chmod o+x %s, or choose another state directory", at, info.Mode().Perm(), at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// executable builds the command of a plugin. It is called once per try.
func executable(path, dir string, env []string, credential *syscall.Credential) *exec.Cmd {
	return &exec.Cmd{
		Path: path,
		Args: []string{filepath.Base(path)},
		Env:  env,
		Dir:  dir,
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid:    true, // signals to the daemon's group must not reach it
			Pdeathsig:  syscall.SIGKILL,
			Credential: credential,
		},
	}
}
