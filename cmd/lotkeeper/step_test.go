package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// TestRunStep: a program's exit code is what counts, its output is in the log, with its
// end if it is long, and it gets nothing of the environment that it need not have.
func TestRunStep(t *testing.T) {
	t.Setenv("PGPASSWORD", "very-secret")
	t.Setenv("LOTKEEPER_ACTOR", "somebody")
	for _, c := range []struct {
		name   string
		args   []string
		limit  time.Duration
		code   int
		err    string
		output string
		bytes  int
	}{
		{"succeeds", []string{"sh", "-c", `echo "$LOTKEEPER_RUN $LOTKEEPER_RULE $LOTKEEPER_CLASSES$PGPASSWORD$LOTKEEPER_ACTOR" >&2`}, time.Minute, 0, "", "run-1 the rule hot-1 hot-2\n", 27},
		{"fails", []string{"sh", "-c", "echo no; exit 7"}, time.Minute, 7, "", "no\n", 3},
		{"is ended", []string{"sh", "-c", "kill -9 $$"}, time.Minute, -1, "signal: killed", "", 0},
		{"is not there", []string{"/nowhere/at-all"}, time.Minute, -1, "no such file", "", 0},
		{"takes too long", []string{"sh", "-c", "sleep 1000 & sleep 1000"}, time.Millisecond, -1, "it took longer than 1ms, and was ended", "", 0},
		{"says much", []string{"sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo end"}, time.Minute, 0, "", strings.Repeat("x", stepOutput-4) + "end\n", 100004},
		{"reads nothing", []string{"cat"}, time.Minute, 0, "", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			a := &app{log: zerolog.New(&log)}
			code, err := a.runStep(t.Context(), lifecycle.Command{Args: c.args, RunID: "run-1", Rule: "the rule", Classes: []string{"hot-1", "hot-2"}}, c.limit)
			if code != c.code || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%d, %v", code, err)
			}
			var told struct {
				Level  string `json:"level"`
				Output string `json:"output"`
				Bytes  int    `json:"output_bytes"`
			}
			if err := json.Unmarshal(log.Bytes(), &told); err != nil {
				t.Fatalf("%v: %s", err, log.Bytes())
			}
			if told.Output != c.output || told.Bytes != c.bytes || (told.Level == "error") != (c.code != 0) {
				t.Errorf("logged %.200s", log.Bytes())
			}
		})
	}
}
