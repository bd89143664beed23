package pluginhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// maxBinaryBytes bounds the file of a plugin. The largest of ours has 25 MB.
const maxBinaryBytes = 1 << 30

// unusedFor is how long a copy that no host uses is kept. A daemon that
// restarts, or goes back to the version before, then need not copy again.
const unusedFor = 7 * 24 * time.Hour

// binary is a verified copy that processes are started from: the file in the
// plugin directory may be replaced while they run or restart.
type binary struct {
	path   string
	sha256 string
	file   *os.File // holds a shared lock, so that no other host sweeps the copy
}

func (b *binary) release() {
	if b != nil {
		b.file.Close()
	}
}

// stage copies the plugin file at path into the state directory, unless an
// intact copy is there, and checks the digest of what will run. pin may be empty.
func (d *stateDir) stage(ctx context.Context, path, pin string) (*binary, error) {
	source, err := openPluginFile(path)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	digest, err := digestOf(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if pin != "" && !strings.EqualFold(digest, pin) {
		return nil, permanent("%s has SHA-256 %s, but the configuration pins %s: install the pinned version, or pin the new one", path, digest, strings.ToLower(pin))
	}
	var staged *binary
	err = withLock(d.bin, func() error {
		target := filepath.Join(d.bin, digest, filepath.Base(path))
		if staged, err = openCopy(target, digest); err == nil {
			if err = staged.verify(ctx); err == nil {
				return nil
			}
			staged.release()
		}
		if err := d.copyTo(ctx, target, digest, source); err != nil {
			return err
		}
		staged, err = openCopy(target, digest)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("copying %s: %w", path, err)
	}
	return staged, nil
}

// verify checks the copy again before it runs again.
func (b *binary) verify(ctx context.Context) error {
	digest, err := digestOf(ctx, b.file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", b.path, err)
	}
	if digest != b.sha256 {
		return permanent("%s was changed: it has SHA-256 %s", b.path, digest)
	}
	return nil
}

// openCopy opens an existing copy and locks it against sweeping. What it holds is
// checked before each run.
func openCopy(target, digest string) (*binary, error) {
	file, err := os.OpenFile(target, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := flock(file, syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, err
	}
	now := time.Now()
	_ = os.Chtimes(target, now, now) // the age of a copy counts from its last use
	return &binary{path: target, sha256: digest, file: file}, nil
}

// copyTo writes the copy beside its place and renames it, so that a crash
// leaves no half of it under its name.
func (d *stateDir) copyTo(ctx context.Context, target, digest string, source *os.File) (err error) {
	directory := filepath.Dir(target)
	if err := makeOwn(directory, d.mode); err != nil {
		return err
	}
	if _, err := source.Seek(0, io.SeekStart); err != nil {
		return err
	}
	file, err := os.CreateTemp(directory, ".copy-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(file, hash), contextReader{ctx, source})
	// 0555 and not 0500: the plugin may run as another user. The directory keeps others out.
	err = errors.Join(err, file.Chmod(0o555), file.Close())
	if err != nil {
		return err
	}
	if found := hex.EncodeToString(hash.Sum(nil)); found != digest {
		return fmt.Errorf("the file changed while it was copied (SHA-256 %s, then %s)", digest, found)
	}
	return os.Rename(file.Name(), target)
}

// sweepCopies removes copies that nobody has used for a while.
func (d *stateDir) sweepCopies(now time.Time) {
	_ = withLock(d.bin, func() error {
		copies, err := filepath.Glob(filepath.Join(d.bin, "*", "*"))
		if err != nil {
			return err
		}
		for _, path := range copies {
			sweepCopy(path, now)
		}
		return nil
	})
}

func sweepCopy(path string, now time.Time) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || now.Sub(info.ModTime()) < unusedFor || flock(file, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return
	}
	os.Remove(path)
	os.Remove(filepath.Dir(path)) // succeeds when it was the last
}

func digestOf(ctx context.Context, file *os.File) (string, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(contextReader{ctx, file}, maxBinaryBytes+1)); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// contextReader stops reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
