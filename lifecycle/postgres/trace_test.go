package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// made is a record of a lot that was made from others.
func made(id, lot string, from ...string) lifecycle.Sealed {
	r := record(id)
	r.TLC = lot
	for _, l := range from {
		r.Inputs = append(r.Inputs, cte.Lot{TLC: l})
	}
	return r
}

func traceHold(id string, s lifecycle.Scope) lifecycle.Placement {
	p := hold(id)
	p.Hold.Scopes = []lifecycle.Scope{s}
	return p
}

// kept wants an attempt at soft-deleting records to leave exactly those given.
func kept(t *testing.T, s *Store, l lifecycle.Lease, ids []string, want ...string) {
	t.Helper()
	var m []lifecycle.Member
	for _, id := range ids {
		m = append(m, lifecycle.Member{RecordID: id})
	}
	done, err := s.SoftDelete(t.Context(), l, "seg-1", storetest.Start, m, tick)
	if err != nil || done.Records != len(ids)-len(want) {
		t.Errorf("archived %d of %q, %v, want all but %q", done.Records, ids, err, want)
	}
	for _, id := range want {
		if r, err := s.Row(t.Context(), id); err != nil || r.State != lifecycle.Active {
			t.Errorf("%s is %s, %v", id, r.State, err)
		}
	}
}

// sweeping opens classes, begins a sweep and verifies a segment.
func sweeping(t *testing.T, s *Store) lifecycle.Lease {
	t.Helper()
	openBoth(t, s, 1)
	l, err := s.BeginRun(t.Context(), run("run-1"), tick)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.StageSegment(t.Context(), l, lifecycle.Segment{ID: "seg-1", Class: record("x").ArchiveClass, WrappedIdentity: []byte{1}}, tick),
		s.VerifySegment(t.Context(), l, "seg-1", nil, tick)); err != nil {
		t.Fatal(err)
	}
	return l
}

