package signature

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"time"
)

// MaxBuffered is the longest body that a Stream signs with an Ed25519 key,
// which needs the whole message at once.
const MaxBuffered = 64 << 20

// ErrTooLong is returned for a body beyond MaxBuffered.
var ErrTooLong = errors.New("body is too long for an Ed25519 signature")

// Stream signs a body that does not fit into memory: write the body, then ask
// for the header.
type Stream struct {
	timestamp int64
	macs      []hash.Hash // one per key, nil for Ed25519
	keys      []*Key
	message   []byte // for Ed25519 keys
	custom    *CustomKey
	customMAC hash.Hash
}

// NewStream begins the signatures of message id. custom may be nil.
func NewStream(id string, at time.Time, custom *CustomKey, keys ...*Key) (*Stream, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: none was given", ErrKey)
	}
	s := &Stream{timestamp: at.Unix(), keys: keys, macs: make([]hash.Hash, len(keys)), custom: custom}
	prefix := appendPrefix(nil, id, s.timestamp)
	for i, k := range keys {
		switch {
		case !k.CanSign():
			return nil, fmt.Errorf("%w: a public key cannot sign", ErrKey)
		case k.Asymmetric():
			s.message = prefix
		default:
			s.macs[i] = hmac.New(sha256.New, k.secret)
			s.macs[i].Write(prefix)
		}
	}
	if custom != nil {
		s.customMAC = custom.states.New().(hash.Hash)
		custom.begin(s.customMAC, id, s.timestamp)
	}
	return s, nil
}

// Write adds to the body.
func (s *Stream) Write(p []byte) (int, error) {
	for _, mac := range s.macs {
		if mac != nil {
			mac.Write(p)
		}
	}
	if s.customMAC != nil {
		s.customMAC.Write(p)
	}
	if s.message != nil {
		if len(s.message)+len(p) > MaxBuffered {
			return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLong, MaxBuffered)
		}
		s.message = append(s.message, p...)
	}
	return len(p), nil
}

// Timestamp is the value of the timestamp header.
func (s *Stream) Timestamp() string { return strconv.FormatInt(s.timestamp, 10) }

// Header is the value of the signature header.
func (s *Stream) Header() string {
	var header []byte
	for i, mac := range s.macs {
		if i > 0 {
			header = append(header, ' ')
		}
		if mac != nil {
			header = append(header, symmetric...)
			header = base64.StdEncoding.AppendEncode(header, mac.Sum(nil))
			continue
		}
		header = append(header, asymmetric...)
		header = base64.StdEncoding.AppendEncode(header, ed25519.Sign(s.keys[i].private, s.message))
	}
	return string(header)
}

// CustomHeader is the value of the header in the custom form; empty without one.
func (s *Stream) CustomHeader() string {
	if s.customMAC == nil {
		return ""
	}
	return string(s.custom.end(nil, s.customMAC, s.timestamp))
}
