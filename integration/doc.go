// Package integration tests the whole program as it is built and typed: the
// binary in a process of its own, on the embedded default. Vaults on S3 servers
// are tested with the engine, on the servers that package s3test starts.
package integration
