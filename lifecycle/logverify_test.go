package lifecycle_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// logged is a life with something of everything that the log tells of, published. ids
// are what it is known by in the tables below.
type logged struct {
	*world
	ids map[string]string
}

// addLife lives it: two days archived into two segments in two vaults, their classes
// destroyed; a held record that was resealed, young ones with inputs; a hold that was
// extended, one that was released, one with an end, one with a legal hold.
func addLife(t *testing.T, w *world) *logged {
	t.Helper()
	ctx := t.Context()
	w.Limits.SegmentRecords, w.Limits.LockRecords, w.Limits.BatchRecords = 2, 2, 3
	w.addVault("second")
	made := func(id, lot string, inputs string, at string) string {
		return fmt.Sprintf(`{"record_id":%q,"traceability_lot_code":%q,"event_timestamp":%q,"input_lots":[%s],"kde_payload":{"a":1}}`, id, lot, at, inputs)
	}
	w.ingest(
		record("old-1", "L", instant(t, "2023-01-01T00:00:00Z")), made("old-2", "L", `"IN-1","IN-2"`, "2023-01-01T00:00:00Z"),
		record("old-3", "L", instant(t, "2023-01-02T00:00:00Z")), record("held", "H", instant(t, "2023-01-02T00:00:00Z")),
		made("young-1", "Y", `"L"`, "2026-11-01T00:00:00Z"), record("young-2", "Y", instant(t, "2026-11-01T00:00:00Z")))
	l := &logged{w, map[string]string{}}
	place := func(name string, req lifecycle.PlaceRequest) {
		t.Helper()
		req.Kind, req.Reason = lifecycle.Recall, "a test"
		res, err := w.Place(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Confirm(ctx, &res); err != nil {
			t.Fatal(err)
		}
		l.ids[name] = res.HoldID
	}
	place("hold", lifecycle.PlaceRequest{Reference: "F-1", Scopes: []lifecycle.Scope{{TLC: "H"}}})
	place("released", lifecycle.PlaceRequest{Scopes: []lifecycle.Scope{{RecordID: "young-1"}}})
	place("ends", lifecycle.PlaceRequest{Until: today.AddDate(1, 0, 0), Scopes: []lifecycle.Scope{{RecordID: "young-2"}}})
	if _, err := w.Extend(ctx, l.ids["hold"], []lifecycle.Scope{{TLC: "Y", Trace: lifecycle.Forward}}); err != nil {
		t.Fatal(err)
	}
	w.release(l.ids["released"])
	if res := w.sweep(); res.Archived != 3 || res.Resealed != 1 || res.ShreddedClasses != 2 {
		t.Fatalf("%+v", res)
	}
	place("legal", lifecycle.PlaceRequest{Scopes: []lifecycle.Scope{{RecordID: "old-3"}}})
	if _, err := w.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	l.ids["class"], l.ids["segment"] = w.view("old-1").Class, w.row("old-1").Segment
	l.ids["held segment"] = w.row("old-3").Segment
	for action, name := range map[string]string{lifecycle.ActionHoldPlaced: "placed", lifecycle.ActionIngested: "ingested", lifecycle.ActionShredded: "shredded"} {
		leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Actions: []string{action}})
		if err != nil || len(leaves) == 0 {
			t.Fatal(action, err)
		}
		l.ids[name], l.ids[name+" index"] = fmt.Sprint(leaves[0].ID), fmt.Sprint(leaves[0].Index)
	}
	return l
}

