//go:build race

package blackbox_test

// raced says that this binary has the race detector, so that the daemon gets it
// as well.
const raced = true
