package pglocal

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// program is one of PostgreSQL's programs about to run as the server's user.
type program struct {
	cmd   *exec.Cmd
	drop  bool
	files []*os.File
}

// program prepares a program that ends with ctx; the server itself gets a context that does not end.
func (a account) program(ctx context.Context, path string) *program {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = environment()
	// Not the caller's directory: the server's user may not be allowed to be there.
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	// A group of its own: Ctrl-C at the terminal must reach the daemon alone, which still needs its database to drain.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return &program{cmd: cmd, drop: a.drop}
}

// dir returns the path by which the program reaches a directory. When it runs as another user it gets the directory as
// an open file: that user may not enter the directories above it, such as /root or a test's temporary directory, and
// opening those to everybody, or keeping a user's data somewhere else, would be worse.
func (p *program) dir(path string) (string, error) {
	if !p.drop || !canPassDirectories {
		return path, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("opening a directory for PostgreSQL: %w", err)
	}
	p.files = append(p.files, f)
	p.cmd.ExtraFiles = p.files
	return fmt.Sprintf("/proc/self/fd/%d", 2+len(p.files)), nil
}

func (p *program) close() {
	for _, f := range p.files {
		_ = f.Close()
	}
}

// initdb makes the data directory. It works beside the final name, so that a crash leaves nothing that looks finished.
func (c *Cluster) initdb(ctx context.Context) error {
	fresh := c.dir.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("removing the rest of an interrupted initdb: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if err := c.account.own(fresh); err != nil {
		return err
	}
	inv := c.account.program(ctx, c.bin.path("initdb"))
	defer inv.close()
	data, err := inv.dir(fresh)
	if err != nil {
		return err
	}
	// Order by bytes: it is the fastest and does not change with the system's libraries, which would corrupt indexes.
	inv.cmd.Args = append(inv.cmd.Args, "-D", data, "--username="+Role, "--encoding=UTF8", "--locale=C",
		"--data-checksums", "--auth-local=peer", "--auth-host=reject")
	if c.opts.DisableFsync {
		inv.cmd.Args = append(inv.cmd.Args, "--no-sync")
	}
	out, err := inv.cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("running initdb (%s) as user %s for %s: %w%s\n%s", c.bin.dir, c.account.name, c.dir.data, err,
			c.hint(err), strings.TrimSpace(string(out)))
	}
	if err := os.Rename(fresh, c.dir.data); err != nil {
		return fmt.Errorf("putting the new data directory in place: %w", err)
	}
	return c.syncRoot()
}

// syncRoot makes the rename of the data directory durable; initdb has synced what is in it.
func (c *Cluster) syncRoot() error {
	f, err := os.Open(c.dir.root)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", c.dir.root, err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", c.dir.root, err)
	}
	return nil
}

// hint explains a permission error, which is nearly always the directory's or the container's.
func (c *Cluster) hint(err error) string {
	switch {
	case !c.account.drop || !os.IsPermission(err):
		return ""
	case canPassDirectories:
		return fmt.Sprintf(" (may this process become user %s, and may %s run %s?)", c.account.name, c.account.name, c.bin.dir)
	default:
		return fmt.Sprintf(" (user %s must be able to enter every directory above %s)", c.account.name, filepath.Dir(c.dir.root))
	}
}
