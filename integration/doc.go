// Package integration tests the whole program as it is built and typed: the
// binary in a process of its own, on the embedded default. Servers join it when
// there are back ends that need them.
package integration
