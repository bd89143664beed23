//go:build !race

package blackbox_test

// raced says that this binary has the race detector.
const raced = false
