//go:build unix

package direct

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const canWrite = true

// write writes what the socket takes at once. By syscall, and not by unix, which the
// race detector does not see as the beginning of what a peer in this process does.
func write(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		}
		return 0, os.NewSyscallError("write", err)
	}
}

// quiet reports whether the peer has sent nothing, not even the end.
func quiet(fd uintptr) bool {
	var one [1]byte
	_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EWOULDBLOCK)
}
