// Package policy is retention policies as data: a file with rules that say when a
// record leaves the hot store and when its last copy may go, which rule is a
// record's, and the law's floor that no rule gets below. It knows of no store.
package policy
