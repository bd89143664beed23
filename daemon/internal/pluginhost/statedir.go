package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// stateDir is the host's place on disk:
//
//	<StateDir>/bin/<digest>/<file>   verified copies, shared by hosts
//	<StateDir>/run/<host>/           one per host, locked while it lives
//	<StateDir>/run/<host>/<process>/ one per process: its socket, its TMPDIR
//
// Where StateDir is too long for the path of a socket, run is below the
// system's directory for temporary files instead.
type stateDir struct {
	bin  string
	run  string // of this host
	lock *os.File
	mode os.FileMode
}

// A socket's path holds at most 107 bytes (sockaddr_un, less the final zero).
// Below the base come this host's directory, the process's (both names by
// os.MkdirTemp, which adds up to 10 digits) and the socket itself.
const (
	maxSocketPath = 107
	socketSuffix  = len("/h0123456789") + len("/plugin-dir0123456789") + len("/plugin0123456789")
)

// openStateDir makes the directories and removes what dead hosts left. shared
// lets other users pass through, but not list: for plugins with a user of their own.
func openStateDir(root string, shared bool) (*stateDir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("finding state directory: %w", err)
	}
	d := &stateDir{bin: filepath.Join(root, "bin"), mode: 0o700}
	if shared {
		d.mode = 0o711
	}
	base, err := runBase(root)
	if err != nil {
		return nil, err
	}
	if err := makeRoot(root, d.mode); err != nil {
		return nil, err
	}
	for _, directory := range []string{d.bin, base} {
		if err := makeOwn(directory, d.mode); err != nil {
			return nil, err
		}
	}
	return d, withLock(base, func() error {
		sweep(base)
		return d.claim(base)
	})
}

// runBase says where the directories of the hosts are.
func runBase(root string) (string, error) {
	base := filepath.Join(root, "run")
	if len(base)+socketSuffix <= maxSocketPath {
		return base, nil
	}
	for _, temp := range []string{os.TempDir(), "/tmp"} {
		base = filepath.Join(temp, "deliveryd-"+strconv.Itoa(os.Geteuid()))
		if len(base)+socketSuffix <= maxSocketPath {
			return base, nil
		}
	}
	return "", fmt.Errorf("state directory %s is too long for sockets below it: its path may have %d bytes but has %d",
		root, maxSocketPath-socketSuffix-len("/run"), len(root))
}

// makeRoot makes the state directory itself. An existing one keeps its mode:
// the operator may have named a directory that serves others too.
func makeRoot(root string, mode os.FileMode) error {
	if err := os.MkdirAll(root, mode); err != nil {
		return fmt.Errorf("making state directory: %w", err)
	}
	info, err := os.Stat(root)
	if err != nil {
		return fmt.Errorf("reading state directory: %w", err)
	}
	if err := checkOwnership(root, info); err != nil {
		return fmt.Errorf("state directory is not safe: %w", err)
	}
	return nil
}

// makeOwn makes a directory or takes an existing one, if it is ours alone.
func makeOwn(directory string, mode os.FileMode) error {
	if err := os.Mkdir(directory, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making state directory: %w", err)
	}
	info, err := os.Lstat(directory)
	if err != nil {
		return fmt.Errorf("reading state directory: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s must be a directory of the daemon's own user (id %d): remove it or choose another state directory", directory, os.Geteuid())
	}
	// A host without foreign users must not shut out the plugins of one that has them.
	if info.Mode().Perm()|mode == info.Mode().Perm() && info.Mode().Perm()&0o066 == 0 {
		return nil
	}
	if err := os.Chmod(directory, mode); err != nil {
		return fmt.Errorf("closing state directory to others: %w", err)
	}
	return nil
}

// claim makes the directory of this host and locks it. The kernel drops the
// lock when the host dies, however it dies.
func (d *stateDir) claim(base string) (err error) {
	if d.run, err = os.MkdirTemp(base, "h"); err != nil {
		return fmt.Errorf("making run directory: %w", err)
	}
	if err := os.Chmod(d.run, d.mode); err != nil {
		return fmt.Errorf("making run directory: %w", err)
	}
	if d.lock, err = lockFile(filepath.Join(d.run, lockName), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("locking run directory: %w", err)
	}
	return nil
}

// close removes the directory of this host. All its processes must be gone.
func (d *stateDir) close() error {
	err := os.RemoveAll(d.run)
	d.lock.Close()
	if err != nil {
		return fmt.Errorf("removing run directory: %w", err)
	}
	return nil
}

// sweep removes directories of hosts that no longer live. What cannot be
// removed stays for the next sweep: it must not keep this host from starting.
func sweep(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		directory := filepath.Join(base, entry.Name())
		lock, err := lockFile(filepath.Join(directory, lockName), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil {
			continue // its host lives
		}
		os.RemoveAll(directory)
		lock.Close()
	}
}

const lockName = ".lock"

// withLock runs do while no other host does so for the same directory.
func withLock(directory string, do func() error) error {
	lock, err := lockFile(filepath.Join(directory, lockName), syscall.LOCK_EX)
	if err != nil {
		return fmt.Errorf("locking %s: %w", directory, err)
	}
	defer lock.Close()
	return do()
}

// lockFile opens a file, making it if need be, and takes flock how on it.
func lockFile(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(file, how); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func flock(file *os.File, how int) error {
	for {
		err := syscall.Flock(int(file.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
