package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
)

var update = flag.Bool("update", false, "write the golden files anew")

// program builds lotkeeper once for all tests of the package.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lotkeeper-test-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "lotkeeper")
	cmd := exec.Command("go", "build", "-o", bin, "../cmd/lotkeeper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	if order := os.Getenv(sweepOrder); order != "" {
		os.Exit(sweepAsOrdered(order))
	}
	flag.Parse()
	// Of the SDK, for vaults that are opened in this process.
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey,
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := pgtest.Run(func() int { return s3test.Main(m) })
	if bin, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// shell is a directory in which commands are typed.
type shell struct {
	t   *testing.T
	dir string
	env []string // beside what the tests have, without secrets and settings
}

func newShell(t *testing.T) *shell {
	t.Helper()
	if _, err := program(); err != nil {
		t.Fatal(err)
	}
	return &shell{t: t, dir: t.TempDir()}
}

func (s *shell) command(args ...string) *exec.Cmd {
	bin, _ := program()
	cmd := exec.Command(bin, args...)
	cmd.Dir = s.dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "LOTKEEPER_") || strings.HasPrefix(v, "AWS_")
	}), "LOTKEEPER_ACTOR=tester")
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// file writes a file that nobody else can read, and returns its path.
func (s *shell) file(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// run runs a command, which must end with the code given, and returns what it
// printed to standard output.
func (s *shell) run(code int, args ...string) string {
	s.t.Helper()
	out, _ := s.both(code, args...)
	return out
}

// both is run with what was printed to standard error too.
func (s *shell) both(code int, args ...string) (out, messages string) {
	s.t.Helper()
	p := s.start(args...)
	return p.end(code)
}

// typed is a command that runs.
type typed struct {
	*exec.Cmd
	t             *testing.T
	out, messages bytes.Buffer
	ended         chan struct{}
	err           error // once it has ended
}

// start starts a command, which is killed if the test ends before it.
func (s *shell) start(args ...string) *typed {
	s.t.Helper()
	p := &typed{Cmd: s.command(args...), t: s.t, ended: make(chan struct{})}
	p.Stdout, p.Stderr = &p.out, &p.messages
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		close(p.ended)
	}()
	s.t.Cleanup(func() {
		p.Process.Kill()
		<-p.ended
	})
	return p
}

// end waits for the end of a command.
func (p *typed) end(code int) (out, messages string) {
	p.t.Helper()
	<-p.ended
	if got := p.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("lotkeeper %s ended with %d, not %d: %v\n%s%s", strings.Join(p.Args[1:], " "), got, code, p.err, p.out.String(), p.messages.String())
	}
	return p.out.String(), p.messages.String()
}

// object runs a command with -o json and parses the object it prints.
func (s *shell) object(code int, args ...string) map[string]any {
	s.t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(s.run(code, append([]string{"-o", "json"}, args...)...)), &v); err != nil {
		s.t.Fatalf("lotkeeper %s: %v", strings.Join(args, " "), err)
	}
	return v
}

// place places a hold with a reference, and asks again until it is counted: an answer
// waits for that for a moment only, and to place the same hold again changes nothing.
func (s *shell) place(code int, args ...string) (held map[string]any) {
	s.t.Helper()
	for held["counted"] != true {
		held = s.object(code, append([]string{"hold", "place"}, args...)...)
	}
	return held
}

