package storetest

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// sequence wants the tree to have so many leaves, and all of them in it.
func (k *kit) sequence(want int64) {
	k.Helper()
	size, err := k.Sequence(k.ctx)
	k.ok(err)
	st, err := k.LogState(k.ctx)
	k.ok(err)
	if size != want || st.Size != want || st.Pending != 0 {
		k.Fatalf("sequenced to %d, state %+v, want %d", size, st, want)
	}
}

// logged compares the log with the leaves: each leaf has one index, all indexes up to
// the size are given, and the stored hashes are those of the leaves.
func (k *kit) logged(size int64) {
	k.Helper()
	byID := map[int64]lifecycle.Leaf{}
	all, err := k.Leaves(k.ctx, lifecycle.LeafQuery{})
	k.ok(err)
	waiting := int64(0)
	for _, l := range all {
		byID[l.ID] = l
		if l.Index < 0 {
			waiting++
		}
	}
	st, err := k.LogState(k.ctx)
	k.ok(err)
	if st.Size != size || st.Pending != waiting || int64(len(all)) != size+waiting {
		k.Errorf("state %+v, and of %d leaves %d wait", st, len(all), waiting)
	}
	in, err := k.LogLeaves(k.ctx, 0, size)
	k.ok(err)
	if int64(len(in)) != size {
		k.Fatalf("%d leaves of %d in the log", len(in), size)
	}
	var hashes []tlog.Hash
	stored := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for i, l := range in {
		if l.Index != int64(i) || !reflect.DeepEqual(l, byID[l.ID]) {
			k.Fatalf("entry %d of the log is leaf\n%+v, which is\n%+v", i, l, byID[l.ID])
		}
		delete(byID, l.ID)
		e := audit.Entry{At: l.At, Actor: l.Actor, Role: l.Role, Software: l.Software, Action: l.Action, RunID: l.RunID, Subject: l.Subject, Body: l.Body}
		entry, _, err := e.Marshal()
		k.ok(err)
		hs, err := tlog.StoredHashes(int64(i), entry, stored)
		k.ok(err)
		hashes = append(hashes, hs...)
	}
	if int64(len(byID)) != waiting {
		k.Errorf("%d leaves are not in the log, and %d wait", len(byID), waiting)
	}
	want, err := tlog.TreeHash(size, stored)
	k.ok(err)
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return k.LogHashes(k.ctx, indexes) }))
	k.ok(err)
	if root != want {
		k.Errorf("the tree of %d has the root %s, its leaves make %s", size, root, want)
	}
	// Each of them, though the root needs but few.
	every := make([]int64, len(hashes))
	for i := range every {
		every[i] = int64(len(hashes) - 1 - i)
	}
	got, err := k.LogHashes(k.ctx, every)
	k.ok(err)
	slices.Reverse(got)
	if !slices.Equal(got, hashes) {
		k.Errorf("the stored hashes of %d leaves are not theirs", size)
	}
	if _, err := k.LogHashes(k.ctx, []int64{0, int64(len(hashes))}); !errors.Is(err, lifecycle.ErrNotFound) {
		k.Errorf("a hash beyond the end: %v", err)
	}
	if unindexed, gone, err := k.StrayLeaves(k.ctx, 10); err != nil || len(unindexed)+len(gone) > 0 {
		k.Errorf("stray: %v, %v, %v", unindexed, gone, err)
	}
}

