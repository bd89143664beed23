package webhook

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"time"

	"github.com/deliveryd/deliveryd/sdk/signature"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Upload sends an artifact as the raw body of a signed request. The signature
// stands in the header, so the body is spooled first: its timestamp must be
// that of the sending, not of the beginning of a long transfer.
func (w *webhook) Upload(ctx context.Context, d *transport.Delivery, body io.Reader) (transport.Receipt, error) {
	if err := signature.CheckID(d.ID); err != nil {
		return transport.Receipt{}, transport.Permanent(fmt.Errorf("signing: %w", err), transport.WithCode("signature.id"))
	}
	file, err := os.CreateTemp("", "webhook-upload-")
	if err != nil {
		return transport.Receipt{}, transport.Transient(fmt.Errorf("spooling the artifact: %w", err), transport.WithCode("spool"))
	}
	_ = os.Remove(file.Name()) // the name is not needed; nothing is left behind
	defer func() { _ = file.Close() }()
	if err := w.spool(file, body); err != nil {
		return transport.Receipt{}, transport.Transient(fmt.Errorf("spooling the artifact: %w", err), transport.WithCode("spool"))
	}
	ctx, cancel := w.within(ctx, d.Deadline)
	defer cancel()
	token, err := w.token(ctx)
	if err != nil {
		return transport.Receipt{}, err
	}
	a := w.pools.attempt()
	a.file, a.contentType = file, contentType(d.Artifact.ContentType)
	a.disposition = mime.FormatMediaType("attachment", map[string]string{"filename": d.Artifact.Name})
	used, err := w.signer.signFile(a, d.ID, time.Now())
	switch {
	case errors.Is(err, errNoSecret):
		return transport.Receipt{}, transport.ConfigError(err, transport.WithCode("signature.no_secret"))
	case errors.Is(err, signature.ErrTooLong):
		return transport.Receipt{}, transport.Permanent(err, transport.WithCode("signature.too_long"))
	case err != nil:
		return transport.Receipt{}, transport.Transient(fmt.Errorf("signing the artifact: %w", err), transport.WithCode("spool"))
	}
	return w.send(ctx, d, a, token, used)
}

// spool writes what will be signed and sent.
func (w *webhook) spool(file *os.File, body io.Reader) error {
	if w.config.Compression != gzipped {
		_, err := io.Copy(file, body)
		return err
	}
	compressed := gzip.NewWriter(file)
	if _, err := io.Copy(compressed, body); err != nil {
		return err
	}
	return compressed.Close()
}

// signFile is sign for a body in a file.
func (s *signer) signFile(a *attempt, id string, at time.Time) ([]string, error) {
	keys, used := s.usable(at)
	if len(keys) == 0 {
		return nil, errNoSecret
	}
	list := make([]*signature.Key, len(keys))
	for i := range keys {
		list[i] = keys[i].key
	}
	stream, err := signature.NewStream(id, at, keys[0].custom, list...)
	if err != nil {
		return nil, err
	}
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if a.length, err = io.Copy(stream, a.file); err != nil {
		return nil, err
	}
	a.timestamp, a.signatures, a.custom = stream.Timestamp(), stream.Header(), stream.CustomHeader()
	return used, nil
}
