//go:build unix

package direct

import (
	"errors"

	"golang.org/x/sys/unix"
)

// quiet reports whether the peer has sent nothing, not even the end.
func quiet(fd uintptr) bool {
	var one [1]byte
	_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EWOULDBLOCK)
}