func sequenced(k *kit) {
	st, err := k.LogState(k.ctx)
	if want := (lifecycle.LogState{Pending: 1, Published: map[string]int64{}}); err != nil || !reflect.DeepEqual(st, want) {
		k.Errorf("before the first: %+v, %v, want %+v", st, err, want)
	}
	info, err := k.Info(k.ctx)
	k.ok(err)
	first := info.NewestLeaf
	if first.Index != -1 {
		k.Errorf("before the first: %+v", first)
	}
	if _, err := k.LogIndex(k.ctx, first.ID); !errors.Is(err, lifecycle.ErrNotFound) {
		k.Errorf("index of a leaf that waits: %v", err)
	}
	k.sequence(1)
	k.logged(1)
	if i, err := k.LogIndex(k.ctx, first.ID); err != nil || i != 0 {
		k.Errorf("index of the first leaf: %d, %v", i, err)
	}
	if info, err = k.Info(k.ctx); err != nil || info.NewestLeaf.Index != 0 {
		k.Errorf("%+v, %v", info.NewestLeaf, err)
	}
	k.unchanged("a log with nothing to add", func() { k.sequence(1) })
	// One, then two at a time, up to nine: each way that a tree grows by.
	size := int64(1)
	for n := 1; n < 10; n++ {
		for i := range n {
			l := leaf(fmt.Sprint("tick-", i))
			l.Software, l.Role, l.Subject = "lotkeeper 1.2", "whoever one likes", "s"
			if l.Body = nil; i%2 == 0 {
				l.Body = json.RawMessage(fmt.Sprintf(`{ "n" : %d, "text": "<é>" }`, i))
			}
			k.ok(k.Append(k.ctx, l))
		}
		before := size
		size += int64(n)
		k.sequence(size)
		in, err := k.LogLeaves(k.ctx, before, size+5)
		k.ok(err)
		for i, l := range in {
			if l.Action != fmt.Sprint("tick-", i) || l.Index != before+int64(i) || l.Software != "lotkeeper 1.2" || l.Role == "whoever one likes" || l.Role != first.Role {
				k.Errorf("entry %d: %+v", before+int64(i), l)
			}
		}
		if len(in) != n {
			k.Errorf("%d leaves of %d", len(in), n)
		}
	}
	k.ok(k.Append(k.ctx, leaf("waits")))
	k.logged(size)
	for _, c := range [][2]int64{{0, 0}, {5, 5}, {5, 4}, {size, size + 1}, {-3, 0}} {
		if in, err := k.LogLeaves(k.ctx, c[0], c[1]); err != nil || len(in) > 0 {
			k.Errorf("from %d to %d: %+v, %v", c[0], c[1], in, err)
		}
	}
	if hs, err := k.LogHashes(k.ctx, nil); err != nil || len(hs) > 0 {
		k.Errorf("no hashes: %v, %v", hs, err)
	}
	if hs, err := k.LogHashes(k.ctx, []int64{2, 0, 2}); err != nil || len(hs) != 3 || hs[0] != hs[2] || hs[0] == hs[1] {
		k.Errorf("hashes in the order asked for: %v, %v", hs, err)
	}
	if _, err := k.LogIndex(k.ctx, 1<<40); !errors.Is(err, lifecycle.ErrNotFound) {
		k.Errorf("index of nobody: %v", err)
	}
	k.ok(k.Store.Close())
	k.Store = k.again(k)
	k.sequence(size + 1)
	k.logged(size + 1)
}

// sequenceMany: more leaves than one transaction takes.
func sequenceMany(k *kit) {
	if k.raw == nil {
		k.Skip("the harness cannot write leaves at one go")
	}
	n := int64(many(11_000))
	k.ok(k.raw(fmt.Sprintf(`INSERT INTO leaves (at, actor, action, run_id, subject, body)
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT '2026-11-21T10:00:00.000000000Z', 'another program', 'tick', '', '', '{}' FROM n`, n)))
	k.sequence(n + 1)
	k.logged(n + 1)
}

// sequenceConcurrently: two that sequence while others write, from two handles. No
// index is given twice or left out, and what was there when a call began has one when
// it ends.
func sequenceConcurrently(k *kit) {
	other := k.again(k)
	n := many(300)
	var writing atomic.Int32
	write := func(s lifecycle.Store, name string) func() {
		writing.Add(1)
		return func() {
			defer writing.Add(-1)
			for i := range n {
				l := leaf("tick")
				l.Subject = fmt.Sprint(name, "-", i)
				if err := s.Append(k.ctx, l); err != nil {
					k.Error(err)
					return
				}
			}
		}
	}
	sequence := func(s lifecycle.Store) func() {
		return func() {
			last := int64(0)
			for more := true; more; {
				more = writing.Load() > 0
				info, err := s.Info(k.ctx)
				if err != nil {
					k.Error(err)
					return
				}
				size, err := s.Sequence(k.ctx)
				if err != nil || size < last {
					k.Errorf("sequenced to %d after %d, %v", size, last, err)
					return
				}
				if _, err := s.LogIndex(k.ctx, info.NewestLeaf.ID); err != nil {
					k.Errorf("a leaf that was there before the call: %v", err)
				}
				last = size
			}
		}
	}
	together(write(k, "a"), write(k, "b"), write(other, "c"), write(other, "d"), sequence(k), sequence(other))
	k.sequence(int64(4*n) + 1)
	k.logged(int64(4*n) + 1)
	// Of each writer, the leaves are in the log in the order it wrote them.
	in, err := k.LogLeaves(k.ctx, 1, int64(4*n)+1)
	k.ok(err)
	next := map[string]int{}
	for _, l := range in {
		name := l.Subject[:1]
		if l.Subject != fmt.Sprint(name, "-", next[name]) {
			k.Fatalf("%s comes when %d of %s are in", l.Subject, next[name], name)
		}
		next[name]++
	}
}