// stopped begins a merge that has its leaf and the lock, and stops before its rows
// are there, until the function that is returned is called.
func stopped(t *testing.T, s *Store, d *pgtest.Database, batch ...lifecycle.Sealed) (goOn func()) {
	t.Helper()
	// Its last record is on its way already, of somebody who will think better of it.
	last := "~"
	other := begun(t, d, `INSERT INTO lotkeeper.records (seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product,
		checksum, content, gaps, class_no, archive_class_no, month, payload_bytes, ingest_leaf)
		SELECT -1, '`+last+`', '', '', 'shipping', x, x, x, x, '', '', '\x00', '\x00', '', min(class_no), max(class_no), 202409, 1, 1 FROM lotkeeper.classes, (VALUES ('`+stamp(storetest.Start)+`')) v(x) GROUP BY x`)
	var wg sync.WaitGroup
	wg.Go(func() {
		if res, err := s.Merge(t.Context(), append(batch, made(last, "")), nil, tick); err != nil || res.Inserted != len(batch)+1 {
			t.Error(res, err)
		}
	})
	waits(t, d, "Lock")
	return func() {
		if err := other.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// TestLinkBesideHold: a link is on its way while the hold on its lot is placed, or
// traced again, and while another link arrives, whose leaf is above that of the first.
func TestLinkBesideHold(t *testing.T) {
	for _, scope := range []lifecycle.Scope{
		{TLC: "A", Trace: lifecycle.Forward},
		{TLCPrefix: "A", Trace: lifecycle.Both},
		{RecordID: "a", Trace: lifecycle.Forward},
		{Location: "here", Trace: lifecycle.Forward},
	} {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, placed before %v", scope, before), func(t *testing.T) {
				a, b, d := two(t, 0)
				l := sweeping(t, a)
				first := made("a", "A")
				first.Location = "here"
				if _, err := a.Merge(t.Context(), []lifecycle.Sealed{first, made("free", "F")}, nil, tick); err != nil {
					t.Fatal(err)
				}
				place := func() {
					if err := b.Place(t.Context(), traceHold("h", scope)); err != nil {
						t.Fatal(err)
					}
				}
				if before {
					place()
					if err := b.TraceHolds(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				goOn := stopped(t, a, d, made("b", "B", "A"), made("c", "C", "B"))
				if !before {
					place()
				}
				if res, err := b.Merge(t.Context(), []lifecycle.Sealed{made("d", "D", "C"), made("e", "E", "D")}, nil, tick); err != nil || res.Inserted != 2 {
					t.Fatal(res, err)
				}
				// It waits for the link that is on its way: if it did not, it would
				// never come back to it.
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				if err := b.TraceHolds(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("traced without the link that is on its way: %v", err)
				}
				goOn()
				kept(t, b, l, []string{"a", "b", "c", "d", "e", "free"}, "a", "b", "c", "d", "e")
			})
		}
	}
}

// TestHoldOnItsWay: a link arrives beside a hold on its lot that is not placed yet,
// and nobody sees the other.
func TestHoldOnItsWay(t *testing.T) {
	a, b, _ := two(t, 0)
	l := sweeping(t, a)
	if err := a.write(t.Context(), shared, func(ctx context.Context, tx *txn) error {
		p := traceHold("h", lifecycle.Scope{TLC: "A", Trace: lifecycle.Forward})
		if err := insertHold(ctx, tx, &p.Hold); err != nil {
			return err
		}
		if res, err := b.Merge(ctx, []lifecycle.Sealed{made("b", "B", "A"), made("c", "C", "B")}, nil, tick); err != nil || res.Inserted != 2 {
			t.Error(res, err)
		}
		_, err := tx.appendLeaf(ctx, p.Leaf)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	kept(t, b, l, []string{"b", "c"}, "b", "c")
}

// TestPlaceTwice: the same hold, once more before the first call has returned.
func TestPlaceTwice(t *testing.T) {
	a, b, d := two(t, 0)
	p := hold("h")
	p.Hold.Reference = "case"
	again := make(chan error, 1)
	if err := a.write(t.Context(), shared, func(ctx context.Context, tx *txn) error {
		if err := insertHold(ctx, tx, &p.Hold); err != nil {
			return err
		}
		go func() { again <- b.Place(t.Context(), p) }()
		waits(t, d, "Lock")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-again; err != nil {
		t.Error(err)
	}
	if err := b.Place(t.Context(), p); err != nil {
		t.Error(err)
	}
	p.Hold.ID = "other"
	var taken *lifecycle.ReferenceTaken
	if err := b.Place(t.Context(), p); !errors.As(err, &taken) || taken.HoldID != "h" {
		t.Error(err)
	}
}

// TestTraceBudget: what is made up for under the lock is little, however the links
// and merges are, and the rest is made up for without it.
func TestTraceBudget(t *testing.T) {
	for name, c := range map[string]struct {
		scope   lifecycle.Scope
		batches func() [][]lifecycle.Sealed
		lots    int64
		// little: it is little enough to be done at once.
		little bool
	}{
		"a lot with many links": {lifecycle.Scope{TLC: "OUT", Trace: lifecycle.Backward}, func() [][]lifecycle.Sealed {
			r := made("r", "OUT")
			for i := range traceBudget + 1 {
				r.Inputs = append(r.Inputs, cte.Lot{TLC: fmt.Sprint("IN-", i)})
			}
			return [][]lifecycle.Sealed{{r}}
		}, traceBudget + 2, false},
		"a long chain": {lifecycle.Scope{TLC: "L-0", Trace: lifecycle.Forward}, func() [][]lifecycle.Sealed {
			var batch []lifecycle.Sealed
			for i := range 400 {
				batch = append(batch, made(fmt.Sprint("r-", i), fmt.Sprint("L-", i+1), fmt.Sprint("L-", i)))
			}
			return [][]lifecycle.Sealed{batch}
		}, 401, false},
		"many small merges": {lifecycle.Scope{Location: "here", Trace: lifecycle.Forward}, func() (out [][]lifecycle.Sealed) {
			for i := range 60 {
				r := made(fmt.Sprint("r-", i), fmt.Sprint("L-", i))
				r.Location = "here"
				out = append(out, []lifecycle.Sealed{r})
			}
			return out
		}, 60, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, _ := two(t, 0)
			openBoth(t, a, 1)
			if err := a.Place(t.Context(), traceHold("h", c.scope)); err != nil {
				t.Fatal(err)
			}
			for _, batch := range c.batches() {
				if _, err := a.Merge(t.Context(), batch, nil, tick); err != nil {
					t.Fatal(err)
				}
			}
			err := a.write(t.Context(), exclusive, func(ctx context.Context, tx *txn) error {
				traced := tx.ensureTraced(ctx, traceBudget)
				n, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.hold_lots`)
				if err != nil || n > traceBudget {
					t.Errorf("%d lots under the lock, %v", n, err)
				}
				return cmp.Or(traced, lifecycle.ErrMoved) // undone
			})
			if c.little != errors.Is(err, lifecycle.ErrMoved) || !c.little && err != errBehind {
				t.Errorf("under the lock: %v", err)
			}
			// Two that trace at once come to the same.
			var wg sync.WaitGroup
			for _, s := range []*Store{a, b} {
				wg.Go(func() {
					if err := s.TraceHolds(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			n, err := one(t.Context(), a.pool, (*columns).int, `SELECT t.lots FROM lotkeeper.hold_traces t WHERE lots = (SELECT count(*) FROM lotkeeper.hold_lots)`)
			if err != nil || n != c.lots {
				t.Errorf("%d lots, %v, want %d", n, err, c.lots)
			}
		})
	}
}
