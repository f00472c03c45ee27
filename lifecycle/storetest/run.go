package storetest

import (
	"errors"
	"reflect"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func runs(k *kit) {
	// In order of their start, not of their ids; the newest first.
	for i, id := range []string{"run-b", "run-a", "run-c"} {
		r := run(id, "ingest")
		r.StartedAt = Start.Add(time.Duration(i) * time.Hour)
		lease, err := k.BeginRun(k.ctx, r, leaf(lifecycle.ActionRunStarted))
		k.ok(err)
		if lease.RunID != id {
			k.Errorf("lease of %s is %+v", id, lease)
		}
		r.Status, r.Result = "running", []byte{}
		if got, err := k.Run(k.ctx, id); err != nil || !reflect.DeepEqual(got, r) {
			k.Errorf("while it runs, the run is\n%+v, %v, want\n%+v", got, err, r)
		}
		r.FinishedAt, r.Status, r.Result = r.StartedAt.Add(time.Minute+3), "done", []byte(`{"read": 1,  "given": "as it was printed"}`)
		k.ok(k.FinishRun(k.ctx, r, leaf(lifecycle.ActionRunFinished)))
		if got, err := k.Run(k.ctx, id); err != nil || !reflect.DeepEqual(got, r) {
			k.Errorf("the run is\n%+v, %v, want\n%+v", got, err, r)
		}
		k.unchanged("finishing again", func() {
			if err := k.FinishRun(k.ctx, r, leaf(lifecycle.ActionRunFinished)); !errors.Is(err, lifecycle.ErrMoved) {
				k.Errorf("finished again: %v", err)
			}
		})
	}
	for limit, want := range map[int][]string{0: {"run-c", "run-a", "run-b"}, 2: {"run-c", "run-a"}} {
		got, err := k.Runs(k.ctx, limit)
		k.ok(err)
		var ids []string
		for _, r := range got {
			ids = append(ids, r.ID)
		}
		if !reflect.DeepEqual(ids, want) {
			k.Errorf("runs %q, want %q", ids, want)
		}
	}
	failed := run("run-d", "sweep")
	_, err := k.BeginRun(k.ctx, failed, leaf(lifecycle.ActionRunStarted))
	k.ok(err)
	failed.FinishedAt, failed.Status = Start.Add(time.Hour), "failed"
	k.ok(k.FinishRun(k.ctx, failed, leaf(lifecycle.ActionRunFinished)))
	if got, err := k.Run(k.ctx, "run-d"); err != nil || got.Status != "failed" {
		k.Errorf("%+v, %v", got, err)
	}
}

func oneRunAtATime(k *kit) {
	other := k.again(k)
	begin := func(s lifecycle.Store, id, kind string) error {
		_, err := s.BeginRun(k.ctx, run(id, kind), leaf(lifecycle.ActionRunStarted))
		return err
	}
	locked := func(s lifecycle.Store, id, kind string) {
		k.Helper()
		k.unchanged("a second "+kind, func() {
			if err := begin(s, id, kind); !errors.Is(err, lifecycle.ErrLocked) {
				k.Errorf("a second %s: %v", kind, err)
			}
		})
	}
	k.ok(begin(k, "run-1", "sweep"))
	k.ok(begin(other, "run-2", "ingest")) // the two kinds do not lock each other out
	for _, s := range []lifecycle.Store{k, other} {
		locked(s, "run-3", "sweep")
		locked(s, "run-4", "ingest")
	}
	// To begin one's own run again is an acknowledgement that got lost.
	k.unchanged("beginning again", func() {
		first, err := k.BeginRun(k.ctx, run("run-1", "sweep"), leaf(lifecycle.ActionRunStarted))
		k.ok(err)
		second, err := k.BeginRun(k.ctx, run("run-1", "sweep"), leaf(lifecycle.ActionRunStarted))
		k.ok(err)
		if first != second {
			k.Errorf("leases %+v and %+v of one run", first, second)
		}
	})
	r := run("run-1", "sweep")
	r.FinishedAt, r.Status = Start, "done"
	k.ok(k.FinishRun(k.ctx, r, leaf(lifecycle.ActionRunFinished)))
	k.ok(begin(other, "run-3", "sweep"))
	// The end of a run that is over gives back nothing that is another's.
	if err := k.FinishRun(k.ctx, r, leaf(lifecycle.ActionRunFinished)); !errors.Is(err, lifecycle.ErrMoved) {
		k.Errorf("finished again: %v", err)
	}
	if err := other.FinishRun(k.ctx, r, leaf(lifecycle.ActionRunFinished)); !errors.Is(err, lifecycle.ErrMoved) {
		k.Errorf("finished again: %v", err)
	}
	locked(k, "run-5", "sweep")
	locked(other, "run-5", "sweep")
}

// interrupted: a process that ended in the middle of a run.
func interrupted(k *kit) {
	other := k.again(k)
	lease, err := other.BeginRun(k.ctx, run("run-1", "sweep"), leaf(lifecycle.ActionRunStarted))
	k.ok(err)
	_, err = other.BeginRun(k.ctx, run("run-2", "ingest"), leaf(lifecycle.ActionRunStarted))
	k.ok(err)
	k.ok(other.Close())
	next, err := k.BeginRun(k.ctx, run("run-3", "sweep"), leaf(lifecycle.ActionRunStarted))
	k.ok(err)
	if next.Fence <= lease.Fence {
		k.Errorf("fence %d after %d", next.Fence, lease.Fence)
	}
	for id, want := range map[string]string{"run-1": "interrupted", "run-2": "running", "run-3": "running"} {
		if r, err := k.Run(k.ctx, id); err != nil || r.Status != want {
			k.Errorf("%s is %s, %v, want %s", id, r.Status, err, want)
		}
	}
	ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{RunID: "run-1", Actions: []string{lifecycle.ActionRunInterrupted}})
	if err != nil || len(ls) != 1 {
		k.Errorf("leaves of the interruption: %+v, %v", ls, err)
	}
	r := run("run-1", "sweep")
	r.FinishedAt, r.Status = Start, "done"
	k.unchanged("finishing an interrupted run", func() {
		if err := k.FinishRun(k.ctx, r, leaf(lifecycle.ActionRunFinished)); !errors.Is(err, lifecycle.ErrMoved) {
			k.Errorf("an interrupted run was finished: %v", err)
		}
	})
	if _, err := k.again(k).BeginRun(k.ctx, run("run-4", "sweep"), leaf(lifecycle.ActionRunStarted)); !errors.Is(err, lifecycle.ErrLocked) {
		k.Errorf("a second sweep: %v", err)
	}
}

