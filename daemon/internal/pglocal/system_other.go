//go:build !linux

package pglocal

import "syscall"

const canPassDirectories = false

// dieWithParent does nothing: there is no such request here. A server that outlives a killed daemon is ended by the
// next start on its directory.
func dieWithParent(*syscall.SysProcAttr) {}

func servesDirectory(int, string) (serves, known bool) { return false, false }

func defunct(int) bool { return false }

func childrenOf(int) []int { return nil }

// availableMemory is a modest guess; Options.Settings overrides what follows from it.
func availableMemory() int64 { return 2 << 30 }
