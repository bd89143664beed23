package transform

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// Spool transforms a body into a file without a name, since a peer wants to know
// size and digest first. A pass for these alone would not do: every encryption
// differs, also of the same body to the same key. The file is gone with its
// descriptor, whatever becomes of the process.
func (s *Settings) Spool(dir string, body io.Reader) (file *os.File, size int64, digest []byte, err error) {
	if file, err = os.CreateTemp(dir, "transform-"); err != nil {
		return nil, 0, nil, fmt.Errorf("spooling: %w", err)
	}
	_ = os.Remove(file.Name())
	sum := sha256.New()
	if err = s.Copy(io.MultiWriter(file, sum), body); err == nil {
		size, err = file.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, nil, errors.Join(fmt.Errorf("spooling: %w", err), file.Close())
	}
	return file, size, sum.Sum(nil), nil
}