// fenced: nothing that takes a lease does anything for a run that has lost it.
func fenced(k *kit) {
	a, b := row("a", expired), row("b", expired.Add(-48*time.Hour))
	k.take(a, b)
	to := lifecycle.DeferralPeriod(Start).ID(1)
	k.openClasses(to, "hot-2024-01-01-1", "hot-2024-01-02-1")
	ra, err := k.Row(k.ctx, "a")
	k.ok(err)
	k.begin()
	k.verified("seg-verified", a.ArchiveClass, 1)
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-staged", a.ArchiveClass, 1), leaf(lifecycle.ActionStaged)))
	k.archive("seg-settled", b)
	k.destroy(1, b.Class)
	_, err = k.Condemn(k.ctx, k.lease, Start, []string{"hot-2024-01-01-1"}, leaf(lifecycle.ActionShredIntent))
	k.ok(err)
	over := k.lease
	k.end()
	calls := map[string]func(lifecycle.Lease) error{
		"StageSegment": func(l lifecycle.Lease) error {
			return k.StageSegment(k.ctx, l, k.segment("seg-new", a.ArchiveClass, 1), leaf(lifecycle.ActionStaged))
		},
		"VerifySegment": func(l lifecycle.Lease) error {
			return k.VerifySegment(k.ctx, l, "seg-staged", copies(), leaf(lifecycle.ActionVerified))
		},
		"AbandonSegment": func(l lifecycle.Lease) error {
			return k.AbandonSegment(k.ctx, l, "seg-staged", leaf(lifecycle.ActionAbandoned))
		},
		"SettleSegment": func(l lifecycle.Lease) error {
			return k.SettleSegment(k.ctx, l, "seg-verified", leaf(lifecycle.ActionSettled))
		},
		"SoftDelete": func(l lifecycle.Lease) error {
			_, err := k.SoftDelete(k.ctx, l, "seg-verified", Start, members(a), leaf(lifecycle.ActionArchived))
			return err
		},
		"Reseal": func(l lifecycle.Lease) error {
			_, err := k.Reseal(k.ctx, l, a.Class, to, map[int64][]byte{ra.Seq: []byte("new")}, leaf(lifecycle.ActionResealed))
			return err
		},
		"Condemn": func(l lifecycle.Lease) error {
			_, err := k.Condemn(k.ctx, l, Start, []string{"hot-2024-01-02-1"}, leaf(lifecycle.ActionShredIntent))
			return err
		},
		"Execute": func(l lifecycle.Lease) error {
			_, err := k.Execute(k.ctx, l, Start, []string{"hot-2024-01-01-1"}, leaf(lifecycle.ActionShredExecuting))
			return err
		},
		"Destroyed": func(l lifecycle.Lease) error {
			return k.Destroyed(k.ctx, l, []string{"hot-2024-01-01-1"}, Start, 2, leaf(lifecycle.ActionShredded))
		},
		"DropCiphertext": func(l lifecycle.Lease) error {
			_, err := k.DropCiphertext(k.ctx, l, 10, leaf(lifecycle.ActionDropped))
			return err
		},
	}
	refuse := func(who string, l lifecycle.Lease) {
		for name, call := range calls {
			k.unchanged(name+" by "+who, func() {
				if err := call(l); !errors.Is(err, lifecycle.ErrFenced) {
					k.Errorf("%s by %s: %v", name, who, err)
				}
			})
		}
	}
	refuse("nobody", lifecycle.Lease{})
	refuse("a run that has ended", over)
	now := k.begin()
	refuse("an older run", over)
	refuse("an older run with the newer one's name", lifecycle.Lease{RunID: now.RunID, Fence: over.Fence})
	refuse("an older run with the newer one's fence", lifecycle.Lease{RunID: over.RunID, Fence: now.Fence})
	ingest, err := k.BeginRun(k.ctx, run("run-ingest", "ingest"), leaf(lifecycle.ActionRunStarted))
	k.ok(err)
	ingest.Fence = now.Fence
	refuse("an ingest", ingest)
	// And all of them work with the lease.
	for _, name := range []string{"StageSegment", "VerifySegment", "Reseal", "SoftDelete", "SettleSegment", "Condemn", "Execute", "Destroyed", "DropCiphertext"} {
		k.ok(calls[name](now))
	}
}

// reopen: what one process has left, the next one finds.
func reopen(k *kit) {
	a, b := row("a", expired), row("b", expired)
	k.take(a, b)
	k.place("h-1", onRecord("b"))
	k.begin()
	k.archive("seg-1", a)
	k.end()
	before := k.dump()
	k.ok(k.Store.Close())
	k.Store = k.again(k)
	if after := k.dump(); after != before {
		k.Errorf("reopened, the database is\n%s, was\n%s", after, before)
	}
	k.begin()
	k.softDelete(0, func() string { k.verified("seg-2", b.ArchiveClass, 1); return "seg-2" }(), Start, members(b))
}
