//go:build !race

// The race detector makes sync.Pool forget on purpose.

package signature_test

import "testing"

func TestSigningDoesNotAllocate(t *testing.T) {
	k := key(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	body, dst := make([]byte, 1024), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { dst = k.Append(dst[:0], "msg_1", 1_700_000_000, body) }); n > 0.5 {
		t.Errorf("%.1f allocations a signature, want 0", n)
	}
}
