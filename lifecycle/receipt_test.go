package lifecycle_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/report"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// shredded is a world with a destroyed class of two records, out of which a held one
// was moved; one was exported before it was archived, and their segment's identity was
// given out after it.
func (w *world) shredded() (class string) {
	w.t.Helper()
	old := instant(w.t, "2022-09-14T08:30:00Z")
	w.ingest(record("a", "LOT-A", old), record("b", "LOT-B", old), record("held", "LOT-H", old))
	w.export(lifecycle.Query{RecordIDs: []string{"none"}})
	w.export(lifecycle.Query{TLC: "LOT-A"})
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	if res := w.sweep(); res.ShreddedClasses != 1 || res.Resealed != 1 || res.Archived != 2 {
		w.t.Fatalf("sweep: %+v", res)
	}
	v := w.view("a")
	if _, err := w.SegmentIdentity(context.Background(), v.Archive.Segment); err != nil {
		w.t.Fatal(err)
	}
	return v.Class
}

func (w *world) issue(class string) (lifecycle.Receipt, []byte) {
	w.t.Helper()
	r, msg, err := w.IssueReceipt(context.Background(), class)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, msg
}

func TestReceipt(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) { testReceipt(t, newWorld(t)) })
	t.Run("PostgreSQL", func(t *testing.T) {
		store, err := postgres.Create(t.Context(), postgres.Options{URL: pgtest.New(t).URL()}, 0, firstLeaf)
		if err != nil {
			t.Fatal(err)
		}
		testReceipt(t, newWorldOn(t, t.TempDir(), store))
	})
}

func testReceipt(t *testing.T, w *world) {
	class := w.shredded()
	key, err := w.LogKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, msg := w.issue(class)
	if r.Status != lifecycle.ReceiptPending || r.FinalAt != "" || len(r.Pending) != 1 || !strings.Contains(r.Pending[0], "no backup retention is configured") {
		t.Errorf("without a retention: %s %q %q", r.Status, r.FinalAt, r.Pending)
	}
	if r.ClassID != class || r.Kind != lifecycle.HotClass || r.Media.Records != 2 || r.Media.Moved != 1 || r.Media.KeyBytes != 32 || r.Media.Epoch == 0 {
		t.Errorf("what: %+v", r.Media)
	}
	if len(r.Media.Segments) != 1 || r.Media.Segments[0].Records != 2 || r.Media.Segments[0].ClassState != lifecycle.Open || len(r.Media.Segments[0].Objects) != 1 {
		t.Errorf("the archived copies: %+v", r.Media.Segments)
	}
	if s := r.Sanitization; r.Person.Actor != "tester" || s.Tool != "test" || s.RunID == "" || s.PolicyHash != w.Policy.Hash() || s.Technique != "cryptographic erase" || s.Verification == "" {
		t.Errorf("how, by whom: %+v %+v", r.Person, s)
	}
	// The intent was locked in a vault before the key was given up.
	if s := r.Steps; len(s) != 3 || s[0].Size > s[1].Index || s[0].Vault != "main" || s[1].Index >= s[2].Index {
		t.Errorf("steps: %+v", s)
	}
	if d := r.Disclosures; len(d) != 2 || d[0].Kind != lifecycle.DisclosedByExport || d[0].Records != 1 || *d[0].Given != 1 ||
		d[1].Kind != lifecycle.DisclosedByIdentity || d[1].Records != 2 || d[1].Index < 0 {
		t.Errorf("disclosures: %+v", d)
	}
	if all := strings.Join(r.NotCovered, "\n"); !strings.Contains(all, "archived copies of the records: 2") || !strings.Contains(all, "backups of the keyring") || !strings.Contains(all, "plain text") {
		t.Errorf("what it does not cover:\n%s", all)
	}

	// Anybody can read it with public tools, and the trail has its checksum.
	text, _, _ := bytes.Cut(msg, []byte("\n"))
	var read lifecycle.Receipt
	if err := json.Unmarshal(text, &read); err != nil || read.ClassID != class {
		t.Errorf("its first line: %v", err)
	}
	leaves, err := w.Store.Leaves(t.Context(), lifecycle.LeafQuery{Subject: class, Actions: []string{lifecycle.ActionReceipt}})
	sum := sha256.Sum256(msg)
	if err != nil || len(leaves) != 1 || !strings.Contains(string(leaves[0].Body), hex.EncodeToString(sum[:])) {
		t.Errorf("the trail: %v %v", leaves, err)
	}
	opened, err := lifecycle.OpenReceipt(msg, key)
	if err != nil || opened.ClassID != class {
		t.Fatalf("it does not open: %v", err)
	}
	for i := 0; i < len(text); i += 11 {
		changed := bytes.Clone(msg)
		changed[i] ^= 1
		if _, err := lifecycle.OpenReceipt(changed, key); !errors.Is(err, lifecycle.ErrReceipt) {
			t.Fatalf("changed at byte %d: %v", i, err)
		}
	}

	// Pending until the day on which the last backup is gone, final from then on.
	w.Limits.BackupRetention = 90 * 24 * time.Hour
	final := instant(t, "2027-02-20T00:00:00Z") // 90 days after 2026-11-21 10:00, and the rest of that day
	for _, c := range []struct {
		now  time.Time
		want lifecycle.ReceiptStatus
	}{{today, lifecycle.ReceiptPending}, {final.Add(-1), lifecycle.ReceiptPending}, {final, lifecycle.ReceiptFinal}} {
		w.now = c.now
		all, err := w.Receipts(t.Context())
		if err != nil || len(all) != 1 || all[0].Status != c.want || all[0].FinalAt != "2027-02-20T00:00:00Z" || (len(all[0].Pending) == 0) != (c.want == lifecycle.ReceiptFinal) {
			t.Errorf("at %s: %+v %v", c.now, all, err)
		}
	}
	if r, _ := w.issue(class); r.Status != lifecycle.ReceiptFinal || r.BackupRetentionDays != 90 {
		t.Errorf("the final receipt: %+v", r.ReceiptSummary)
	}
	w.verifyLog()
}

