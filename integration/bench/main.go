// Command bench measures the whole of Lotkeeper as a person would run it, with
// the command line, on records that it makes up.
//
// On real servers (PostgreSQL, and MinIO with Object Lock) every record is due,
// over two years of days, and the sweep is compared with a shell pipeline that
// does the least of the same work on the same servers: see pipeline.sh. On the
// embedded default half of the records are due. What falls short of a target is
// said, and fails nothing: other people's machines are busy.
//
//	go run ./integration/bench -lotkeeper bin/lotkeeper
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("lotkeeper", "bin/lotkeeper", "the program to measure")
	n := flag.Int("records", 1_000_000, "how many records to ingest")
	on := flag.String("on", "all", "what: servers, embedded, holds, audit or all")
	cache := flag.String("cache", ".cache", "where make has built the servers and tools")
	flag.Parse()
	if err := run(*bin, *cache, *on, *n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(bin, cache, on string, n int) error {
	parts := map[string]func(*bench) error{"servers": onServers, "embedded": onEmbedded, "holds": onHolds, "audit": onAudit}
	which := []string{on}
	if on == "all" {
		which = []string{"servers", "embedded", "holds", "audit"}
	}
	for _, name := range which {
		if parts[name] == nil {
			return fmt.Errorf("-on must be servers, embedded, holds, audit or all, not %q", on)
		}
		if err := runPart(parts[name], bin, cache, n); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// bench is one part, in a directory of its own.
type bench struct {
	bin, cache, dir string
	n               int
	servers         *servers // nil: none
	global          []string // the flags that say where the data is
	short           []string // where it falls short
}

func runPart(part func(*bench) error, bin, cache string, n int) error {
	dir, err := os.MkdirTemp("", "lotkeeper-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{dir: dir, n: n}
	if b.bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if b.cache, err = filepath.Abs(cache); err != nil {
		return err
	}
	if err := part(b); err != nil {
		return err
	}
	for _, s := range b.short {
		fmt.Println("falls short:", s)
	}
	fmt.Println()
	return nil
}

// atLeast and atMost hold a figure to its target.
func (b *bench) atLeast(what string, figure, target float64) {
	if figure < target {
		b.short = append(b.short, fmt.Sprintf("%s: %.1f, at least %.1f wanted", what, figure, target))
	}
}

func (b *bench) atMost(what string, figure, target float64) {
	if figure > target {
		b.short = append(b.short, fmt.Sprintf("%s: %.0f, at most %.0f wanted", what, figure, target))
	}
}

func header(size int64, n, due int) {
	fmt.Printf("%d records, %d B each, %d of them due, over two years of days\n\n", n, size/int64(n), due)
	fmt.Printf("%-18s %8s %8s %8s %8s %8s\n", "", "records", "seconds", "rows/s", "CPU s", "peak MB")
}

// onEmbedded measures SQLite and a directory.
func onEmbedded(b *bench) error {
	input := filepath.Join(b.dir, "records.jsonl")
	size, err := generate(input, b.n, b.n/2)
	if err != nil {
		return err
	}
	fmt.Println("Embedded: SQLite and a directory")
	header(size, b.n, b.n/2)
	b.global = []string{"--data=" + filepath.Join(b.dir, "data"), "-o", "json"}
	if _, err := b.lotkeeper("init"); err != nil {
		return err
	}
	if _, err := b.ingest(input); err != nil {
		return err
	}
	_, swept, err := b.sweep(b.n / 2)
	if err != nil {
		return err
	}
	b.atMost("peak memory of an embedded sweep, MB", swept.peakMB, 128)
	return b.read()
}

// ingest takes in all records.
func (b *bench) ingest(input string) (measured, error) {
	out, m, err := b.measure("ingest", b.n, "ingest", input)
	if err == nil && out["accepted"] != float64(b.n) {
		err = fmt.Errorf("ingest accepted %v of %d", out["accepted"], b.n)
	}
	return m, err
}

// sweep archives all that is due, and then once more, when nothing is.
func (b *bench) sweep(due int) (segments float64, m measured, err error) {
	out, m, err := b.measure("sweep", due, "sweep")
	if err != nil {
		return 0, m, err
	}
	if out["archived"] != float64(due) {
		return 0, m, fmt.Errorf("the sweep archived %v of %d", out["archived"], due)
	}
	segments, _ = out["segments"].(float64)
	fmt.Printf("  %v segments, %v class keys destroyed\n", out["segments"], out["shredded_classes"])
	again, _, err := b.measure("sweep again", 0, "sweep")
	if err != nil {
		return 0, m, err
	}
	fmt.Printf("  due %v, archived %v, class keys destroyed %v\n", again["due"], again["archived"], again["shredded_classes"])
	if again["due"] != 0.0 || again["segments"] != 0.0 {
		return 0, m, fmt.Errorf("the second sweep found %v due and made %v segments", again["due"], again["segments"])
	}
	return segments, m, nil
}

// read measures what auditors do.
func (b *bench) read() error {
	found, _, err := b.measure("verify", b.n, "verify")
	if err != nil {
		return err
	}
	if found["records"] != float64(b.n) {
		return fmt.Errorf("verify compared %v of %d records", found["records"], b.n)
	}
	drift, m, err := b.measure("reconcile", b.n, "reconcile")
	if err != nil {
		return err
	}
	if kinds, ok := drift["kinds"].(map[string]any); !ok || len(kinds) > 0 {
		return fmt.Errorf("reconcile found %v", drift["kinds"])
	}
	b.atMost("seconds of a reconciliation", m.seconds, 60)
	b.atMost("peak memory of a reconciliation, MB", m.peakMB, 100)
	for name, args := range map[string][]string{"export": {"export", "-o", "jsonl"}, "report checksums": {"report", "checksums", "-o", "jsonl"}} {
		out, m, err := b.command(args...)
		if err != nil {
			return err
		}
		lines, err := countLines(out)
		if err = errors.Join(err, os.Remove(out)); err != nil {
			return err
		}
		if lines != b.n {
			return fmt.Errorf("%s printed %d lines", name, lines)
		}
		m.print(name, b.n)
	}
	return nil
}

func countLines(path string) (n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		n++
	}
	return n, s.Err()
}

// measured is what a command took. cpu is its own processor time, and what the
// servers spent meanwhile: where others use the machine, the steadier figure.
type measured struct{ seconds, cpu, peakMB float64 }

func (m measured) print(name string, records int) {
	rate := ""
	if records > 0 {
		rate = fmt.Sprintf("%.0f", float64(records)/m.seconds)
	}
	fmt.Printf("%-18s %8d %8.1f %8s %8.1f %8.0f\n", name, records, m.seconds, rate, m.cpu, m.peakMB)
}

// run runs a program to its end.
func (b *bench) run(cmd *exec.Cmd) (measured, error) {
	messages := new(strings.Builder)
	cmd.Stderr = messages
	before, err := b.servers.cpu()
	if err != nil {
		return measured{}, err
	}
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return measured{}, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, messages)
	}
	m := measured{seconds: time.Since(start).Seconds()}
	after, err := b.servers.cpu()
	m.cpu = (after - before + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		m.peakMB = float64(usage.Maxrss) / 1024
	}
	return m, err
}

// command runs a command of Lotkeeper, with what it prints in a file.
func (b *bench) command(args ...string) (out string, m measured, err error) {
	f, err := os.CreateTemp(b.dir, "out-")
	if err != nil {
		return "", m, err
	}
	defer f.Close()
	cmd := exec.Command(b.bin, append(b.global[:len(b.global):len(b.global)], args...)...)
	cmd.Dir, cmd.Stdout = b.dir, f
	m, err = b.run(cmd)
	return f.Name(), m, err
}

// lotkeeper runs a command and returns the JSON that it printed.
func (b *bench) lotkeeper(args ...string) (map[string]any, error) {
	out, _, err := b.measure("", 0, args...)
	return out, err
}

// measure is lotkeeper with a line in the table.
func (b *bench) measure(name string, records int, args ...string) (map[string]any, measured, error) {
	path, m, err := b.command(args...)
	if err != nil {
		return nil, m, err
	}
	text, err := os.ReadFile(path)
	if err = errors.Join(err, os.Remove(path)); err != nil {
		return nil, m, err
	}
	out := map[string]any{}
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, m, fmt.Errorf("%s printed no JSON: %w", args[0], err)
	}
	if name != "" {
		m.print(name, records)
	}
	return out, m, nil
}

