package sftp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/pkg/sftp"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// putting is one attempt at one file.
type putting struct {
	*destination
	session *session
	file    *file
	started time.Time

	final     string // absolute
	temporary string // beside it
	doing     string // for messages
	renaming  bool   // whether the final name may be there from now on
	replaces  bool   // whether a file under the final name is to go
	resumed   int64  // bytes that an earlier attempt wrote
}

// run writes the file under its temporary name, checks it and renames it.
func (p *putting) run() (transport.Receipt, error) {
	p.place()
	p.replaces = p.config.IfExists == existsOverwrite
	if !p.replaces {
		if receipt, done, err := p.existing(); done || err != nil {
			return receipt, err
		}
	}
	if err := p.write(); err != nil {
		return transport.Receipt{}, err
	}
	return p.rename()
}

// place decides where the file goes.
func (p *putting) place() {
	directory, name := p.names.expand(nametemplate.Source{Delivery: p.file.delivery, Destination: p.instance.Label, SHA256: p.file.sha256})
	directory = path.Clean(directory)
	if !path.IsAbs(directory) {
		directory = path.Join(p.session.home, directory)
	}
	p.final = path.Join(directory, name)
	// The name is the same for each attempt, so that one goes on where another
	// stopped, and never the same for other content: whoever writes to it, a daemon
	// that was thought dead included, writes the same bytes to the same places.
	mark := sha256.Sum256(append([]byte(p.file.delivery.ID+"\x00"), p.file.sha256...))
	p.temporary = path.Join(directory, "."+name+"."+hex.EncodeToString(mark[:6])+".part")
}

// existing judges a file that is there already. done: nothing is to be written.
func (p *putting) existing() (receipt transport.Receipt, done bool, err error) {
	p.doing = "looking for " + p.final
	info, err := p.session.Stat(p.final)
	if errors.Is(err, fs.ErrNotExist) {
		return receipt, false, nil
	}
	if err != nil {
		return receipt, false, err
	}
	same, err := p.same(info)
	switch {
	case err != nil:
		return receipt, false, err
	case same:
		return p.receipt("already", "the file was there with the same content"), true, nil
	case p.names.own():
		p.replaces = true // an earlier attempt's: encryption gives each one other bytes
		return receipt, false, nil
	case p.config.IfExists == existsSkip:
		return p.receipt("skipped", "a file was there with other content"), true, nil
	}
	return receipt, false, transport.Permanent(fmt.Errorf("%s is there already with other content", p.final), transport.WithCode("sftp.exists"))
}

// same reports whether a file has the content that is to be written.
func (p *putting) same(info os.FileInfo) (bool, error) {
	if !info.Mode().IsRegular() || info.Size() != p.file.size {
		return false, nil
	}
	digest, err := p.digest(p.final)
	return bytes.Equal(digest, p.file.sha256), err
}

// digest reads a file back.
func (p *putting) digest(name string) ([]byte, error) {
	p.doing = "reading back " + name
	f, err := p.session.Open(name)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, err = f.WriteTo(h)
	return h.Sum(nil), errors.Join(err, f.Close())
}

// write leaves the whole file under its temporary name.
func (p *putting) write() error {
	f, offset, err := p.open()
	if err != nil {
		return err
	}
	p.resumed = offset
	if err := errors.Join(p.fill(f, offset), f.Close()); err != nil {
		p.clear(err)
		return err
	}
	p.doing = "looking at " + p.temporary
	info, err := p.session.Stat(p.temporary)
	if err != nil {
		return err
	}
	if info.Size() != p.file.size {
		return p.discard("has %d bytes of %d", info.Size(), p.file.size)
	}
	if p.config.Verify != verifySHA256 && p.resumed == 0 {
		return nil
	}
	digest, err := p.digest(p.temporary)
	if err != nil {
		return err
	}
	if !bytes.Equal(digest, p.file.sha256) {
		return p.discard("has another SHA-256 than what was sent")
	}
	return nil
}

// discard removes a file that is not what was sent, so that the next attempt
// begins anew.
func (p *putting) discard(format string, args ...any) error {
	_ = p.session.Remove(p.temporary)
	return transport.Transient(fmt.Errorf("%s %s; it was removed", p.temporary, fmt.Sprintf(format, args...)), transport.WithCode("sftp.verify"))
}

