// Command lotkeeper keeps FSMA 204 traceability records for as long as the
// law, a policy or a recall says, and can prove it.
//
// It has no rules of its own: what may happen to a record is decided in package
// lifecycle. This package finds the data directory, turns flags into calls, and
// results into text.
//
// # Words
//
//   - data directory: the one directory in which everything lives (data.go).
//   - result: what a command prints on standard output, as a table for reading,
//     or as JSON, JSON Lines or CSV for programs. The names in it are a promise,
//     written down in docs/cli-json.md.
//   - message: what a command says on standard error: "lotkeeper: error: …" and
//     "lotkeeper: hint: …" with the next thing to type. Logs and progress go
//     there too.
//   - findings: the command did its work and found something wrong (exit 3).
//
// # Promises
//
// Data goes to standard output, everything else to standard error. The exit
// codes are listed in main.go and at the end of each command's help. Whatever
// the program makes is readable by its owner only. No command that destroys
// anything can be told what time it is.
package main
