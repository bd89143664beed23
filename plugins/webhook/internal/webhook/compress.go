package webhook

import (
	"bytes"
	"compress/gzip"
)

// compress replaces the body of a by its gzip form.
func (p *pools) compress(a *attempt) error {
	var out bytes.Buffer
	out.Grow(len(a.bytes)/2 + 64)
	w := p.gzip.Get().(*gzip.Writer)
	defer p.gzip.Put(w)
	w.Reset(&out)
	if _, err := w.Write(a.bytes); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	a.bytes = append(a.bytes[:0], out.Bytes()...)
	return nil
}
