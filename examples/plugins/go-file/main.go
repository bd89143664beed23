// Command deliveryd-transport-file is an example of a transport: it appends each
// delivery as one line of JSON to a file.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// config is what a destination's config {} may hold. The tags are all there is
// to write: the daemon checks, documents, encrypts and redacts by them.
type config struct {
	Path  string `config:"path,required" doc:"File to append to; its directory must exist. It is opened anew for each delivery, so that it may be rotated by renaming it." format:"path" example:"\"/var/spool/orders/orders.jsonl\""`
	Fsync bool   `config:"fsync" doc:"Wait until the disk has the line. Without it, a power failure loses the last seconds." default:"true"`
}

// Validate checks what tags cannot say.
func (c *config) Validate() (found transport.Diagnostics) {
	if !filepath.IsAbs(c.Path) {
		found = append(found, schema.Errorf(schema.At("path"), "the path is relative").
			WithDetail("Give it from the root: a plugin runs in a directory of its own."))
	}
	return found
}

// file is one destination.
type file struct{ config *config }

// line is what is written of a delivery. A delivery may arrive more than once:
// whoever reads the file knows it by its id.
type line struct {
	ID        string          `json:"id"`
	Type      string          `json:"type,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	Data      json.RawMessage `json:"data,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
}

// Deliver makes one attempt. It never tries again: the daemon does, by the
// class of the error.
func (f *file) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	text, err := json.Marshal(line{d.ID, d.Type, d.CreatedAt, d.Data, d.Metadata}) // takes line breaks out of Data
	if err != nil {
		return transport.Receipt{}, transport.Permanent(fmt.Errorf("writing the delivery as JSON: %w", err), transport.WithCode("file.not_json"))
	}
	out, err := f.open()
	if err != nil {
		return transport.Receipt{}, err
	}
	defer func() { _ = out.Close() }() // what counts was reported by Write and Sync
	if ctx.Err() != nil {
		return transport.Receipt{}, transport.Expired(ctx.Err()) // nothing was written
	}
	if err := f.appendLine(out, append(text, '\n')); err != nil {
		return transport.Receipt{}, err
	}
	return transport.Receipt{Reference: f.config.Path}, nil
}

// TestConnection finds out whether Deliver could write, without writing.
func (f *file) TestConnection(context.Context, bool) []transport.Step {
	var steps transport.Steps
	steps.Run("permission", func() (string, error) {
		out, err := f.open()
		if err != nil {
			return "", err
		}
		return f.config.Path + " can be appended to", out.Close()
	})
	return steps.All()
}

// open opens the file and locks it: other destinations, an older generation of
// this one and other processes may append to the same file.
func (f *file) open() (*os.File, error) {
	// O_NONBLOCK: a FIFO without a reader is an error, and no wait for ever.
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE | syscall.O_NONBLOCK | syscall.O_NOFOLLOW
	out, err := os.OpenFile(f.config.Path, flags, 0o640)
	if err != nil {
		return nil, classify(err)
	}
	info, err := out.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = transport.ConfigError(fmt.Errorf("%s is not a regular file", f.config.Path), transport.WithCode("file.not_regular"))
	}
	if err == nil {
		err = syscall.Flock(int(out.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// appendLine writes all of text or, as far as can be, nothing: half a line
// would spoil the next one as well.
func (f *file) appendLine(out *os.File, text []byte) error {
	end, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return classify(err)
	}
	if n, err := out.Write(text); err != nil {
		if n > 0 {
			err = errors.Join(err, out.Truncate(end))
		}
		return classify(err)
	}
	if !f.config.Fsync {
		return nil
	}
	if err := out.Sync(); err != nil {
		return transport.UnknownOutcome(err, transport.WithCode("file.fsync"))
	}
	if end == 0 {
		return syncDirectory(filepath.Dir(f.config.Path))
	}
	return nil
}

// syncDirectory makes the name of a new file as lasting as its content.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return nil //nolint:nilerr // a directory that may be written but not read cannot be synced
	}
	if err := errors.Join(directory.Sync(), directory.Close()); err != nil {
		return transport.UnknownOutcome(err, transport.WithCode("file.fsync"))
	}
	return nil
}

// classify says what the daemon should do about an error of the file system.
func classify(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return transport.Unavailable(err, transport.WithCode("file.disk_full"))
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission), errors.Is(err, syscall.ENOTDIR),
		errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.EROFS):
		return transport.ConfigError(err, transport.WithCode("file.cannot_open"))
	}
	return transport.Transient(err, transport.WithCode("file.failed"))
}

func main() {
	transport.Serve(transport.Plugin[config]{
		Name: "file", Version: "1.0.0", Summary: "Appends each delivery as a line of JSON to a file.",
		Capabilities: transport.Capabilities{TestConnection: true, MaxItemBytes: 1 << 20},
		Open: func(_ context.Context, _ transport.Instance, c *config) (transport.Transport, error) {
			return &file{c}, nil
		},
	})
}