func (w *world) row(id string) lifecycle.Row {
	w.t.Helper()
	r, err := w.Store.Row(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// fill puts the life's ids in the place of {name}.
func (l *logged) fill(text string) string {
	for name, id := range l.ids {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

// with is the same life on another database.
func (l *logged) with(t *testing.T, store lifecycle.Store) *logged {
	t.Helper()
	t.Cleanup(func() { store.Close() })
	e := *l.Engine
	e.Store = store
	return &logged{&world{Engine: &e, t: t, store: store, vault: l.vault, now: l.now}, l.ids}
}

// names says whether one of the findings is of a kind and names what it is about:
// "leaf N", "entry N", or a subject.
func names(findings []lifecycle.LogFinding, kind, about string) bool {
	return slices.ContainsFunc(findings, func(f lifecycle.LogFinding) bool {
		return f.Kind == kind && (about == fmt.Sprint("leaf ", f.Leaf) || about == fmt.Sprint("entry ", f.Index) || about == f.Subject || about == f.Object || about == "vault "+f.Vault)
	})
}

// found wants a finding of each kind, about what is named.
func (l *logged) found(want ...string) {
	l.t.Helper()
	res, err := l.VerifyLog(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	if len(want) == 0 && len(res.Findings) > 0 {
		l.t.Errorf("found %+v", res.Findings)
	}
	for i := 0; i < len(want); i += 2 {
		if about := l.fill(want[i+1]); !names(res.Findings, want[i], about) {
			l.t.Errorf("no finding %s about %s in\n%+v", want[i], about, res.Findings)
		}
	}
}

// damages are what the owner of the tables can do once the triggers are gone, and what
// is found then, of which kind and about what. The statements run on both databases.
var damages = []struct {
	name       string
	statements []string
	want       []string
}{
	{"nothing", nil, nil},
	{"a leaf is deleted", []string{`DELETE FROM leaves WHERE leaf_id = {placed}`},
		[]string{lifecycle.LogChanged, "{hold}", lifecycle.LogStray, "leaf {placed}"}},
	{"a leaf and all that points to it are deleted", []string{`DELETE FROM leaves WHERE leaf_id = {placed}`, `DELETE FROM log_entries WHERE leaf_id = {placed}`},
		[]string{lifecycle.LogChanged, "{hold}"}},
	{"a leaf's text is edited", []string{`UPDATE leaves SET body = replace(body, 'F-1', 'F-2') WHERE leaf_id = {placed}`},
		[]string{lifecycle.LogChanged, "leaf {placed}"}},
	{"a leaf's actor is edited", []string{`UPDATE leaves SET actor = 'somebody' WHERE leaf_id = {shredded}`},
		[]string{lifecycle.LogChanged, "leaf {shredded}"}},
	{"a row of log_entries is removed", []string{`DELETE FROM log_entries WHERE leaf_id = {placed}`},
		[]string{lifecycle.LogChanged, "entry {placed index}", lifecycle.LogStray, "leaf {placed}"}},
	{"two entries are swapped", []string{
		`UPDATE log_entries SET leaf_id = -1 WHERE log_index = {placed index}`, `UPDATE log_entries SET leaf_id = {placed} WHERE log_index = {ingested index}`,
		`UPDATE log_entries SET leaf_id = {ingested} WHERE log_index = {placed index}`},
		[]string{lifecycle.LogChanged, "entry {placed index}", lifecycle.LogChanged, "entry {ingested index}"}},
	{"the newest entries are cut off", []string{
		`DELETE FROM log_entries WHERE log_index >= {shredded index}`, `DELETE FROM leaves WHERE leaf_id >= {shredded}`},
		[]string{lifecycle.LogTruncated, "entry {shredded index}"}},
	{"a stored hash is changed", []string{`UPDATE log_hashes SET hash = (SELECT hash FROM log_hashes WHERE n = 3) WHERE n = 4`},
		[]string{lifecycle.LogHashes, "entry 3"}},
	{"a stored hash of a node is changed", []string{`UPDATE log_hashes SET hash = (SELECT hash FROM log_hashes WHERE n = 3) WHERE n = 2`},
		[]string{lifecycle.LogHashes, "entry 0"}},
	{"a stored hash is removed", []string{`DELETE FROM log_hashes WHERE n = 2`}, []string{lifecycle.LogHashes, ""}},
	{"a leaf is written that nobody queues", []string{
		`DELETE FROM log_pending`, `INSERT INTO leaves (at, actor, action, run_id, subject, body, software, role) SELECT at, actor, action, run_id, 'behind', body, software, role FROM leaves WHERE leaf_id = {placed}`,
		`DELETE FROM log_pending`},
		[]string{lifecycle.LogStray, "leaf {next}"}},

	{"a checksum in the hot store is edited", []string{`UPDATE records SET checksum = (SELECT checksum FROM records WHERE record_id = 'young-2') WHERE record_id = 'young-1'`},
		[]string{lifecycle.LogRecord, "leaf {young leaf}"}},
	{"a checksum of an archived record is edited", []string{`UPDATE records SET checksum = (SELECT checksum FROM records WHERE record_id = 'young-2') WHERE record_id = 'old-1'`},
		[]string{lifecycle.LogRecord, "leaf {ingested}", lifecycle.LogRecord, "{segment}"}},
	{"a lot code is edited", []string{`UPDATE records SET tlc = 'OTHER' WHERE record_id = 'held'`}, []string{lifecycle.LogRecord, "leaf {young leaf}"}},
	{"an input lot is deleted", []string{`DELETE FROM lineage WHERE input_tlc = 'IN-1'`}, []string{lifecycle.LogRecord, "leaf {ingested}"}},
	{"an input lot is invented", []string{`UPDATE lineage SET input_tlc = 'OTHER' WHERE input_tlc = 'IN-1'`}, []string{lifecycle.LogRecord, "leaf {ingested}"}},
	{"a record is due earlier", []string{`UPDATE records SET due_at = (SELECT due_at FROM records WHERE record_id = 'old-1') WHERE record_id = 'young-1'`},
		[]string{lifecycle.LogRecord, "young-1"}},
	{"the law's floor is moved", []string{`UPDATE records SET purge_not_before = (SELECT due_at FROM records WHERE record_id = 'old-1') WHERE record_id = 'old-1'`},
		[]string{lifecycle.LogRecord, "leaf {ingested}"}},
	{"a record is moved back to active", []string{`UPDATE records SET state = 'active', archive_leaf = 0 WHERE record_id = 'old-1'`},
		[]string{lifecycle.LogRecord, "{segment}"}},
	{"a record is moved to archived", []string{`UPDATE records SET state = 'archived', segment_no = (SELECT segment_no FROM records WHERE record_id = 'old-1'),
		archive_leaf = (SELECT archive_leaf FROM records WHERE record_id = 'old-1') WHERE record_id = 'young-1'`},
		[]string{lifecycle.LogRecord, "{segment}"}},
	{"a record is deleted", []string{`DELETE FROM lineage`, `DELETE FROM records WHERE record_id = 'old-2'`}, []string{lifecycle.LogRecord, "leaf {ingested}"}},
	{"a record is inserted", []string{`INSERT INTO records ({columns}) SELECT {stranger} FROM records WHERE record_id = 'young-1'`},
		[]string{lifecycle.LogRecord, "stranger"}},

	{"a hold is deleted", []string{`DELETE FROM hold_scopes WHERE hold_no IN (SELECT hold_no FROM holds WHERE hold_id = '{ends}')`, `DELETE FROM holds WHERE hold_id = '{ends}'`},
		[]string{lifecycle.LogStateDiffers, "{ends}"}},
	{"a hold is released", []string{`UPDATE holds SET released_at = placed_at, released_by = 'tester', release_reason = 'x' WHERE hold_id = '{hold}'`},
		[]string{lifecycle.LogStateDiffers, "{hold}"}},
	{"a hold is opened again", []string{`UPDATE holds SET released_at = '' WHERE hold_id = '{released}'`}, []string{lifecycle.LogStateDiffers, "{released}"}},
	{"a hold's scope is changed", []string{`UPDATE hold_scopes SET tlc = 'OTHER' WHERE tlc = 'H'`}, []string{lifecycle.LogStateDiffers, "{hold}"}},
	{"a hold's scope is deleted", []string{`DELETE FROM hold_scopes WHERE tlc = 'H'`}, []string{lifecycle.LogStateDiffers, "{hold}"}},
	{"a hold no longer traces", []string{`UPDATE hold_scopes SET trace = '' WHERE tlc = 'Y'`}, []string{lifecycle.LogStateDiffers, "{hold}"}},
	{"a hold ends sooner", []string{`UPDATE holds SET until_at = placed_at WHERE hold_id = '{ends}'`}, []string{lifecycle.LogStateDiffers, "{ends}"}},
	{"a hold gets an end", []string{`UPDATE holds SET until_at = placed_at WHERE hold_id = '{hold}'`}, []string{lifecycle.LogStateDiffers, "{hold}"}},
	{"a hold's reference is changed", []string{`UPDATE holds SET reference = 'F-2' WHERE hold_id = '{hold}'`}, []string{lifecycle.LogStateDiffers, "{hold}"}},
	{"a legal hold is lifting", []string{`UPDATE legal_holds SET state = 'lifting' WHERE vault = 'second'`}, []string{lifecycle.LogStateDiffers, "{held segment}"}},
	{"a legal hold is forgotten", []string{`DELETE FROM legal_holds`}, []string{lifecycle.LogStateDiffers, "{held segment}"}},

	{"a destroyed class is open again", []string{`UPDATE classes SET state = 'open', destroyed_at = '' WHERE class_id = '{class}'`},
		[]string{lifecycle.LogStateDiffers, "{class}"}},
	{"a class is destroyed in the database alone", []string{`UPDATE classes SET state = 'destroyed' WHERE state = 'open'`},
		[]string{lifecycle.LogStateDiffers, "{open class}"}},
	{"a copy is forgotten", []string{`DELETE FROM legal_holds`, `DELETE FROM segment_copies WHERE vault = 'second'`}, []string{lifecycle.LogStateDiffers, "{segment}"}},
	{"a segment is to be settled again", []string{`UPDATE segments SET state = 'verified' WHERE segment_id = '{segment}'`}, []string{lifecycle.LogStateDiffers, "{segment}"}},
	{"a segment has another object", []string{`UPDATE segments SET object_sha256 = manifest_sha256 WHERE segment_id = '{segment}'`}, []string{lifecycle.LogStateDiffers, "{segment}"}},
	{"a vault no longer counts", []string{`UPDATE vaults SET state = 'retiring' WHERE name = 'second'`}, []string{lifecycle.LogStateDiffers, "second"}},
	{"a vault is forgotten", []string{`DELETE FROM vaults WHERE name = 'second'`}, []string{lifecycle.LogStateDiffers, "second"}},
}

// columns of a record's row, but those by which it is known.
const columns = `tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product, checksum, content, gaps, class_no, archive_class_no, state, ingest_leaf, archive_leaf`

func (l *logged) damage(t *testing.T, more string, open func(t *testing.T) (exec func(string) error, store func() lifecycle.Store)) {
	info, err := l.Store.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.ids["next"] = fmt.Sprint(info.NewestLeaf.ID + 1)
	l.ids["young leaf"] = fmt.Sprint(l.row("young-1").IngestLeaf)
	l.ids["open class"] = l.view("young-1").Class
	l.ids["columns"] = `seq, record_id, ` + columns + more
	l.ids["stranger"] = `seq + 1000, 'stranger', ` + columns + more
	l.store.Close()
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			exec, store := open(t)
			for _, s := range d.statements {
				if err := exec(l.fill(s)); err != nil {
					t.Fatal(l.fill(s), err)
				}
			}
			l.with(t, store()).found(d.want...)
		})
	}
}

func TestVerifyLogOnSQLite(t *testing.T) {
	l := addLife(t, newWorld(t))
	path := filepath.Join(l.dir, "lotkeeper.db")
	l.damage(t, "", func(t *testing.T) (func(string) error, func() lifecycle.Store) {
		copied := filepath.Join(tempDir(t), "lotkeeper.db")
		db, err := sql.Open("sqlite", "file:"+path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(`VACUUM INTO ?`, copied); err != nil {
			t.Fatal(err)
		}
		w := &world{dir: filepath.Dir(copied)}
		return func(s string) error { raw(t, w, s); return nil }, func() lifecycle.Store {
			s, err := sqlite.Open(t.Context(), copied)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

func TestVerifyLogOnPostgreSQL(t *testing.T) {
	d := pgtest.New(t)
	store, err := postgres.Create(t.Context(), postgres.Options{URL: d.URL()}, 0, firstLeaf)
	if err != nil {
		t.Fatal(err)
	}
	l := addLife(t, newWorldOn(t, tempDir(t), store))
	l.damage(t, ", month, payload_bytes", func(t *testing.T) (func(string) error, func() lifecycle.Store) {
		copied := d.Clone(t)
		conn, err := pgx.Connect(t.Context(), copied.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		exec := func(s string) error { _, err := conn.Exec(t.Context(), s); return err }
		if err := exec(`SET search_path = lotkeeper`); err != nil {
			t.Fatal(err)
		}
		if err := exec(`DO $$ DECLARE t regclass; BEGIN
			FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'lotkeeper'::regnamespace AND relkind IN ('r', 'p') LOOP
				EXECUTE format('ALTER TABLE %s DISABLE TRIGGER ALL', t);
			END LOOP;
		END $$`); err != nil {
			t.Fatal(err)
		}
		return exec, func() lifecycle.Store {
			s, err := postgres.Open(t.Context(), postgres.Options{URL: copied.URL()})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

// What an auditor's own reading adds waits for its index, which an auditor may not give:
// that hides nothing.
func TestVerifyLogWithLeavesThatWait(t *testing.T) {
	l := addLife(t, newWorld(t))
	auditor := l.with(t, &unindexing{l.Store})
	if _, err := auditor.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	hold := auditor.place(lifecycle.Scope{TLC: "Z"})
	auditor.found()
	raw(t, l.world, `UPDATE classes SET state = 'open', destroyed_at = '' WHERE class_id = '`+l.ids["class"]+`'`,
		`UPDATE holds SET released_at = placed_at WHERE hold_id = '`+hold.HoldID+`'`)
	auditor.found(lifecycle.LogStateDiffers, "{class}", lifecycle.LogStateDiffers, hold.HoldID)
}

// unindexing is a store that may not give leaves their index.
type unindexing struct{ lifecycle.Store }

func (s *unindexing) Sequence(context.Context) (int64, error) { return 0, lifecycle.ErrLocked }
func (s *unindexing) Close() error                            { return nil }

// What can be done to the log in a vault, past its lock, is found there; what can be
// done in spite of the lock hides nothing.
func TestVerifyLogInVaults(t *testing.T) {
	ctx := t.Context()
	keys := func(v *memvault.Vault, prefix string) (out []string) {
		for x, err := range v.Versions(ctx, prefix) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, x.Key)
		}
		return out
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for name, do := range map[string]func(l *logged, second *memvault.Vault) []string{
		"a bit of a tile is flipped": func(_ *logged, v *memvault.Vault) []string {
			key := newest(t, keys(v, "log/tile/0/"))
			if err := v.Tamper(key, "", flip); err != nil {
				t.Fatal(err)
			}
			return []string{audit.FoundTile, key}
		},
		"a bit of an entry is flipped": func(_ *logged, v *memvault.Vault) []string {
			key := newest(t, keys(v, "log/tile/entries/"))
			if err := v.Tamper(key, "", flip); err != nil {
				t.Fatal(err)
			}
			return []string{audit.FoundEntry, key}
		},
		"a bit of a checkpoint is flipped": func(_ *logged, v *memvault.Vault) []string {
			key := keys(v, audit.CheckpointPrefix)[0]
			if err := v.Tamper(key, "", func(b []byte) []byte { return bytes.Replace(b, []byte("\n"), []byte("0\n"), 1) }); err != nil {
				t.Fatal(err)
			}
			return []string{audit.FoundSignature, "vault second"}
		},
		"an object is gone": func(_ *logged, v *memvault.Vault) []string {
			key := newest(t, keys(v, "log/tile/entries/"))
			v.Drop(key)
			return []string{audit.FoundMissing, key}
		},
		"a checkpoint under another key is put on top": func(_ *logged, v *memvault.Vault) []string {
			key := keys(v, audit.CheckpointPrefix)[0]
			v.ForcePut(key, foreign(t, 3))
			return []string{audit.FoundSignature, "vault second"}
		},
		"a greater checkpoint under another key": func(_ *logged, v *memvault.Vault) []string {
			v.ForcePut(audit.CheckpointKey(1000), foreign(t, 1000))
			return []string{audit.FoundSignature, "vault second"}
		},
		"the vault is rolled back": func(l *logged, v *memvault.Vault) []string {
			for _, key := range keys(v, audit.CheckpointPrefix)[:2] {
				v.Drop(key)
			}
			return []string{lifecycle.LogMissing, "vault second"}
		},
		"the vault is empty": func(l *logged, v *memvault.Vault) []string {
			for _, key := range keys(v, audit.Prefix) {
				v.Drop(key)
			}
			return []string{lifecycle.LogMissing, "vault second"}
		},
		"something is put on top of everything": func(_ *logged, v *memvault.Vault) []string {
			for _, key := range keys(v, "log/tile/") {
				v.ForcePut(key, []byte("something else"))
			}
			return nil
		},
		"a delete marker is on top of everything": func(_ *logged, v *memvault.Vault) []string {
			for _, key := range keys(v, audit.Prefix) {
				v.DeleteLatest(key)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := addLife(t, newWorld(t))
			l.t = t
			second := l.Vaults[1].(*memvault.Vault)
			l.found(do(l, second)...)
		})
	}
}

// newest is the last of the keys: of partial tiles the widest, since the log is small.
func newest(t *testing.T, keys []string) string {
	t.Helper()
	if len(keys) == 0 {
		t.Fatal("there is none")
	}
	return slices.MaxFunc(keys, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
}

// foreign is a checkpoint that another key has signed in the log's name.
func foreign(t *testing.T, size int64) []byte {
	t.Helper()
	c := audit.Checkpoint{Origin: storetest.LogSigner().Name(), Size: size}
	signer, _ := otherKey(t)
	b, err := c.Sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A database that another has grown from is told by its root, in so many words.
func TestForkIsProved(t *testing.T) {
	l := addLife(t, newWorld(t))
	raw(t, l.world, `UPDATE leaves SET actor = 'somebody' WHERE leaf_id = `+l.ids["placed"])
	res, err := l.VerifyLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(res.Findings, func(f lifecycle.LogFinding) bool { return f.Kind == lifecycle.LogForked })
	if i < 0 || len(res.Findings[i].Proof) != 2 || !strings.HasPrefix(res.Findings[i].Proof[0], storetest.LogSigner().Name()+"\n") {
		t.Fatalf("%+v", res.Findings)
	}
	// The entry as it was published, and as it is now.
	i = slices.IndexFunc(res.Findings, func(f lifecycle.LogFinding) bool { return f.Kind == lifecycle.LogChanged })
	if p := res.Findings[i].Proof; len(p) != 2 || !strings.Contains(p[0], `"actor":"tester"`) || !strings.Contains(p[1], `"actor":"somebody"`) {
		t.Errorf("%q", p)
	}
}

// A record's proof holds without the database, and no longer when any of it is changed.
func TestProofOfARecord(t *testing.T) {
	l := addLife(t, newWorld(t))
	for id, want := range map[string][]string{
		"old-1":   {lifecycle.ActionIngested, lifecycle.ActionStaged, lifecycle.ActionVerified, lifecycle.ActionArchived, lifecycle.ActionSettled, lifecycle.ActionShredIntent, lifecycle.ActionShredExecuting, lifecycle.ActionShredded},
		"young-1": {lifecycle.ActionIngested},
	} {
		p, err := l.ProveRecord(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var actions []string
		for _, s := range p.Steps {
			actions = append(actions, s.Action)
		}
		if !slices.Equal(actions, want) || p.Pending != 0 {
			t.Errorf("%s: %q, %d not published", id, actions, p.Pending)
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		check := func(b []byte, key string) error {
			var p lifecycle.RecordProof
			if err := json.Unmarshal(b, &p); err != nil {
				return err
			}
			return p.Check(key)
		}
		if err := check(b, storetest.LogKey); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if _, other := otherKey(t); check(b, other) == nil {
			t.Errorf("%s: it holds under another key", id)
		}
		sum := []byte(p.Checksum)
		sum[5] ^= 1
		if check(bytes.Replace(b, []byte(p.Checksum), sum, 1), storetest.LogKey) == nil {
			t.Errorf("%s: it holds for another checksum", id)
		}
	}
}

// otherKey is another key in the log's name.
func otherKey(t *testing.T) (note.Signer, string) {
	t.Helper()
	secret, public, err := audit.NewKey(rand.NewChaCha8([32]byte{1}), storetest.LogSigner().Name())
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return s, public
}
