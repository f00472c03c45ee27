// Package integration tests the whole program as it is built and typed, in a process
// of its own: on the embedded default, and on PostgreSQL (package pgtest) with vaults
// on S3 servers (package s3test). Where a test has to reach in between, to kill a
// process at any moment or to spoil what a vault answers, it runs the engine on the
// same servers with smaller limits. Times at random come from a seed that is logged.
package integration
