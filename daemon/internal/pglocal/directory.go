package pglocal

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxSocketDir is the longest directory whose socket a client can still name: sun_path holds 108 bytes on Linux, 104
// elsewhere, with a closing zero, and the server adds "/.s.PGSQL." and up to 5 digits.
const maxSocketDir = 104 - 1 - len("/.s.PGSQL.65535")

// socketDirPrefix starts the name of a socket directory outside the cluster's own.
const socketDirPrefix = "deliveryd-pg-"

// directory is what a cluster has on disk:
//
//	data      PostgreSQL's own directory, belongs to the user that the server runs as
//	data.new  the same while initdb works
//	run       the socket, or a link to a short directory that holds it
//	password  of the role, for TCP
//	port      of the last start
//	lock      held (flock) by the process that runs the cluster; names the postmaster
type directory struct {
	root   string
	data   string
	socket string
	lock   *os.File
	closed sync.Once
}

// openDirectory makes the directory if needed and takes its lock.
func openDirectory(path string) (*directory, error) {
	if path == "" {
		return nil, errors.New("no directory for the PostgreSQL cluster was named")
	}
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding the directory of the PostgreSQL cluster: %w", err)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the PostgreSQL cluster: %w", err)
	}
	d := &directory{root: root, data: filepath.Join(root, "data")}
	d.lock, err = os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the directory of the PostgreSQL cluster: %w", err)
	}
	if err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := d.readLock()
		_ = d.lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is held by process %d: stop that process or choose another directory",
				ErrInUse, root, holder)
		}
		return nil, fmt.Errorf("locking %s: %w", root, err)
	}
	return d, nil
}

// close frees the directory for another process. Closing twice does nothing: the directory may be another's by then.
func (d *directory) close() {
	d.closed.Do(func() {
		d.removeForeignSocketDir()
		_ = d.lock.Close()
	})
}

// readLock returns the process that held the lock last and the postmaster that it started; zeros when there is none.
func (d *directory) readLock() (holder, postmaster int) {
	data, err := io.ReadAll(io.LimitReader(io.NewSectionReader(d.lock, 0, 64), 64))
	if err != nil {
		return 0, 0
	}
	fields := strings.Fields(string(data))
	if len(fields) > 0 {
		holder, _ = strconv.Atoi(fields[0])
	}
	if len(fields) > 1 {
		postmaster, _ = strconv.Atoi(fields[1])
	}
	return holder, postmaster
}

func (d *directory) writeLock(postmaster int) error {
	if err := d.lock.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock file of %s: %w", d.root, err)
	}
	if _, err := d.lock.WriteAt([]byte(fmt.Sprintf("%d %d\n", os.Getpid(), postmaster)), 0); err != nil {
		return fmt.Errorf("writing the lock file of %s: %w", d.root, err)
	}
	return nil
}

// majorVersion returns the major version that made the data directory, 0 when there is none.
func (d *directory) majorVersion() (int, error) {
	entries, err := os.ReadDir(d.data)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the data directory: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(d.data, "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("%s has %d entries but is not a PostgreSQL data directory (%w): remove it or choose another directory",
			d.data, len(entries), err)
	}
	// Before 10 a major version had two parts ("9.6"): the first is enough to refuse it.
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), ".")
	major, err := strconv.Atoi(first)
	if err != nil || major <= 0 {
		return 0, fmt.Errorf("%s/PG_VERSION holds %q, which is no PostgreSQL version", d.data, text)
	}
	return major, nil
}

// evictOrphan makes sure that no server runs on the data directory. This process holds the lock, so a server that is
// there was left behind by a holder that was killed, and it is on its way out or is told to go; or somebody started it
// by hand, which is an error. A postmaster.pid whose process is something else today is removed, because PostgreSQL
// itself only looks whether a process of that number exists and would refuse to start for as long as it does.
func (d *directory) evictOrphan(ctx context.Context) error {
	pid, err := d.postmasterPID()
	if err != nil || pid == 0 || !alive(pid) {
		return err
	}
	serves, known := servesDirectory(pid, d.data)
	_, ours := d.readLock()
	switch {
	case known && !serves:
		return d.removeStalePID()
	case pid != ours && serves:
		return fmt.Errorf("%w: a PostgreSQL server that deliveryd did not start (process %d) runs on %s: stop it first",
			ErrInUse, pid, d.data)
	case pid != ours:
		return nil // unknown to the system's means: PostgreSQL decides
	}
	return evict(ctx, pid)
}