func published(k *kit) {
	want := map[string]int64{}
	check := func() {
		k.Helper()
		if st, err := k.LogState(k.ctx); err != nil || !maps.Equal(st.Published, want) {
			k.Errorf("published %v, %v, want %v", st.Published, err, want)
		}
	}
	for _, c := range []struct {
		vault      string
		size, want int64
	}{{"main", 5, 5}, {"cold", 0, 0}, {"main", 4, 5}, {"cold", 7, 7}, {"main", 5, 5}, {"main", 6, 6}, {"", 1, 1}} {
		k.ok(k.Store.Published(k.ctx, c.vault, c.size))
		want[c.vault] = c.want
		check()
	}
	other := k.again(k)
	var errs [2]error
	together(
		func() {
			for i := range int64(many(100)) {
				errs[0] = errors.Join(errs[0], k.Store.Published(k.ctx, "race", 2*i))
			}
		},
		func() {
			for i := range int64(many(100)) {
				errs[1] = errors.Join(errs[1], other.Published(k.ctx, "race", 2*i+1))
			}
		})
	k.ok(errors.Join(errs[:]...))
	want["race"] = int64(2*many(100) - 1)
	check()
}

// leafQueries: the parts of a query that leaves does not ask for, and all at once.
func leafQueries(k *kit) {
	var in []lifecycle.Leaf
	for i := range 12 {
		l := leaf([]string{"one", "two", "three"}[i%3])
		l.At, l.Actor, l.Subject = Start.Add(time.Duration(i/2)*time.Second), []string{"a", "b"}[i/6], "s"
		k.ok(k.Append(k.ctx, l))
		info, err := k.Info(k.ctx)
		k.ok(err)
		in = append(in, info.NewestLeaf)
	}
	at := func(i int) time.Time { return in[i].At }
	for _, c := range []struct {
		q    lifecycle.LeafQuery
		want []int
	}{
		{lifecycle.LeafQuery{Actor: "a"}, []int{0, 1, 2, 3, 4, 5}},
		{lifecycle.LeafQuery{Actor: "A"}, nil},
		{lifecycle.LeafQuery{Actor: "b", Actions: []string{"one"}}, []int{6, 9}},
		{lifecycle.LeafQuery{From: at(8), Subject: "s"}, []int{8, 9, 10, 11}},
		{lifecycle.LeafQuery{To: at(2), Subject: "s"}, []int{0, 1}},
		{lifecycle.LeafQuery{From: at(2), To: at(4)}, []int{2, 3}},
		{lifecycle.LeafQuery{From: at(2).Add(1), To: at(4).Add(1)}, []int{4, 5}},
		{lifecycle.LeafQuery{From: at(4), To: at(4)}, nil},
		{lifecycle.LeafQuery{From: at(2).In(time.FixedZone("", -3600)), To: at(4), Actions: []string{"one", "two"}}, []int{3}},
		{lifecycle.LeafQuery{After: in[9].ID}, []int{10, 11}},
		{lifecycle.LeafQuery{After: in[11].ID}, nil},
		{lifecycle.LeafQuery{After: in[0].ID, Limit: 2}, []int{1, 2}},
		{lifecycle.LeafQuery{Actions: []string{"three"}, Limit: 1}, []int{2}},
		{lifecycle.LeafQuery{Actions: []string{"three", "two"}, Limit: 3}, []int{1, 2, 4}},
		{lifecycle.LeafQuery{Actions: []string{"three"}, After: in[2].ID, Limit: 1}, []int{5}},
		{lifecycle.LeafQuery{Subject: "s", Limit: 100, From: at(11)}, []int{10, 11}},
		{lifecycle.LeafQuery{Subject: "s", Actor: "b", Actions: []string{"two"}, From: at(6), To: at(11), After: in[5].ID, Limit: 1}, []int{7}},
		{lifecycle.LeafQuery{Actions: []string{}}, nil},
	} {
		got, err := k.Leaves(k.ctx, c.q)
		k.ok(err)
		var want []lifecycle.Leaf
		for _, i := range c.want {
			want = append(want, in[i])
		}
		if !reflect.DeepEqual(got, want) {
			k.Errorf("%+v finds\n%+v, want\n%+v", c.q, got, want)
		}
	}
}

