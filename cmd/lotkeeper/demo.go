package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/shred"
)

func newDemo(a *app) *cobra.Command {
	var into string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "show the whole life of records, in a directory of its own",
		Long: `Makes a small supply chain with four years of events, and takes it through
ingest, a recall hold, a sweep, a checksum report and verification, with the
commands that you would type. Everything is in the directory it names; nothing
is left anywhere else, and the directory stays for you to look around in.`,
		Example: `  lotkeeper demo
  lotkeeper demo --dir try-it`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), into) },
	}
	cmd.Flags().StringVar(&into, "dir", "", "a `directory` that is not there yet or empty (default: a new temporary one)")
	prints(cmd, "table")
	annotate(cmd, annotationNoConfig, "yes")
	exits(cmd, exitDone, exitFailed, exitUsage)
	return cmd
}

// demoWidth is how wide a screen the demo writes for.
const demoWidth = 80

// demonstration is one run of the demo.
type demonstration struct {
	*app
	dir string
}

func (a *app) demo(ctx context.Context, into string) (err error) {
	d := &demonstration{app: a}
	if d.dir, err = demoDirectory(into); err != nil {
		return err
	}
	events := filepath.Join(d.dir, "events.jsonl")
	chain, err := d.write(events)
	if err != nil {
		return err
	}

	d.say(`A supply chain of three farms, a cooler, a packer, a distributor, a kitchen and
three customers has left four years of events in events.jsonl, some of its rows
as bad as rows are. All of this happens in
  %s
`, d.dir)

	d.step("Take the records in. What cannot be read goes to a rejects file, with its\nline, field and reason; what is incomplete is kept, and counted as a gap.")
	if err := d.run(ctx, exitDone, "init"); err != nil {
		return err
	}
	if err := d.run(ctx, exitFindings, "ingest", "events.jsonl"); err != nil {
		return err
	}

	d.step("Half of them are older than 730 days. What would a sweep do?")
	if err := d.run(ctx, exitDone, "sweep", "--dry-run"); err != nil {
		return err
	}

	d.step("But a lot has made somebody ill. From the moment this command returns,\nnothing of that lot is shredded, also of what arrives later.")
	if err := d.run(ctx, exitDone, "hold", "place", "--lot", chain.Recalled, "--kind", "recall", "--reference", "F-0417-2026", "--reason", "Salmonella in cut melon"); err != nil {
		return err
	}

	d.step("Now sweep: pack what is due, put it into the vault under lock, read it back,\ncompare every checksum; only then drop the hot rows and destroy their keys.")
	if err := d.run(ctx, exitDone, "sweep"); err != nil {
		return err
	}

	d.step("What the hold kept: these records are past the cutoff, and still here.")
	if err := d.run(ctx, exitDone, "record", "list", "--state", "held", "--limit", "4"); err != nil {
		return err
	}

	d.step("What moved: one record of the day that was due first, and where it is now.")
	if err := d.run(ctx, exitDone, "record", "show", chain.Old); err != nil {
		return err
	}

	d.step("It can be read from the archive, and no longer from the hot store.")
	if err := d.run(ctx, exitDone, "export", "--record", chain.Old); err != nil {
		return err
	}
	if err := d.hotStoreRefuses(ctx, chain.Old); err != nil {
		return err
	}

	d.step("The auditor's report: every record, its checksum, and each copy's.")
	if err := d.run(ctx, exitDone, "report", "checksums", "--state", "archived", "--limit", "3"); err != nil {
		return err
	}
	if err := d.run(ctx, exitDone, "verify"); err != nil {
		return err
	}

	d.step("Somebody with a shell on the machine flips one byte of an archived object.")
	if err := d.flipByte(); err != nil {
		return err
	}
	if err := d.run(ctx, exitFindings, "verify"); err != nil {
		return err
	}

	d.say(`That is the whole life of a record. Look around:

  export LOTKEEPER_DATA=%s
  lotkeeper record list --contains %s
  lotkeeper shred status

and remove it all with: rm -rf %s`, shellQuote(filepath.Join(d.dir, "data")), chain.Recalled, shellQuote(d.dir))
	return nil
}

// demoDirectory makes the directory, or refuses one that has something in it.
func demoDirectory(into string) (string, error) {
	if into == "" {
		dir, err := os.MkdirTemp("", "lotkeeper-demo-")
		if err != nil {
			return "", fmt.Errorf("couldn't make a directory for the demo: %w", err)
		}
		return dir, nil
	}
	entries, err := os.ReadDir(into)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(into, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("couldn't make a directory for the demo: %w", err)
	}
	if len(entries) > 0 {
		return "", &hinted{fmt.Errorf("%s is not empty, and the demo does not touch what it did not make", into), "type: lotkeeper demo --dir NEW-DIRECTORY"}
	}
	return filepath.Abs(into)
}

