// Command bench measures the whole of Lotkeeper as a person would run it: it
// writes 1,000,000 records, ingests them with the command line on the embedded
// default, sweeps the half that is due, and sweeps once more. It prints
// records a second and the peak memory of each command.
//
//	go run ./integration/bench -lotkeeper bin/lotkeeper
package main

import (
	"bufio"
	"encoding/json"
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
	n := flag.Int("records", 1_000_000, "how many records to ingest; half of them are due")
	flag.Parse()
	if err := run(*bin, *n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(bin string, n int) error {
	dir, err := os.MkdirTemp("", "lotkeeper-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	input := filepath.Join(dir, "records.jsonl")
	size, err := generate(input, n)
	if err != nil {
		return err
	}
	fmt.Printf("%d records, %d B each, %d of them due over two years\n\n", n, size/int64(n), n/2)
	fmt.Printf("%-22s %9s %10s %8s %8s\n", "", "records", "seconds", "rows/s", "peak MB")

	data := "--data=" + filepath.Join(dir, "data")
	if _, err := measure("", 0, bin, data, "-o", "json", "init"); err != nil {
		return err
	}
	out, err := measure("ingest", n, bin, data, "-o", "json", "ingest", input)
	if err != nil {
		return err
	}
	if out["accepted"] != float64(n) {
		return fmt.Errorf("ingest accepted %v of %d", out["accepted"], n)
	}
	out, err = measure("sweep", n/2, bin, data, "-o", "json", "sweep")
	if err != nil {
		return err
	}
	if out["archived"] != float64(n/2) {
		return fmt.Errorf("the sweep archived %v of %d", out["archived"], n/2)
	}
	fmt.Printf("  %v segments, %v class keys destroyed\n", out["segments"], out["shredded_classes"])
	out, err = measure("sweep again", 0, bin, data, "-o", "json", "sweep")
	if err != nil {
		return err
	}
	fmt.Printf("  due %v, archived %v, class keys destroyed %v\n", out["due"], out["archived"], out["shredded_classes"])
	if out["due"] != 0.0 {
		return fmt.Errorf("the second sweep found %v due", out["due"])
	}
	_, err = measure("verify", n, bin, data, "-o", "json", "verify")
	return err
}

// measure runs a command, prints a line, and returns the JSON it printed.
func measure(name string, records int, bin string, args ...string) (map[string]any, error) {
	cmd := exec.Command(bin, args...)
	var messages strings.Builder
	cmd.Stderr = &messages
	start := time.Now()
	b, err := cmd.Output()
	took := time.Since(start).Seconds()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", bin, strings.Join(args, " "), err, messages.String())
	}
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("%s printed no JSON: %w", args[len(args)-1], err)
	}
	if name == "" {
		return out, nil
	}
	peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss / 1024
	rate := ""
	if records > 0 {
		rate = fmt.Sprintf("%.0f", float64(records)/took)
	}
	fmt.Printf("%-22s %9d %10.1f %8s %8d\n", name, records, took, rate, peak)
	return out, nil
}

// generate writes n records whose events are spread over four years around the
// cutoff: the older half is due, over two years of days.
func generate(path string, n int) (int64, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	cutoff := time.Now().UTC().Add(-730 * 24 * time.Hour)
	half := n / 2
	step := 729 * 24 * time.Hour / time.Duration(half)
	for i := range n {
		// The youngest that is due is a minute past the cutoff, the oldest that
		// is not has an hour to go: no sweep of this bench comes in between.
		at := cutoff.Add(time.Hour + time.Duration(i-half)*step)
		if i < half {
			at = cutoff.Add(-time.Minute - time.Duration(half-1-i)*step)
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
