package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

const (
	// stepTime is how long a program may take that a policy names, and stepOutput how
	// much of the end of what it prints gets into the log.
	stepTime   = 10 * time.Minute
	stepOutput = 16 << 10
	// stepPipe is how long its output is waited for when it has ended: what it has begun
	// may go on, and keep it open.
	stepPipe = 5 * time.Second
)

// stepEnvironment is all that a program is given of the environment: there may be secrets
// in it.
var stepEnvironment = []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"}

// runStep runs a program that a policy names, at most for so long, with whatever it has
// begun. What it prints goes to the log.
func (a *app) runStep(ctx context.Context, c lifecycle.Command, limit time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	for _, name := range stepEnvironment {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, "LOTKEEPER_RUN="+c.RunID, "LOTKEEPER_RULE="+c.Rule, "LOTKEEPER_CLASSES="+strings.Join(c.Classes, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = stepPipe
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	code := cmd.ProcessState.ExitCode() // -1 if it did not begin, or end by itself
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		code, err = -1, fmt.Errorf("it took longer than %s, and was ended", limit)
	case errors.As(err, &exit) && code > 0, errors.Is(err, exec.ErrWaitDelay):
		err = nil
	}
	event := a.log.Info()
	if code != 0 || err != nil {
		event = a.log.Error().Err(err)
	}
	event.Str("rule", c.Rule).Str("program", c.Args[0]).Int("exit_code", code).Int64("output_bytes", out.n).Str("output", string(out.end)).Msg("a step before destruction was run")
	return code, err
}

// tail keeps the end of what is written to it.
type tail struct {
	end []byte
	n   int64
}

func (t *tail) Write(b []byte) (int, error) {
	t.n += int64(len(b))
	t.end = append(t.end, b[max(0, len(b)-stepOutput):]...)
	if len(t.end) > stepOutput {
		t.end = append([]byte(nil), t.end[len(t.end)-stepOutput:]...)
	}
	return len(b), nil
}