func (d *demonstration) write(path string) (chain supplyChain, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return chain, fmt.Errorf("couldn't write the demo's events: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return writeSupplyChain(f, d.now())
}

func (d *demonstration) say(format string, args ...any) {
	fmt.Fprintf(d.out, format+"\n", args...)
	d.out.Flush()
}

func (d *demonstration) step(text string) {
	d.say("── %s\n", strings.ReplaceAll(text, "\n", "\n   "))
}

// nested is a run of the program that knows no environment: what is configured on
// this machine is not the demo's to touch.
func (d *demonstration) nested(screen io.Writer) *app {
	return &app{
		in: strings.NewReader(""), out: bufio.NewWriter(screen), err: screen, getenv: func(string) string { return "" },
		width: demoWidth, now: d.now, log: newLog(io.Discard, d.log.GetLevel()), progress: newProgress(io.Discard, false),
	}
}

// run shows a command and what it prints, as a person would see it, and fails
// unless it ends with the exit code that the story needs.
func (d *demonstration) run(ctx context.Context, want int, args ...string) error {
	d.say("%s", commandLine(args))
	for i, w := range args {
		if w == "events.jsonl" {
			args[i] = filepath.Join(d.dir, w)
		}
	}
	var screen bytes.Buffer
	sub := d.nested(&screen)
	format := "table"
	if args[0] == "export" {
		format = "jsonl"
	}
	code := run(ctx, sub, append([]string{"--data", filepath.Join(d.dir, "data"), "--output", format, "--log-level", "error", "--actor", "demo"}, args...))
	// Paths are shown as they are seen from the demo's directory.
	text := strings.ReplaceAll(screen.String(), d.dir+string(filepath.Separator), "")
	d.say("%s\n", fit(text))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if code != want {
		return fmt.Errorf("the demo expected lotkeeper %s to end with %d, and it ended with %d", args[0], want, code)
	}
	return nil
}

// fit breaks lines that are longer than the screen: between words, and a line
// of JSON, which has few, anywhere.
func fit(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch runes := []rune(line); {
		case len(runes) <= demoWidth:
			out = append(out, line)
		case runes[0] == '{':
			for ; len(runes) > demoWidth; runes = runes[demoWidth:] {
				out = append(out, string(runes[:demoWidth]))
			}
			out = append(out, string(runes))
		default:
			for i, part := range wrap(line, demoWidth-2) {
				if i > 0 {
					part = "  " + part
				}
				out = append(out, part)
			}
		}
	}
	return strings.Join(out, "\n")
}

// commandLine is a command as one types it on a narrow screen: broken before a
// flag that, with its value, would not fit.
func commandLine(args []string) string {
	line, start := "$ lotkeeper", 0
	for i, w := range args {
		word := shellQuote(w)
		need := len(word) + 1
		if strings.HasPrefix(w, "-") && i+1 < len(args) {
			need += len(shellQuote(args[i+1])) + 1
		}
		if len(line)-start+need > demoWidth-2 && strings.HasPrefix(w, "-") {
			line += " \\\n   "
			start = len(line) - 3
		}
		line += " " + word
	}
	return line
}

// hotStoreRefuses asks the hot store alone for a record that was archived.
func (d *demonstration) hotStoreRefuses(ctx context.Context, id string) (err error) {
	sub := d.nested(io.Discard)
	if sub.cfg, err = loadConfig("", filepath.Join(d.dir, "data"), "--data", sub.getenv); err != nil {
		return err
	}
	e, close, err := sub.engine(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, close()) }()
	_, err = e.HotLine(ctx, id)
	if !errors.Is(err, shred.ErrDestroyed) {
		return errors.Join(fmt.Errorf("the hot store did not refuse record %s", id), err)
	}
	d.say("%s\n", fit("asked of the hot store alone: "+oneLine(err.Error())))
	return nil
}

// flipByte does to an object in the vault what the vault itself never would.
func (d *demonstration) flipByte() error {
	objects, err := filepath.Glob(filepath.Join(d.dir, "data", "vault", "segments", string(lifecycle.ArchiveClass)+"-*", "*.age"))
	if err != nil || len(objects) == 0 {
		return errors.Join(errors.New("the demo found no archived object to damage"), err)
	}
	path := objects[len(objects)/2]
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at := len(b) / 2
	b[at] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	d.say("byte %d of %s\n", at, filepath.Base(path))
	return os.Chmod(path, 0o400)
}
