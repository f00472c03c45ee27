package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

func main() {
	// A sweep's memory follows its segment; the collector is not to let it grow
	// to twice that. GOGC and GOMEMLIMIT still have the last word.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(56 << 20)
	}
	// Every package makes its files private by itself; this covers what a
	// library makes on the side, such as SQLite's journals.
	unix.Umask(0o077)
	// Writing to a pipe that nobody reads any more is then an error (EPIPE) that
	// ends the command in order, and not a signal in the middle of a sweep
	// because the reader of its log has gone.
	signal.Ignore(unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, newApp(), os.Args[1:]))
}

// run is the whole program but for the process it runs in.
func run(ctx context.Context, a *app, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	a.progress.clear()
	var usage *usageError
	if errors.As(err, &usage) && usage.hint == "" {
		usage.hint = "type: " + cmd.CommandPath() + " --help"
	}
	err = a.denied(cmd, errors.Join(err, a.out.Flush()))
	if err != nil && ctx.Err() != nil {
		err = interrupted(cmd.CommandPath(), err)
	}
	code := exitCode(err)
	if code != exitDone {
		a.complain(err)
	}
	return code
}

// denied turns what the database does not let its user do into a refusal that names
// the role which the command needs. A hold that stands says so itself.
func (a *app) denied(cmd *cobra.Command, err error) error {
	roles := strings.Fields(cmd.Annotations[annotationRoles])
	var stands *holdStands
	if !errors.Is(err, lifecycle.ErrDenied) || len(roles) == 0 || errors.As(err, &stands) {
		return err
	}
	user := "USER"
	if u, urlErr := url.Parse(a.cfg.Store); urlErr == nil && u.User.Username() != "" {
		user = u.User.Username()
	}
	return &lifecycle.Refused{
		Check:  "role",
		Reason: fmt.Sprintf("%s needs the database role %s (%v)", cmd.CommandPath(), strings.Join(roles, " and "), err),
		Hint:   fmt.Sprintf(`have the database's administrator run: GRANT %s TO "%s";`, strings.Join(roles, ", "), strings.ReplaceAll(user, `"`, `""`)),
	}
}

// interrupted says what became of a command that a signal has ended.
func interrupted(command string, err error) error {
	var stands *holdStands
	switch {
	case errors.As(err, &stands):
		return err // it says itself what stands
	case command == "lotkeeper hold place", command == "lotkeeper hold extend":
		return &hinted{errors.New("interrupted: no hold is known to be placed"), "to see whether it was, type: lotkeeper hold list"}
	}
	return &hinted{errors.New("interrupted"), "what was begun is safe; type the same command again and it goes on from there"}
}

// The exit codes. Scripts rely on them.
const (
	exitDone     = 0 // also with gaps, also when a sweep passed over held records
	exitFailed   = 1
	exitUsage    = 2
	exitFindings = 3 // rejects, conflicts, mismatches, a hold that matches nothing yet or is PARTIAL
	exitHeld     = 4 // the named target itself is held
	exitLocked   = 5 // another run holds the lock
	exitRefused  = 6 // by a safety check: nothing was done
)

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	var usage *usageError
	var found *findings
	var refused *lifecycle.Refused
	var badConfig *configError
	var badPolicy *policy.Error
	switch {
	case err == nil, errors.Is(err, unix.EPIPE):
		// Whoever read our output has seen enough, as in "| head".
		return exitDone
	case errors.As(err, &usage), errors.As(err, &badConfig), errors.As(err, &badPolicy):
		return exitUsage
	case errors.As(err, &refused):
		return exitRefused
	case errors.Is(err, lifecycle.ErrLocked), errors.Is(err, lifecycle.ErrFenced):
		return exitLocked
	case errors.Is(err, errHeld):
		return exitHeld
	case errors.As(err, &found):
		return exitFindings
	}
	return exitFailed
}

// usageError: the command was not given what it needs.
type usageError struct{ msg, hint string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{msg: fmt.Sprintf(format, args...)}
}

// findings: the command did its work and found something that a person has to
// look at.
type findings struct{ msg, hint string }

func (e *findings) Error() string { return e.msg }

// errHeld: what the command was to act on is held.
var errHeld = errors.New("it is held")

// hinted is an error with what to type next.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// complain prints an error and, if there is one, its hint.
func (a *app) complain(err error) {
	fmt.Fprintf(a.err, "lotkeeper: error: %s\n", oneLine(err.Error()))
	if hint := a.hint(err); hint != "" {
		fmt.Fprintf(a.err, "lotkeeper: hint: %s\n", oneLine(hint))
	}
}

// note tells of something that is not an error.
func (a *app) note(format string, args ...any) {
	a.out.Flush() // in the order in which things happened; a fault comes again at the end
	fmt.Fprintf(a.err, "lotkeeper: note: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

func (a *app) hint(err error) string {
	var usage *usageError
	var found *findings
	var refused *lifecycle.Refused
	var h *hinted
	hint := ""
	switch {
	case errors.As(err, &h):
		hint = h.hint
	case errors.As(err, &usage):
		hint = usage.hint
	case errors.As(err, &refused):
		hint = refused.Hint
	case errors.As(err, &found):
		hint = found.hint
	case errors.Is(err, lifecycle.ErrLocked):
		hint = "wait until it has ended; to see it, type: lotkeeper run list"
	case errors.Is(err, lifecycle.ErrFenced):
		hint = "nothing was changed since; to see the later run, type: lotkeeper run list"
	}
	return a.typed(hint)
}

// typed completes the command of a hint, so that it can be typed as it stands.
func (a *app) typed(hint string) string {
	if a.where == "" {
		return hint
	}
	return strings.ReplaceAll(hint, "type: lotkeeper ", "type: lotkeeper"+a.where+" ")
}

// oneLine makes text safe for a terminal, and one line of it: joined errors
// become clauses, and what cannot be printed becomes an escape.
func oneLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.ReplaceAll(printable(strings.Join(lines, "; ")), ":; ", ": ")
}

// printable replaces everything that a terminal could act on, or show as
// something else than it is, by an escape: control characters, and marks that
// change the direction of text.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == unicode.ReplacementChar && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i]) // a byte that is no UTF-8
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// shellQuote quotes a word for a POSIX shell if it needs it.
func shellQuote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:@%+=,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
