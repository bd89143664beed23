//go:build !linux

package child

import "syscall"

// dieWithParent: no other system offers that. What is measured needs Linux anyway.
func dieWithParent(*syscall.SysProcAttr) {}
