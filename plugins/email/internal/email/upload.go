package email

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Upload attaches an artifact. It is encoded into the session as it arrives; the
// last byte leaves only after its digest was found right. A signature stands
// before what it signs, so with DKIM the artifact is spooled first.
func (e *email) Upload(ctx context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
	artifact := file{size: d.Artifact.Size}
	if artifact.size > int64(e.config.Limits.Attachment) {
		return keep(d), tooLarge("artifact %q has %d bytes; limits.attachment is %s", d.Artifact.Name, artifact.size, e.config.Limits.Attachment)
	}
	if e.dkim != nil {
		spooled, err := spool(func(w io.Writer) error {
			_, err := io.Copy(w, body)
			return err
		})
		if err != nil {
			return keep(d), transport.Transient(fmt.Errorf("spooling the artifact: %w", err), transport.WithCode("spool"))
		}
		defer func() { _ = spooled.Close() }()
		artifact.open = func() (io.Reader, error) {
			_, err := spooled.Seek(0, io.SeekStart)
			return spooled, err
		}
		return e.deliver(ctx, d, &artifact)
	}
	opened := false
	artifact.open = func() (io.Reader, error) {
		if opened { // the pool reads it again only where nothing was sent
			return nil, errors.New("the artifact was read already")
		}
		opened = true
		return body, nil
	}
	return e.deliver(ctx, d, &artifact)
}

// spool writes a file that nobody else sees and that goes with its descriptor.
func spool(write func(io.Writer) error) (*os.File, error) {
	spooled, err := os.CreateTemp("", "email-")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(spooled.Name()) // the name is not needed; nothing is left behind
	w := bufio.NewWriterSize(spooled, 64<<10)
	if err := errors.Join(write(w), w.Flush()); err != nil {
		_ = spooled.Close()
		return nil, err
	}
	return spooled, nil
}