// clear removes what a failed attempt has written where the next one will not go
// on with it, or where the server refused to take more: a part must not keep a
// disk full on which smaller files would have room.
func (p *putting) clear(err error) {
	var refused *sftp.StatusError
	if !p.lost(err) && (!p.file.resumable || !p.config.Resume || errors.As(err, &refused)) {
		_ = p.session.Remove(p.temporary)
	}
}

// open opens the temporary file and says where to go on.
func (p *putting) open() (*sftp.File, int64, error) {
	p.doing = "opening " + p.temporary
	f, err := p.session.OpenFile(p.temporary, os.O_WRONLY|os.O_CREATE)
	if errors.Is(err, fs.ErrNotExist) && p.config.MakeDirectories {
		p.doing = "making the directory " + path.Dir(p.temporary)
		if err = p.session.MkdirAll(path.Dir(p.temporary)); err == nil {
			p.doing = "opening " + p.temporary
			f, err = p.session.OpenFile(p.temporary, os.O_WRONLY|os.O_CREATE)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	if !p.file.resumable || !p.config.Resume {
		return f, 0, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	// Writes are answered in any order, so there may be holes among those that were
	// on their way when the connection was cut, and nowhere else.
	return f, max(min(info.Size(), p.file.size)-packet*inFlight, 0), nil
}

// fill writes the body from offset on. What was there is written over and never
// cut off first: see place.
func (p *putting) fill(f *sftp.File, offset int64) error {
	p.doing = "writing " + p.temporary
	body := &source{r: p.file.body}
	if _, err := io.CopyN(io.Discard, body, offset); err != nil {
		return err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	if _, err := f.ReadFromWithConcurrency(body, inFlight); err != nil {
		if body.err != nil {
			return body.err
		}
		return err
	}
	return p.finish(f)
}

// finish sets the permissions and waits for the server's disk.
func (p *putting) finish(f *sftp.File) error {
	if p.config.Permissions != "" {
		mode, err := strconv.ParseUint(p.config.Permissions, 8, 32)
		if err != nil {
			return transport.ConfigError(fmt.Errorf("permissions: %w", err))
		}
		p.doing = "setting the permissions of " + p.temporary
		if err := f.Chmod(fs.FileMode(mode)); err != nil {
			return err
		}
	}
	if _, can := p.session.HasExtension("fsync@openssh.com"); !can || !p.config.Fsync {
		return nil
	}
	p.doing = "having the server store " + p.temporary
	return f.Sync()
}

// source remembers that it was the body, and not the server, that failed.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = transport.Transient(fmt.Errorf("reading what is to be sent: %w", err), transport.WithCode("sftp.source"))
	}
	return n, err
}

// rename gives the file its final name.
func (p *putting) rename() (transport.Receipt, error) {
	p.doing, p.renaming = "renaming "+p.temporary, true
	err := p.move()
	if err == nil {
		return p.receipt("", ""), nil
	}
	if p.lost(err) {
		return transport.Receipt{}, err
	}
	// Another attempt may have come first, or another program: servers say no more
	// than "failure".
	p.renaming = false
	receipt, done, judged := p.existing()
	if done {
		_ = p.session.Remove(p.temporary)
		return receipt, nil
	}
	if judged != nil {
		_ = p.session.Remove(p.temporary)
		return receipt, judged
	}
	p.doing = "renaming " + p.temporary
	return receipt, err
}

// move gives the file its final name. In version 3 of the protocol a plain rename
// refuses to replace a file; posix-rename@openssh.com replaces it in one step.
func (p *putting) move() error {
	if !p.replaces {
		return p.session.Rename(p.temporary, p.final)
	}
	if _, can := p.session.HasExtension("posix-rename@openssh.com"); can {
		return p.session.PosixRename(p.temporary, p.final)
	}
	if err := p.session.Remove(p.final); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.session.Rename(p.temporary, p.final)
}

// receipt says where the file is, and why nothing was written if so.
func (p *putting) receipt(fact, text string) transport.Receipt {
	reference := url.URL{Scheme: "sftp", Host: p.config.Host, Path: p.final}
	if p.config.Port != 22 {
		reference.Host = net.JoinHostPort(p.config.Host, strconv.Itoa(p.config.Port))
	}
	details := map[string]string{"path": p.final, "bytes": strconv.FormatInt(p.file.size, 10)}
	if fact != "" {
		details[fact] = text
	}
	if p.resumed > 0 {
		details["resumed_at"] = strconv.FormatInt(p.resumed, 10)
	}
	return transport.Receipt{Reference: reference.String(), Details: details}
}