// generate writes n records, of which so many are due: over two years of days
// before the cutoff, and the others over two years behind it.
func generate(path string, n, due int) (int64, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	cutoff := time.Now().UTC().Add(-730 * 24 * time.Hour)
	step := 729 * 24 * time.Hour / time.Duration(max(due, n-due))
	for i := range n {
		// The youngest that is due is a minute past the cutoff, the oldest that
		// is not has an hour to go: no sweep of this bench comes in between.
		at := cutoff.Add(time.Hour + time.Duration(i-due)*step)
		if i < due {
			at = cutoff.Add(-time.Minute - time.Duration(due-1-i)*step)
		}
		ts := at.Format(time.RFC3339)
		fmt.Fprintf(w, `{"record_id":"cte-%08d","traceability_lot_code":"LOT-%s-%06d","tlc_source":"https://id.example.com/414/%d","event_type":"shipping",`+
			`"event_timestamp":%q,"created_or_obtained_at":%q,"kde_payload":{"facility":"FAC-%03d","product_code":"PC-%04d","quantity":%d,"uom":"cases",`+
			`"product_desc":"Fresh-cut cantaloupe, 12 x 1 lb clamshell, brand %d","isr_loc":{"name":"Retail distribution center %d","phone":"+1 555 010 %04d",`+
			`"street":"%d West 86th Street","city":"Houston","state":"TX","postal":"7%04d","country":"US"},"ship_from_loc":{"name":"Packer %d","street":"%d Packing Road"},`+
			`"ref_doc_type":"Bill of lading","ref_doc_number":"BOL-%08x"}}`+"\n",
			i, ts[:10], i/5, i%50, ts, ts, i%300, i%700, i%1000, i%9, i%40, i%10000, i%900, i%10000, i%50, i%99, i*2654435761)
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), f.Close()
}
