package s3

import (
	"errors"
	"fmt"
	"strings"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxKey is the limit of S3, in bytes.
const maxKey = 1024

// parseKey reads a template. What it lets through can still become too long,
// and nothing else.
func parseKey(text string) (*nametemplate.Template, error) {
	// Some servers and most tools read keys as paths: an S3 server over a file
	// system is one of them.
	for segment := range strings.SplitSeq(text, "/") {
		switch segment {
		case "":
			return nil, errors.New("an empty segment: a key may neither start nor end with '/', nor hold '//'")
		case ".":
			return nil, errors.New(`a segment ".", which leads to another key`)
		}
	}
	return nametemplate.Parse(text)
}

// keyOf makes the key of a delivery, the same at each attempt. Its error means
// that this delivery can have no key.
func (b *bucket) keyOf(d *transport.Delivery, digest [32]byte) (string, error) {
	key := b.key.Expand(nametemplate.Source{Delivery: d, Destination: b.in.Label, SHA256: digest[:]}, nametemplate.Escape)
	if len(key) > maxKey {
		return "", fmt.Errorf("the key has %d bytes, S3 takes %d", len(key), maxKey)
	}
	return key, nil
}