// A receipt that the log's key has signed, and that says something else than the log,
// does not hold.
func TestReceiptAgainstLog(t *testing.T) {
	w := newWorld(t)
	class := w.shredded()
	key, err := w.LogKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, _ := w.issue(class)
	for name, change := range map[string]func(*lifecycle.Receipt){
		"class":       func(r *lifecycle.Receipt) { r.ClassID = "hot-2024-09-14-1" },
		"person":      func(r *lifecycle.Receipt) { r.Person.Actor = "another" },
		"role":        func(r *lifecycle.Receipt) { r.Person.Role = "admin" },
		"time":        func(r *lifecycle.Receipt) { r.DestroyedAt = "2026-11-20T00:00:00Z" },
		"policy":      func(r *lifecycle.Receipt) { r.Sanitization.PolicyHash = strings.Repeat("0", 64) },
		"type":        func(r *lifecycle.Receipt) { r.Type = "" },
		"version":     func(r *lifecycle.Receipt) { r.V = 2 },
		"no proof":    func(r *lifecycle.Receipt) { r.Steps[2].Entry = nil },
		"a step less": func(r *lifecycle.Receipt) { r.Steps = r.Steps[:2] },
		"index":       func(r *lifecycle.Receipt) { r.Steps[1].Index++ },
		// As if the intent had been published when all was over.
		"late": func(r *lifecycle.Receipt) {
			r.Steps[1].Entry, r.Steps[1].Index = r.Steps[0].Entry, r.Steps[0].Index
		},
	} {
		wrong := r
		wrong.Steps = slices.Clone(r.Steps)
		change(&wrong)
		text, err := json.Marshal(wrong)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := note.Sign(&note.Note{Text: string(text) + "\n"}, storetest.LogSigner())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lifecycle.OpenReceipt(msg, key); !errors.Is(err, lifecycle.ErrReceipt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is not destroyed has no receipt, and what an older keyring has brought back has
// none either; the new end of it counts.
func TestReceiptRefused(t *testing.T) {
	w, ring := keyringWorld(t)
	w.Limits.BackupRetention = 24 * time.Hour
	w.ingest(record("old", "L", instant(t, "2022-09-14T08:30:00Z")))
	refused := func(class string) string {
		t.Helper()
		_, _, err := w.IssueReceipt(t.Context(), class)
		r, ok := lifecycle.IsRefused(err)
		if !ok {
			t.Fatalf("the receipt of %s: %v", class, err)
		}
		return r.Reason
	}
	class := w.view("old").Class
	if got := refused(class); !strings.Contains(got, "is open: its key is not destroyed") {
		t.Error(got)
	}
	if _, err := w.Receipt(t.Context(), "hot-1999-01-01-1"); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Error(err)
	}
	copyTree(t, ring+".older", ring)
	w.sweep()
	signer := w.LogSigner
	w.LogSigner = nil
	if got := refused(class); !strings.Contains(got, "no key to sign") {
		t.Error(got)
	}
	w.LogSigner = signer
	r, _ := w.issue(class)
	if r.FinalAt != "2026-11-23T00:00:00Z" || len(r.Media.Copies) != 1 || r.Media.Copies[0].Path != ring {
		t.Errorf("%+v", r)
	}

	w.putBack(ring, ring+".older")
	w.now = w.now.AddDate(0, 0, 5)
	if got := refused(class); !strings.Contains(got, "older keyring") {
		t.Error(got)
	}
	all, err := w.Receipts(t.Context())
	if err != nil || len(all) != 1 || all[0].Status != lifecycle.ReceiptPending {
		t.Errorf("the list: %+v %v", all, err)
	}
	if _, err := w.RecoverKeyring(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, _ = w.issue(class); r.Status != lifecycle.ReceiptPending || r.FinalAt != "2026-11-28T00:00:00Z" || len(r.Again) != 1 || r.DestroyedAt != "2026-11-21T10:00:00Z" {
		t.Errorf("destroyed again: %+v %+v", r.ReceiptSummary, r.Again)
	}
}

// The certificate shows what the receipt says, has the signed receipt attached, and is
// the same each time.
func TestReceiptPDF(t *testing.T) {
	w := newWorld(t)
	w.Actor = `Jörg "(中)" \`
	class := w.shredded()
	r, msg := w.issue(class)
	var pdf, again bytes.Buffer
	if err := errors.Join(report.ReceiptPDF(&pdf, &r, msg), report.ReceiptPDF(&again, &r, msg)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pdf.Bytes(), again.Bytes()) {
		t.Error("two prints of one receipt differ")
	}
	text, streams := pdfText(t, pdf.Bytes())
	sum := sha256.Sum256(msg)
	for _, want := range []string{
		"Certificate of sanitization", "PENDING", "no backup retention is configured", class, "2 records; moved to later keys before: 1", "cryptographic erase",
		"could not be opened afterwards", "2026-11-21 10:00:00Z", r.Sanitization.RunID, r.Sanitization.PolicyHash, r.LogKey, `Jörg "(<U+4E2D>)" \`,
		"shred-intent is entry", r.Media.Segments[0].SegmentID, "exported at most 1 record", "was given what opens", "backups of the keyring", "Attested by", "page 1 of 1",
		hex.EncodeToString(sum[:]),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if !slices.ContainsFunc(streams, func(s []byte) bool { return bytes.Equal(s, msg) }) {
		t.Error("the signed receipt is not attached")
	}
	if t.Failed() {
		t.Log(text)
	}
}

// pdfText gives the text of a file's pages, and all of its compressed streams.
func pdfText(t *testing.T, pdf []byte) (text string, streams [][]byte) {
	t.Helper()
	for _, part := range bytes.Split(pdf, []byte("stream\n"))[1:] {
		z, err := zlib.NewReader(bytes.NewReader(part))
		if err != nil {
			continue
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, b)
		for {
			_, rest, ok := bytes.Cut(b, []byte("("))
			if !ok {
				break
			}
			var line []byte
			i := 0
			for ; i < len(rest) && rest[i] != ')'; i++ {
				if rest[i] == '\\' {
					i++
				}
				line = append(line, rest[i])
			}
			b = rest[i:]
			if bytes.HasPrefix(b, []byte(") Tj")) || bytes.HasPrefix(b, []byte(")Tj")) {
				units := []uint16{}
				for j := 0; j+1 < len(line); j += 2 {
					units = append(units, uint16(line[j])<<8|uint16(line[j+1]))
				}
				text += string(utf16.Decode(units)) + " "
			}
		}
	}
	return text, streams
}