// rowsOf collects the records of a leaf.
func (k *kit) rowsOf(leafID int64) (out []lifecycle.Sealed) {
	k.Helper()
	for s, err := range k.LeafRows(k.ctx, leafID) {
		k.ok(err)
		out = append(out, s)
	}
	return out
}

// ofRows wants a leaf's records to be those, as they are now, with their inputs.
func (k *kit) ofRows(leafID int64, inputs map[string][]cte.Lot, ids ...string) {
	k.Helper()
	var want []lifecycle.Sealed
	for _, id := range ids {
		r, err := k.Row(k.ctx, id)
		k.ok(err)
		want = append(want, lifecycle.Sealed{Row: r, Inputs: inputs[id]})
	}
	if got := k.rowsOf(leafID); !reflect.DeepEqual(got, want) {
		k.Errorf("the records of leaf %d are\n%+v, want\n%+v", leafID, got, want)
	}
}

// newest is the newest leaf, which has to be of the action.
func (k *kit) newest(action string) lifecycle.Leaf {
	k.Helper()
	info, err := k.Info(k.ctx)
	k.ok(err)
	if info.NewestLeaf.Action != action {
		k.Fatalf("the newest leaf is %+v, not of %s", info.NewestLeaf, action)
	}
	return info.NewestLeaf
}

// softDeleteOf is a soft-delete whose leaf has its segment as its subject.
func (k *kit) softDeleteOf(want int, segment string, m []lifecycle.Member) lifecycle.Leaf {
	k.Helper()
	l := leaf(lifecycle.ActionArchived)
	l.Subject = segment
	done, err := k.SoftDelete(k.ctx, k.lease, segment, Start, m, l)
	k.ok(err)
	if done.Records != want {
		k.Fatalf("soft-deleted %d of %d, want %d", done.Records, len(m), want)
	}
	return k.newest(lifecycle.ActionArchived)
}