func sample(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// The README's story, on a data directory of its own.
func TestReadmeStory(t *testing.T) { readmeStory(t, newShell(t)) }

// readmeStory leaves eight records: one is young, one is held, and six are archived
// by two sweeps.
func readmeStory(t *testing.T, s *shell) {
	s.run(0, "init")
	if got := s.object(0, "ingest", sample(t, "season.jsonl")); got["accepted"] != 8.0 || got["read"] != 8.0 {
		t.Fatalf("ingest: %v", got)
	}
	hold := s.place(0, "--lot", "GTIN: 314141999995 CAN230704", "--kind", "recall", "--reference", "F-0417-2026", "--reason", "Salmonella")
	if hold["covered"] != 1.0 || hold["too_late"] != 0.0 || hold["status"] != "open" {
		t.Fatalf("hold: %v", hold)
	}
	plan := s.object(0, "sweep", "--dry-run")
	got := s.object(0, "sweep")
	for _, field := range []string{"due", "held", "archived", "resealed", "segments", "shredded_classes"} {
		if got[field] != plan[field] {
			t.Errorf("%s: planned %v, done %v", field, plan[field], got[field])
		}
	}
	if got["due"] != 7.0 || got["held"] != 2.0 || got["archived"] != 5.0 {
		t.Fatalf("sweep: %v", got)
	}
	if again := s.object(0, "sweep"); again["archived"] != 0.0 || again["shredded_classes"] != 0.0 || again["resealed"] != 0.0 {
		t.Fatalf("a second sweep: %v", again)
	}
	if v := s.object(0, "verify"); v["records"] != 8.0 {
		t.Fatalf("verify: %v", v)
	}
	// Everything comes out as it went in, and is known elsewhere as the same.
	exported := s.run(0, "export")
	input, err := os.ReadFile(sample(t, "season.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if sorted(exported) != sorted(string(input)) {
		t.Errorf("exported\n%s\ninstead of\n%s", sorted(exported), sorted(string(input)))
	}
	s.file("export.jsonl", exported)
	if got := s.object(0, "ingest", "export.jsonl"); got["duplicates"] != 8.0 {
		t.Errorf("ingested again: %v", got)
	}
	elsewhere := newShell(t)
	if got := elsewhere.object(0, "init"); got["vaults"].([]any)[0].(map[string]any)["lock"] != "advisory" {
		t.Errorf("init: %v", got)
	}
	if got := elsewhere.object(0, "ingest", filepath.Join(s.dir, "export.jsonl")); got["accepted"] != 8.0 {
		t.Errorf("ingested elsewhere: %v", got)
	}
	if got := elsewhere.object(0, "ingest", sample(t, "season.jsonl")); got["duplicates"] != 8.0 {
		t.Errorf("the original, where its export is: %v", got)
	}
	// The line that is printed has the checksum that is reported.
	line := s.run(0, "record", "show", "t-1", "--line")
	sum := sha256.Sum256([]byte(strings.TrimSuffix(line, "\n")))
	if v := s.object(0, "record", "show", "t-1"); v["checksum"] != hex.EncodeToString(sum[:]) {
		t.Errorf("the line's checksum is %x, reported is %v", sum, v["checksum"])
	}
	s.run(0, "hold", "release", hold["hold_id"].(string), "--reason", "recall closed")
	if got := s.object(0, "sweep"); got["archived"] != 1.0 || got["held"] != 1.0 {
		t.Errorf("after the release: %v", got)
	}
}

func sorted(lines string) string {
	all := strings.Split(strings.TrimSpace(lines), "\n")
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// Every bad row is named, and takes no other with it.
func TestDirtyRows(t *testing.T) {
	s := newShell(t)
	s.run(0, "init")
	got := s.object(3, "ingest", sample(t, "dirty.jsonl"))
	if got["read"] != 20.0 || got["accepted"] != 2.0 || got["rejected"] != 18.0 {
		t.Fatalf("ingest: %v", got)
	}
	rejects, err := os.ReadFile(filepath.Join(s.dir, got["rejects_file"].(string)))
	if errors.Is(err, os.ErrNotExist) {
		rejects, err = os.ReadFile(got["rejects_file"].(string))
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(rejects)), "\n") {
		var r struct {
			Line                int
			Field, Rule, Reason string
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		want := i + 2
		if i == 17 {
			want = 20 // the row between was accepted
		}
		if r.Line != want || r.Rule == "" || r.Reason == "" {
			t.Errorf("reject %d: %+v", i, r)
		}
	}
	if out := s.run(0, "export", "--record", "ok-first"); !strings.Contains(out, `"n":1200.50,"sscc":106141412345678908`) {
		t.Error(out)
	}
}

// The nine tabs of FDA's sample go in whole.
func TestFDASample(t *testing.T) {
	s := newShell(t)
	s.run(0, "init")
	files, err := filepath.Glob(filepath.Join(sample(t, "fda"), "*.psv"))
	if err != nil || len(files) != 9 {
		t.Fatal(files, err)
	}
	if got := s.object(0, append([]string{"ingest"}, files...)...); got["read"] != 41.0 || got["accepted"] != 41.0 {
		t.Fatalf("ingest: %v", got)
	}
	if got := s.object(0, append([]string{"ingest"}, files...)...); got["duplicates"] != 41.0 {
		t.Fatalf("ingest again: %v", got)
	}
	exported := s.run(0, "export")
	if err := os.WriteFile(filepath.Join(s.dir, "fda.jsonl"), []byte(exported), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.object(0, "ingest", "fda.jsonl"); got["duplicates"] != 41.0 {
		t.Errorf("their export: %v", got)
	}
}

// The plan and the report of a small season, word for word.
func TestGolden(t *testing.T) {
	s := newShell(t)
	s.run(0, "init")
	s.run(0, "ingest", sample(t, "season.jsonl"))
	// As of a day of the past the plan is the same on every day it is asked.
	golden(t, "plan.txt", s.run(0, "sweep", "--dry-run", "--as-of", "2025-07-05T20:00:00Z"))
	golden(t, "plan.json", s.run(0, "-o", "json", "sweep", "--dry-run", "--as-of", "2025-07-05T20:00:00Z"))
	s.run(0, "sweep")
	golden(t, "checksums.csv", s.run(0, "-o", "csv", "report", "checksums", "--to", "2023-12-31"))
	golden(t, "checksums.json", s.run(0, "-o", "json", "report", "checksums", "--record", "s-1"))
}

// masks are what differs each time: ids, instants of the run, and hashes that hang
// on random salts and keys.
var masks = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`(run|hold|seg)-\d{8}-[0-9a-z]{10}`), "$1-ID"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "SHA256"},
	// Of a directory, of MinIO, of versitygw.
	{regexp.MustCompile(`\b([A-Z2-7]{26}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9A-HJKMNP-TV-Z]{26})\b`), "VERSION"},
	// The month after the present, of what was taken in later than its own.
	{regexp.MustCompile(`\barchive-\d{4}-\d{2}-(\d+)`), "archive-MONTH-$1"},
	{regexp.MustCompile(`("+duration_seconds"+: ?)[0-9.e-]+`), `${1}0`},
	{regexp.MustCompile(`(""cutoff"":"")[^"]+`), "${1}CUTOFF"}, // of a run that was recorded
	{regexp.MustCompile(fmt.Sprintf(`\b(%d|%d)-[0-9T:.-]+Z`, time.Now().UTC().Year(), time.Now().UTC().Year()+1)), "NOW"},
}

// golden compares what was printed with a file, but for what differs each time.
func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, m := range masks {
		got = m.re.ReplaceAllString(got, m.by)
	}
	path := sample(t, filepath.Join("golden", name))
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\ninstead of\n%s", name, got, want)
	}
}
