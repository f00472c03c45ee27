package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// ingestFlags steer one ingest.
type ingestFlags struct {
	eventType string
	rejects   string
	strict    bool
}

func newIngest(a *app) *cobra.Command {
	var f ingestFlags
	cmd := &cobra.Command{
		Use:   "ingest FILE... [--rejects FILE] [--event-type TYPE] [--strict]",
		Short: "Take records in",
		Long: `Take records in, from JSON Lines (one record a line) or from delimited text in
the layout of FDA's sortable spreadsheet (pipe or comma). "-" is standard input.

A row that cannot be read is rejected: it goes to a rejects file, with its line,
field and reason, and nothing else in the file is lost. A record that lacks key
data elements is kept, and counted under gaps. Taking a file in again is
harmless: records that are there already are counted as duplicates; the same id
with other content is a conflict and is rejected.

The rejects file holds key data elements in plain text. It is made only when
there is something to write, with mode 0600. To mend the rows and try again,
take them out of it, edit them, and ingest them:

  jq -r 'select(.input).input' rejects.jsonl > mended.jsonl`,
		Example: `  lotkeeper ingest records.jsonl
  lotkeeper ingest harvesting.psv cooling.psv shipping.psv
  gunzip -c records.jsonl.gz | lotkeeper ingest -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("missing: FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ingest(cmd.Context(), args, f)
		},
	}
	cmd.Flags().StringVar(&f.rejects, "rejects", "", "`FILE` for refused rows; it must not exist (default: a new file in DIR/rejects)")
	cmd.Flags().StringVar(&f.eventType, "event-type", "", "`TYPE` of the rows of delimited files, instead of finding it out from the columns")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "reject records with gaps")
	exits(cmd, exitFailed, exitFindings, exitLocked, exitRefused)
	needs(cmd, roleIngest)
	finds(cmd, "rows were rejected, or conflict with what is there; all others are in")
	return cmd
}

func (a *app) ingest(ctx context.Context, files []string, f ingestFlags) error {
	opt := lifecycle.IngestOptions{Strict: f.strict}
	var err error
	if opt.EventType, err = eventTypeFlag(f.eventType); err != nil {
		return err
	}
	inputs, err := a.inputs(ctx, files)
	if err != nil {
		return err
	}
	rejects, err := newRejects(a.cfg.Data, files, f.rejects, a.now())
	if err != nil {
		return err
	}
	opt.Reject, opt.Close = rejects.add, rejects.close
	return a.with(ctx, func(e *lifecycle.Engine) error {
		res, err := e.Ingest(ctx, inputs, opt)
		if res.RunID != "" && !errors.Is(err, lifecycle.ErrLocked) {
			err = errors.Join(err, result(a, res, func(s *screen) { ingestTable(s, res) }))
		}
		a.out.Flush()
		rejects.tell(a.err)
		if err != nil || res.Rejected+res.Conflicts == 0 {
			return err
		}
		var what []string
		if res.Rejected > 0 {
			what = append(what, plural(res.Rejected, "row")+" rejected")
		}
		if res.Conflicts > 0 {
			what = append(what, plural(res.Conflicts, "conflict"))
		}
		return &findings{
			fmt.Sprintf("%s of %s: see %s", strings.Join(what, ", "), plural(res.Read, "row"), res.RejectsFile),
			"mend the rows in that file and ingest them again; how is in: lotkeeper ingest --help",
		}
	})
}

// eventTypeFlag is what --event-type says; nothing if it was not given.
func eventTypeFlag(name string) (cte.EventType, error) {
	t, ok := cte.ParseEventType(name)
	if !ok && name != "" {
		return "", usagef("--event-type must be one of %s, not %q", strings.Join(eventTypes(), ", "), name)
	}
	return t, nil
}

func eventTypes() []string {
	names := make([]string, len(cte.EventTypes))
	for i, t := range cte.EventTypes {
		names[i] = string(t)
	}
	return names
}

func ingestTable(s *screen, r lifecycle.IngestResult) {
	s.fields("",
		"read", fmt.Sprint(r.Read),
		"accepted", fmt.Sprint(r.Accepted),
		"duplicates", fmt.Sprint(r.Duplicates),
		"conflicts", fmt.Sprint(r.Conflicts),
		"rejected", fmt.Sprint(r.Rejected),
		"gaps", fmt.Sprint(r.Gaps))
	if r.Kept > 0 {
		s.fields("", "kept", plural(r.Kept, "record")+" without a day on which it is due: no rule of the policy decides")
	}
}

// inputs looks at every file before anything is taken in, so that a name that is
// mistyped does not show half way.
func (a *app) inputs(ctx context.Context, files []string) ([]lifecycle.Input, error) {
	var inputs []lifecycle.Input
	stdin := false
	for _, name := range files {
		if name == "-" {
			if stdin {
				return nil, usagef("standard input (-) is named twice")
			}
			stdin = true
			inputs = append(inputs, lifecycle.Input{Name: "stdin", Open: func() (io.ReadCloser, error) {
				return &patientReader{ctx: ctx, r: io.NopCloser(a.in)}, nil
			}})
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return nil, &hinted{fmt.Errorf("couldn't read %s: %w", name, reason(err)), "nothing was ingested"}
		}
		if info.IsDir() {
			return nil, &hinted{fmt.Errorf("couldn't read %s: it is a directory", name), "name the files in it: lotkeeper ingest " + shellQuote(name) + "/*"}
		}
		if info.Mode().IsRegular() {
			f, err := os.Open(name)
			if err != nil {
				return nil, &hinted{fmt.Errorf("couldn't read %s: %w", name, reason(err)), "nothing was ingested"}
			}
			f.Close()
		}
		inputs = append(inputs, lifecycle.Input{Name: name, Open: func() (io.ReadCloser, error) { return openInput(ctx, name) }})
	}
	return inputs, nil
}

// reason is what went wrong with a file, without its name.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// openInput opens a file. Opening a FIFO waits for its writer.
func openInput(ctx context.Context, name string) (io.ReadCloser, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(name)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, o.err
		}
		return &patientReader{ctx: ctx, r: o.f}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// patientReader reads what may keep it waiting, such as a pipe or a terminal, and
// gives way when the context is done.
type patientReader struct {
	ctx  context.Context
	r    io.ReadCloser
	buf  []byte
	rest []byte
	err  error
}

func (p *patientReader) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p.rest) == 0 && p.err == nil {
		if p.buf == nil {
			p.buf = make([]byte, 256<<10)
		}
		type read struct {
			n   int
			err error
		}
		done := make(chan read, 1)
		buf := p.buf // left to the goroutine for good if we stop waiting
		go func() {
			n, err := p.r.Read(buf)
			done <- read{n, err}
		}()
		select {
		case got := <-done:
			p.rest, p.err = p.buf[:got.n], got.err
		case <-p.ctx.Done():
			p.buf = nil
			return 0, p.ctx.Err()
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	if n == 0 && len(b) > 0 {
		return 0, p.err
	}
	return n, nil
}

func (p *patientReader) Close() error { return p.r.Close() }

// rejectLine is one line of a rejects file.
type rejectLine struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	RecordID string `json:"record_id"`
	Field    string `json:"field"`
	Rule     string `json:"rule"`
	Reason   string `json:"reason"`
	// Input is the row itself if it is UTF-8, InputBase64 if it is not. Both are
	// missing for a row that was too long to be kept.
	Input       *string `json:"input,omitempty"`
	InputBase64 []byte  `json:"input_base64,omitempty"`
}

// rejects is the file of refused rows, made with the first of them.
type rejects struct {
	path   string
	given  bool // by --rejects
	file   *os.File
	n      int
	sample []*cte.Reject // the first few, to be told of
}

// maxSample is how many refused rows are told of on standard error.
const maxSample = 5

func newRejects(dataDir string, files []string, given string, now time.Time) (*rejects, error) {
	if given != "" {
		if _, err := os.Lstat(given); err == nil {
			return nil, &hinted{fmt.Errorf("the rejects file %s exists", given), "name one that does not, or leave out --rejects"}
		}
		if _, err := os.Stat(filepath.Dir(given)); err != nil {
			return nil, fmt.Errorf("couldn't make the rejects file %s: %w", given, reason(err))
		}
		return &rejects{path: given, given: true}, nil
	}
	base := "stdin"
	if files[0] != "-" {
		base = filepath.Base(files[0])
		base = strings.TrimSuffix(base, filepath.Ext(base))
	}
	if len(files) > 1 {
		base += fmt.Sprintf("-and-%d-more", len(files)-1)
	}
	// The name goes into a path and onto screens.
	base = strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r == utf8.RuneError || printable(string(r)) != string(r) {
			return '_'
		}
		return r
	}, base)
	for len(base) > 200 {
		_, size := utf8.DecodeLastRuneInString(base)
		base = base[:len(base)-size]
	}
	return &rejects{path: filepath.Join(dataDir, rejectsDir, now.UTC().Format("20060102T150405.000Z")+"-"+base+".jsonl")}, nil
}

// add writes one refused row.
func (r *rejects) add(row *cte.Reject) error {
	if r.file == nil {
		// O_EXCL: it neither follows a link nor adds to a file that others read.
		f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		for i := 2; !r.given && errors.Is(err, fs.ErrExist) && i < 100; i++ {
			r.path = fmt.Sprintf("%s-%d.jsonl", strings.TrimSuffix(r.path, ".jsonl"), i)
			f, err = os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		}
		if err != nil {
			return fmt.Errorf("couldn't make the rejects file: %w", err)
		}
		r.file = f
	}
	line := rejectLine{File: row.File, Line: row.Line, RecordID: row.RecordID, Field: row.Field, Rule: row.Rule, Reason: row.Reason}
	if row.Input != nil {
		if utf8.Valid(row.Input) {
			text := string(row.Input)
			line.Input = &text
		} else {
			line.InputBase64 = row.Input
		}
	}
	b, err := compact(line)
	if err != nil {
		return err
	}
	if _, err := r.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("couldn't write to the rejects file: %w", err)
	}
	r.n++
	if len(r.sample) < maxSample {
		short := *row
		short.Input = nil
		r.sample = append(r.sample, &short)
	}
	return nil
}

// close makes the file durable.
func (r *rejects) close() (string, error) {
	if r.file == nil {
		return "", nil
	}
	if err := errors.Join(r.file.Sync(), r.file.Close(), syncDir(filepath.Dir(r.path))); err != nil {
		return r.path, fmt.Errorf("couldn't finish the rejects file: %w", err)
	}
	return r.path, nil
}

// tell lists the first refused rows for the person at the terminal. Their content
// is not among what it says.
func (r *rejects) tell(w io.Writer) {
	for _, row := range r.sample {
		fmt.Fprintf(w, "lotkeeper: rejected: %s\n", oneLine(row.Error()))
	}
	if more := r.n - len(r.sample); more > 0 {
		fmt.Fprintf(w, "lotkeeper: rejected: and %d more\n", more)
	}
}
