// Package cte is the record: one critical tracking event of FDA's food
// traceability rule (21 CFR Part 1 Subpart S) with its key data elements.
//
// # Words
//
//   - CTE: critical tracking event, one of the events of 21 CFR 1.1325-1.1350.
//   - KDE: key data element, what the rule asks to be recorded about a CTE.
//   - TLC: traceability lot code. It is unique only within its TLC source, the
//     place where it was assigned, so a [Lot] is the pair.
//   - Record: one CTE with its KDEs, immutable. A correction is a new record
//     that names the one it corrects.
//   - Native input: JSON Lines, one object a record (native.go). Delimited input:
//     FDA's electronic sortable spreadsheet as text, a row a record (delimited.go).
//   - Canonical line: the one form in which a record is stored, sealed, archived
//     and checksummed (line.go; byte by byte in line-format.md).
//   - Content: what the input gave, without what the engine added. Two rows with
//     one record id are duplicates if their contents are equal, else a conflict.
//   - Reject: an unreadable row, refused with its line, field, rule and reason.
//   - Gap: something the rule asks for that a record lacks. The record is kept all
//     the same, because what one was given has to be kept.
//
// # What it promises
//
// What goes in comes out: numbers, escapes and the order of names inside the KDEs
// keep their literal text, and [Record.AppendNative] prints the fields of a native
// record as they were given. [ParseLine] and [Record.AppendLine] are strict
// inverses, so that a checksum over a line stays true for as long as the line is
// kept. A bad row never takes another one with it. Memory follows the longest row
// (16 MiB at most), not the length of the input.
//
// No error, and no reason in a Reject, carries the value of a KDE: an unreadable
// id or time is quoted in part, nothing else is. [Reject.Input] holds the refused
// row itself and belongs in the rejects file only.
//
// # What it trusts
//
// The caller's clock ([Options.Now]) and its source of random salts. It does not
// trust the input. It does not know who holds a record, how long it is kept, or
// where.
//
// A [Reader] serves one goroutine; a [Record] that is no longer changed, any number.
package cte
