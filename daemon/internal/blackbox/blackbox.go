// Package blackbox proves the promise of the product from outside: at least
// once, one idempotency key for each delivery and destination, never a lost or a
// silently dropped item. Its tests run the daemon and a plugin as they are
// shipped, against a real PostgreSQL, kill or stop something in the middle, and
// count what arrived at a receiver that believes nothing without a signature.
//
// The tests of faults are named TestFault...: make chaos repeats them. What they
// share is in files named harness_*_test.go.
//
// It must never look into the daemon: what is not visible to a producer, a
// receiver, an operator or a reader of the tables proves nothing here. And it
// holds no code that is not a test.
package blackbox
