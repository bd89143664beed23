package artifact

import (
	"bytes"
	"fmt"
	"hash"
	"io"
)

// verified vouches for what it read at its end.
type verified struct {
	io.ReadCloser
	hash hash.Hash
	left int64
	want []byte
	err  error
	end  func()
}

// Read implements io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.ReadCloser.Read(p)
	v.hash.Write(p[:n])
	if v.left -= int64(n); v.left < 0 {
		v.err = fmt.Errorf("%w: it is longer than it was", ErrDamaged)
		return 0, v.err
	}
	if err == io.EOF { //nolint:errorlint // a store's connection that breaks may say so, wrapped: nothing is damaged then
		err = v.verdict()
	}
	v.err = err
	return n, err
}

// Close implements io.Closer.
func (v *verified) Close() error {
	v.end()
	return v.ReadCloser.Close()
}

func (v *verified) verdict() error {
	if v.left > 0 {
		return fmt.Errorf("%w: %d bytes are missing", ErrDamaged, v.left)
	}
	if !bytes.Equal(v.hash.Sum(nil), v.want) {
		return fmt.Errorf("%w: its SHA-256 is not what it was", ErrDamaged)
	}
	return io.EOF
}
