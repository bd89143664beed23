package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pkg/sftp"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Status codes of later versions of the protocol that servers send in version 3
// as well (draft-ietf-secsh-filexfer-13, section 9.1).
const (
	statusUnsupported  = 8
	statusExists       = 11
	statusWriteProtect = 12
	statusNoMedia      = 13
	statusNoSpace      = 14
	statusQuota        = 15
)

// classify says what the daemon should do about an error. Until the rename
// nothing is there under the final name, so whatever cuts it off before is a
// passing failure and never an unknown outcome.
func (p *putting) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var classified *transport.Error
	if errors.As(err, &classified) {
		return err
	}
	err = fmt.Errorf("%s: %w", p.doing, err)
	var status *sftp.StatusError
	switch {
	case p.renaming && (ctx.Err() != nil || p.lost(err)):
		return transport.UnknownOutcome(err, transport.WithCode("sftp.cut"))
	case ctx.Err() != nil:
		return transport.Transient(fmt.Errorf("%w (the attempt's time is over)", err), transport.WithCode("sftp.timeout"))
	case p.lost(err):
		return transport.Transient(err, transport.WithCode("sftp.cut"))
	case errors.Is(err, fs.ErrPermission):
		return transport.ConfigError(err, transport.WithCode("sftp.permission_denied"))
	case errors.Is(err, fs.ErrNotExist):
		return transport.ConfigError(err, transport.WithCode("sftp.no_such_file"))
	case errors.As(err, &status):
		return ofStatus(status.Code, err)
	}
	return transport.Transient(err, transport.WithCode("sftp.failed"))
}

func ofStatus(code uint32, err error) error {
	with := func(name string) []transport.Option {
		return []transport.Option{transport.WithCode("sftp." + name), transport.WithStatus(int(code))}
	}
	switch code {
	case statusUnsupported:
		return transport.ConfigError(err, with("unsupported")...)
	case statusExists:
		return transport.Permanent(err, with("exists")...)
	case statusWriteProtect, statusNoMedia:
		return transport.ConfigError(err, with("read_only")...)
	case statusNoSpace, statusQuota:
		return transport.Transient(err, with("no_space")...)
	}
	// OpenSSH says "failure" for a full disk, a file in the place of a directory and
	// much else: it may pass.
	return transport.Transient(err, with("failure")...)
}

// lost reports whether the connection ended.
func (p *putting) lost(err error) bool {
	return p.session.broken.Load() || errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, sftp.ErrSSHFxNoConnection) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
}
