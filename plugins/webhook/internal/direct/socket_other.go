//go:build !unix

package direct

// quiet cannot look here; a connection that the peer closed fails at its next use.
func quiet(uintptr) bool { return true }

const canWrite = false

// write is not called here.
func write(uintptr, []byte) (int, error) { return 0, nil }