// leafRows: what came with a leaf and what went by one, and nobody else's.
func leafRows(k *kit) {
	made := func(lots ...cte.Lot) func(*lifecycle.Sealed) { return func(s *lifecycle.Sealed) { s.Inputs = lots } }
	inputs := map[string][]cte.Lot{"b": {lotOf("M", ""), lotOf("M", "S"), lotOf("N", "S")}, "e": {lotOf("M", "S")}}
	first := []lifecycle.Sealed{
		row("c", expired), row("b", expired, made(lotOf("N", "S"), lotOf("M", "S"), lotOf("M", ""), lotOf("N", "S"))), row("a", expired),
	}
	second := []lifecycle.Sealed{row("e", expired, made(lotOf("M", "S"))), row("d", expired)}
	k.take(first...)
	one := k.newest(lifecycle.ActionIngested)
	k.take(second...)
	two := k.newest(lifecycle.ActionIngested)
	k.ofRows(one.ID, inputs, "c", "b", "a")
	k.ofRows(two.ID, inputs, "e", "d")
	for _, id := range []int64{0, one.ID - 1, 1 << 40} {
		k.ofRows(id, nil)
	}
	k.begin()
	k.verified("seg-1", first[0].ArchiveClass, 3)
	k.verified("seg-2", first[0].ArchiveClass, 2)
	k.place("h-1", onRecord("a"))
	third := k.softDeleteOf(2, "seg-1", members(second[0], first[1], first[2])) // e, b; a is held
	k.release("h-1")
	fourth := k.softDeleteOf(1, "seg-1", members(second[0], first[1], first[2]))
	fifth := k.softDeleteOf(2, "seg-2", members(second[1], first[0]))
	k.ofRows(third.ID, inputs, "b", "e")
	k.ofRows(fourth.ID, inputs, "a")
	k.ofRows(fifth.ID, inputs, "c", "d")
	k.ofRows(one.ID, inputs, "c", "b", "a")
	k.ofRows(two.ID, inputs, "e", "d")
	verified, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionVerified}})
	k.ok(err)
	for _, l := range verified {
		k.ofRows(l.ID, nil)
	}
	// More than a page of them.
	n := many(2500)
	var batch []lifecycle.Sealed
	var ids []string
	lots := map[string][]cte.Lot{}
	for i := range n {
		id := fmt.Sprint("many-", i)
		ids, lots[id] = append(ids, id), []cte.Lot{lotOf(fmt.Sprint("M-", i), "S")}
		batch = append(batch, row(id, expired, made(lots[id]...)))
	}
	k.take(batch...)
	sixth := k.newest(lifecycle.ActionIngested)
	got := k.rowsOf(sixth.ID)
	if len(got) != n {
		k.Fatalf("%d of %d records", len(got), n)
	}
	for i, s := range got {
		if s.RecordID != ids[i] || !slices.Equal(s.Inputs, lots[ids[i]]) || s.Payload != nil || s.WrappedDEK != nil || s.Checksum != batch[i].Checksum {
			k.Fatalf("record %d is %+v", i, s)
		}
	}
}

// checksumRoot: the leaf of a soft-delete commits to what it archived, and says what it
// left out.
func checksumRoot(k *kit) {
	var in []lifecycle.Sealed
	for _, id := range []string{"d", "b", "a", "c", "young", "wrong", "held", "gone", "f", "e"} {
		at := expired
		if id == "young" {
			at = Start
		}
		in = append(in, row(id, at, func(s *lifecycle.Sealed) {
			s.ArchiveClass = lifecycle.ArchivePeriod(expired.Add(keep + 365*24*time.Hour)).ID(1)
		}))
	}
	k.take(in...)
	k.place("h-1", onRecord("held"))
	k.begin()
	k.verified("seg-0", in[0].ArchiveClass, 1)
	k.softDeleteOf(1, "seg-0", members(in[7]))
	k.verified("seg-1", in[0].ArchiveClass, len(in))
	check := func(l lifecycle.Leaf, kept []string) {
		k.Helper()
		var sums [][32]byte
		for _, s := range k.rowsOf(l.ID) {
			sums = append(sums, s.Checksum)
		}
		root := archive.Root(sums)
		var body struct {
			By      string   `json:"by"`
			Records int      `json:"records"`
			Root    string   `json:"checksum_root"`
			Kept    []string `json:"kept"`
		}
		k.ok(json.Unmarshal(l.Body, &body))
		if body.By != "storetest" || body.Records != len(sums) || body.Root != hex.EncodeToString(root[:]) || !slices.Equal(body.Kept, kept) {
			k.Errorf("leaf of %d records with the root %x and of %q kept: %s", len(sums), root, kept, l.Body)
		}
	}
	m := members(in...)
	m[5].Checksum[0] ^= 1
	m = append(m, lifecycle.Member{RecordID: "nobody"})
	slices.Reverse(m)
	// In two parts, of which the first is given again with the second, as by a sweep
	// that recovers. What is archived already is not kept.
	check(k.softDeleteOf(2, "seg-1", m[:4]), nil)
	check(k.softDeleteOf(4, "seg-1", m), []string{"young", "wrong", "held"})
	k.unchanged("a repeated soft-delete", func() { k.softDelete(0, "seg-1", Start, m) })
	k.release("h-1")
	check(k.softDeleteOf(1, "seg-1", m), []string{"young", "wrong"})
	check(k.softDeleteOf(1, "seg-1", members(in[5])), nil)
}
