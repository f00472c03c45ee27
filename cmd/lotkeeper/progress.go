package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// patience is how long a step may take before a bar says how far it is.
const patience = 2 * time.Second

// progress shows how far a long step has come, on a terminal only.
type progress struct {
	to       io.Writer
	terminal bool

	mu    sync.Mutex // guards what follows
	step  string
	since time.Time
	bar   *progressbar.ProgressBar
}

func newProgress(to io.Writer, terminal bool) *progress {
	return &progress{to: to, terminal: terminal}
}

// update is lifecycle.Engine.Progress.
func (p *progress) update(step string, n int) {
	if !p.terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if step != p.step {
		p.end()
		p.step, p.since = step, time.Now()
	}
	if p.bar == nil {
		if time.Since(p.since) < patience {
			return
		}
		p.bar = progressbar.NewOptions(-1, progressbar.OptionSetWriter(p.to), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish(),
			// Drawn by update and by nothing else, so that it never comes between
			// the words of a message.
			progressbar.OptionSetSpinnerChangeInterval(0))
	}
	what := "record"
	if step == "legal holds" {
		what = "segment"
	}
	p.bar.Describe(fmt.Sprintf("%s: %s", step, plural(n, what)))
	_ = p.bar.Add(1) // a bar that cannot be drawn stops nothing
}

// clear takes the bar off the screen.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
	p.step = ""
}

// before makes a writer to the same terminal that first clears the bar.
func (p *progress) before(w io.Writer) io.Writer { return &clearing{p, w} }

type clearing struct {
	p *progress
	w io.Writer
}

func (c *clearing) Write(b []byte) (int, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.p.bar != nil {
		_ = c.p.bar.Clear()
	}
	return c.w.Write(b)
}