// evict ends an orphaned postmaster: an immediate shutdown is enough, since its clients died with its parent.
func evict(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = syscall.Kill(pid, syscall.SIGQUIT)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alive(pid) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the server of an earlier run (process %d) does not end: %w", ErrInUse, pid, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}

func (d *directory) removeStalePID() error {
	if err := os.Remove(filepath.Join(d.data, "postmaster.pid")); err != nil {
		return fmt.Errorf("removing a stale lock of PostgreSQL: %w", err)
	}
	return nil
}

// postmasterPID reads who holds PostgreSQL's lock on the data directory; 0 when nobody does.
func (d *directory) postmasterPID() (int, error) {
	lines, err := d.readPostmasterFile()
	if err != nil || len(lines) == 0 {
		return 0, err
	}
	// An unfinished file (a crash while it was written) names nobody; PostgreSQL reports it with the remedy.
	pid, _ := strconv.Atoi(strings.TrimSpace(lines[0]))
	return max(pid, 0), nil
}

// postmasterReady reports whether the postmaster says that it accepts connections: the eighth line of its lock file,
// which pg_ctl waits for, too.
func (d *directory) postmasterReady(pid int) bool {
	lines, err := d.readPostmasterFile()
	return err == nil && len(lines) >= 8 && strings.TrimSpace(lines[0]) == strconv.Itoa(pid) &&
		strings.TrimSpace(lines[7]) == "ready"
}

// readPostmasterFile returns the lines of postmaster.pid, none when there is no such file. It opens nothing but a
// regular file, and reads a bounded part of it, because the file belongs to another user.
func (d *directory) readPostmasterFile() ([]string, error) {
	f, err := os.OpenFile(filepath.Join(d.data, "postmaster.pid"), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading PostgreSQL's lock file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 8<<10))
	if err != nil {
		return nil, fmt.Errorf("reading PostgreSQL's lock file: %w", err)
	}
	return strings.Split(string(data), "\n"), nil
}

// alive reports whether a process runs, of whichever user. One that has ended and waits for its parent does not: an
// orphan's new parent, the first process of a container, may never ask.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return (err == nil || errors.Is(err, syscall.EPERM)) && !defunct(pid)
}

// prepareSocketDir makes the directory of the socket, for the server's user alone (root may always enter).
func (d *directory) prepareSocketDir(acct account) error {
	d.removeForeignSocketDir()
	link := filepath.Join(d.root, "run")
	if len(link) <= maxSocketDir {
		d.socket = link
		if err := os.Mkdir(link, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making the directory of PostgreSQL's socket: %w", err)
		}
		return acct.own(link)
	}
	short, err := shortTempDir()
	if err != nil {
		return err
	}
	d.socket = short
	// The link lets the next start clean up after a kill.
	if err := os.Symlink(short, link); err != nil {
		return errors.Join(fmt.Errorf("recording the directory of PostgreSQL's socket: %w", err), os.Remove(short))
	}
	return acct.own(short)
}

func shortTempDir() (string, error) {
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		// MkdirTemp adds up to 10 digits.
		if len(filepath.Join(parent, socketDirPrefix))+10 > maxSocketDir {
			continue
		}
		dir, err := os.MkdirTemp(parent, socketDirPrefix)
		if err == nil {
			return dir, nil
		}
		if parent == "/tmp" {
			return "", fmt.Errorf("making a short directory for PostgreSQL's socket: %w", err)
		}
	}
	return "", errors.New("no directory has a name short enough for PostgreSQL's socket: set TMPDIR")
}

// removeForeignSocketDir removes the directory that run links to, if it is one that this package made.
func (d *directory) removeForeignSocketDir() {
	link := filepath.Join(d.root, "run")
	target, err := os.Readlink(link)
	if err != nil {
		return
	}
	if strings.HasPrefix(filepath.Base(target), socketDirPrefix) {
		_ = os.RemoveAll(target)
	}
	_ = os.Remove(link)
}

// readPassword returns the role's password; the error is os.ErrNotExist when none was set yet.
func (d *directory) readPassword() (string, error) {
	data, err := os.ReadFile(filepath.Join(d.root, "password"))
	if err != nil {
		return "", fmt.Errorf("reading the cluster's password: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func (d *directory) writePassword(password string) error {
	path := filepath.Join(d.root, "password")
	if err := os.WriteFile(path+".new", []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("storing the cluster's password: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("storing the cluster's password: %w", err)
	}
	return nil
}

// newPassword returns 192 random bits in an alphabet that needs no quoting in SQL or in a URL.
func newPassword() (string, error) {
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("making a password: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

func (d *directory) lastPort() int {
	data, err := os.ReadFile(filepath.Join(d.root, "port"))
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || port < 1 || port > 65535 {
		return 0
	}
	return port
}

func (d *directory) writePort(port int) error {
	if err := os.WriteFile(filepath.Join(d.root, "port"), []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
		return fmt.Errorf("recording the cluster's port: %w", err)
	}
	return nil
}
