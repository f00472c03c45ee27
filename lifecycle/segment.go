package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/shred"
)

// identityLabel binds a wrapped identity to its segment.
func identityLabel(segment string) string { return "segment-identity " + segment }

// indexOf is what a manifest says of a record beside its checksum: enough to
// rebuild the record's row. It is printed member by member, since a sweep prints
// one for each record.
func indexOf(r *Row) json.RawMessage {
	b := make([]byte, 0, 512)
	text := func(v string) { b, _ = jsontext.AppendQuote(b, v) } // what is not UTF-8 becomes U+FFFD
	member := func(name, v string) {
		b = append(b, name...)
		text(v)
	}
	member(`{"traceability_lot_code":`, r.TLC)
	member(`,"tlc_source":`, r.TLCSource)
	member(`,"event_type":`, string(r.EventType))
	member(`,"event_timestamp":`, cte.FormatTime(r.EventTimestamp))
	member(`,"created_or_obtained_at":`, cte.FormatTime(r.CreatedOrObtainedAt))
	member(`,"due_at":`, cte.FormatTime(r.DueAt))
	member(`,"purge_not_before":`, cte.FormatTime(r.PurgeNotBefore))
	member(`,"location":`, r.Location)
	member(`,"product":`, r.Product)
	member(`,"content_identity":`, hexOf(r.Content))
	for i, gap := range r.Gaps {
		member([]string{`,"gaps":[`, `,`}[min(i, 1)], gap)
	}
	if len(r.Gaps) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

// archive moves what is due and not held into segments, one archive class
// after the other, each in due order. Held records are passed over page by
// page, so however many there are, those behind them get their turn.
//
// Three goroutines share the work, and nothing else: one reads, unseals and packs
// a segment, the next stages it, puts it into the vaults and verifies what is read
// back, and this one soft-deletes and settles. A segment goes from one to the next
// without a buffer, so there are three in memory at most, the last as a list of its
// members; and each step takes them in the order they were packed. When a step
// fails nothing new is begun. What is on its way is brought to the end of its step,
// and is left there for recovery: a verified segment, or no trace at all.
func (s *sweep) archive(ctx context.Context) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	p := &packer{sweep: s}
	packed, verified := make(chan *segment), make(chan *segment)
	var packErr, storeErr, settleErr error
	go func() {
		defer close(packed)
		packErr = p.pack(working, packed)
	}()
	go func() {
		defer close(verified)
		for g := range packed {
			if storeErr == nil {
				storeErr = working.Err()
			}
			if storeErr == nil {
				storeErr = s.store(ctx, g)
			}
			if storeErr != nil {
				stop()
				continue
			}
			verified <- g
		}
	}()
	for g := range verified {
		if settleErr != nil {
			continue
		}
		if settleErr = s.finish(ctx, g); settleErr != nil {
			stop()
		}
	}
	// The others are gone.
	s.res.Due, s.res.Held, s.res.LotActive, s.res.StoppedEarly = p.due, s.res.Held+p.held, p.lotActive, p.stopped
	// The fault of the oldest segment, and not what the others were stopped with.
	return cmp.Or(settleErr, storeErr, packErr)
}

// packer is the part of archive that reads. While it runs it has the keyring and
// the failed records to itself.
type packer struct {
	*sweep
	due, held, lotActive int
	stopped              bool // there was more, and no time for it
}

func (p *packer) pack(ctx context.Context, packed chan<- *segment) error {
	classes, err := p.Store.DueClasses(ctx, p.now)
	if err != nil {
		return err
	}
	for _, class := range classes {
		if err := p.packClass(ctx, class, packed); err != nil || p.stopped {
			return err
		}
	}
	return nil
}

func (p *packer) packClass(ctx context.Context, class string, packed chan<- *segment) error {
	var b *builder
	lots := newActiveLots(p.policy, p.now)
	for after := (Cursor{}); ; {
		page, err := p.Store.DuePage(ctx, class, p.now, after, p.Limits.BatchRecords, p.Limits.BatchBytes)
		if err != nil {
			return err
		}
		if err := lots.look(ctx, p.Store, len(page), func(i int) *Row { return &page[i].Row }); err != nil {
			return err
		}
		for i := range page {
			r := &page[i]
			after = Cursor{r.DueAt, r.Seq}
			if b == nil && !p.deadline.IsZero() && p.Now().After(p.deadline) {
				p.stopped = true
				return nil
			}
			switch d := Decide(&r.Row, p.holds, lots, p.now); d.Action {
			case Keep:
				continue
			case Defer:
				p.due++
				if d.held() {
					p.held++
				} else {
					p.lotActive++
				}
				continue
			}
			p.due++
			line, err := p.keys.unseal(ctx, r)
			if errors.Is(err, shred.ErrDestroyed) || errors.Is(err, shred.ErrAuthentication) || errors.Is(err, errChecksum) {
				p.fail(&r.Row, err)
				continue
			}
			if err != nil {
				return err
			}
			if b == nil {
				if b, err = p.newSegment(class); err != nil {
					return err
				}
			}
			if err := b.w.Write(r.RecordID, line, indexOf(&r.Row)); err != nil {
				return fmt.Errorf("couldn't write record %s to segment %s: %w", r.RecordID, b.id, err)
			}
			if b.w.Records() >= p.segmentRecords(p.policy) || b.w.PlaintextBytes() >= p.Limits.SegmentBytes {
				if err := p.hand(ctx, b, packed); err != nil {
					return err
				}
				b = nil
			}
		}
		if len(page) == 0 {
			if b != nil {
				return p.hand(ctx, b, packed)
			}
			return nil
		}
	}
}

// hand seals what was packed and hands it over.
func (p *packer) hand(ctx context.Context, b *builder, packed chan<- *segment) error {
	g, err := p.describe(ctx, b)
	if err != nil {
		return err
	}
	select {
	case packed <- g:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errChecksum: a record's line is not the one that its row names.
var errChecksum = errors.New("the record does not match its checksum")

// unseal opens a hot record and checks it against its row. What is archived is
// what was taken in, or it is not archived.
func (k *keyring) unseal(ctx context.Context, r *Sealed) ([]byte, error) {
	if r.WrappedDEK == nil {
		return nil, fmt.Errorf("record %s has no DEK in the hot store: %w", r.RecordID, shred.ErrDestroyed)
	}
	key, err := k.key(ctx, r.Class)
	if err != nil {
		return nil, err
	}
	dek, err := key.Unwrap(r.WrappedDEK, r.RecordID)
	if err != nil {
		return nil, fmt.Errorf("couldn't unwrap the DEK of record %s: %w", r.RecordID, err)
	}
	line, err := shred.Open(dek, r.Payload, r.RecordID)
	if err != nil {
		return nil, fmt.Errorf("couldn't open record %s: %w", r.RecordID, err)
	}
	if cte.Checksum(line) != r.Checksum {
		return nil, fmt.Errorf("record %s: %w", r.RecordID, errChecksum)
	}
	return line, nil
}

// longestLock is for how many years a segment is locked that is never purged: less than
// the hundred that S3 knows.
const longestLock = 99

// builder is a segment being packed in memory.
type builder struct {
	id, class string
	why       string // its records are archived, as manifests say it
	secret    string
	recipient age.Recipient
	identity  age.Identity
	object    bytes.Buffer
	w         *archive.Writer
}

func (s *sweep) newSegment(class string) (*builder, error) {
	id, err := s.newID("seg", s.now)
	if err != nil {
		return nil, err
	}
	b := &builder{id: id, class: class, why: s.arithmetic()}
	if b.secret, b.recipient, err = archive.NewIdentity(s.Limits.Identity); err != nil {
		return nil, fmt.Errorf("couldn't make the identity of segment %s: %w", id, err)
	}
	if b.identity, _, err = archive.ParseIdentity(b.secret); err != nil {
		return nil, fmt.Errorf("couldn't make the identity of segment %s: %w", id, err)
	}
	if b.w, err = archive.NewWriter(&b.object, b.recipient); err != nil {
		return nil, fmt.Errorf("couldn't begin segment %s: %w", id, err)
	}
	return b, nil
}

// lockUntil is when the lock of a segment ends whose class is over at an instant: then,
// and never in less than MinLock.
func (e *Engine) lockUntil(end, now time.Time) time.Time {
	until := now.Add(e.Limits.MinLock)
	if end.Equal(latest) {
		// It is never purged, and no vault takes a lock without an end.
		until = now.AddDate(longestLock, 0, 0)
	} else if end.After(until) {
		until = end
	}
	return archive.WholeSecond(until)
}

// segment is a packed segment: what goes into the vaults, and what must come
// back out of them; once it is verified, its members alone.
type segment struct {
	Segment
	object, manifest []byte
	entries          []archive.Entry // without their index
	identity         age.Identity
	members          []Member
}

// stage commits a packed segment's row and puts it into the vaults. The row first: an
// object without a row would be an orphan nobody knows.
func (s *sweep) stage(ctx context.Context, g *segment) ([]Copy, error) {
	leaf := s.leaf(s.Now(), ActionStaged, s.lease.RunID, g.ID, map[string]any{
		"class": g.Class, "records": g.Records, "object_sha256": hexOf(g.ObjectSHA256), "merkle_root": hexOf(g.Root),
		"object_key": g.ObjectKey, "manifest_key": g.ManifestKey, "manifest_sha256": hexOf(g.ManifestSHA256)})
	if err := s.Store.StageSegment(ctx, s.lease, g.Segment, leaf); err != nil {
		return nil, err
	}
	copies, err := s.put(ctx, &g.Segment, g.object, g.manifest)
	g.object, g.manifest = nil, nil // the vaults have them
	return copies, err
}

// store takes a packed segment to where it counts: stage, put, read back, verify.
func (s *sweep) store(ctx context.Context, g *segment) error {
	copies, err := s.stage(ctx, g)
	if err != nil {
		return err
	}
	// What was packed is not trusted with what it was packed from: the
	// checksums are read from the hot store once more, by a statement of
	// their own.
	if g.members, err = s.members(ctx, g.entries); err != nil {
		return err
	}
	err = s.verify(ctx, &g.Segment, copies, g.entries, g.identity)
	g.entries = nil
	return err
}

// finish soft-deletes and settles a verified segment.
func (s *sweep) finish(ctx context.Context, g *segment) error {
	archived, err := s.settle(ctx, &g.Segment, g.members)
	s.res.Archived += archived
	s.res.Segments++
	if err != nil {
		return err
	}
	// A hold that came in between kept the others hot.
	s.res.Held += g.Records - archived
	s.progress("archive", s.res.Archived)
	return nil
}

// describe seals what was packed and makes the segment's row and its manifest.
func (s *sweep) describe(ctx context.Context, b *builder) (*segment, error) {
	sealed, err := b.w.Close()
	if err != nil {
		return nil, fmt.Errorf("couldn't seal segment %s: %w", b.id, err)
	}
	key, err := s.keys.key(ctx, b.class)
	if err != nil {
		return nil, err
	}
	wrapped, err := key.WrapSecret(s.rand(), []byte(b.secret), identityLabel(b.id))
	if err != nil {
		return nil, fmt.Errorf("couldn't wrap the identity of segment %s: %w", b.id, err)
	}
	end, err := classEnd(b.class)
	if err != nil {
		return nil, err
	}
	until := s.lockUntil(end, s.now)
	m := archive.Manifest{
		Format: archive.ManifestFormat, SegmentID: b.id, Class: b.class, Records: len(sealed.Entries), Bytes: sealed.PlaintextSize,
		ObjectKey: archive.ObjectKey(b.class, b.id), ObjectSize: sealed.ObjectSize, ObjectSHA256: sealed.ObjectSHA256, PlaintextSHA256: sealed.PlaintextSHA256,
		Root: sealed.Root, WrappedIdentity: wrapped, Recipient: fmt.Sprint(b.recipient), RetainUntil: until, CreatedAt: s.now,
		Policy: s.policy.Name(), PolicyHash: s.policy.Hash(),
		Cutoff:  b.why,
		Sweeper: s.Actor, RunID: s.lease.RunID, Software: s.Software, Entries: sealed.Entries,
	}
	manifest := m.Encode()
	// From here on the manifest has the index columns: the largest part of
	// what a segment keeps in memory.
	for i := range sealed.Entries {
		sealed.Entries[i].Index = nil
	}
	return &segment{
		Segment: Segment{
			ID: b.id, Class: b.class, State: Staged, RunID: s.lease.RunID, Records: len(sealed.Entries),
			ObjectKey: m.ObjectKey, ObjectSize: sealed.ObjectSize, ObjectSHA256: sealed.ObjectSHA256, PlaintextSHA256: sealed.PlaintextSHA256, Root: sealed.Root,
			ManifestKey: archive.ManifestKey(b.class, b.id), ManifestSize: int64(len(manifest)), ManifestSHA256: cte.Checksum(manifest),
			WrappedIdentity: wrapped, RetainUntil: until, CreatedAt: s.now,
		},
		object: b.object.Bytes(), manifest: manifest, entries: sealed.Entries, identity: b.identity,
	}, nil
}

// put stores object and manifest in every vault that counts and returns the
// copies, none of them verified yet.
func (s *sweep) put(ctx context.Context, g *Segment, object, manifest []byte) ([]Copy, error) {
	copies := make([]Copy, len(s.vaults))
	for i, v := range s.vaults {
		var err error
		if copies[i], err = putCopy(ctx, v, g, object, manifest); err != nil {
			return nil, fmt.Errorf("segment %s: %w", g.ID, err)
		}
	}
	return copies, distinct(g, copies)
}

// putCopy stores object and manifest in one vault, locked until g.RetainUntil.
// The version ids in the copy are recorded and used ever after.
func putCopy(ctx context.Context, v archive.Vault, g *Segment, object, manifest []byte) (Copy, error) {
	c := Copy{Vault: v.Name(), RetainUntil: g.RetainUntil}
	var err error
	if c.ObjectVersion, err = putOne(ctx, v, g.ObjectKey, object, g.ObjectSHA256, g.RetainUntil); err != nil {
		return c, err
	}
	c.ManifestVersion, err = putOne(ctx, v, g.ManifestKey, manifest, g.ManifestSHA256, g.RetainUntil)
	return c, err
}

// putOne returns the version that it has stored, or the one that is there already
// and has the same bytes: a run that was cut off has put it, perhaps long ago, so its
// lock is made as long as a new one's. errMismatch: something else is there.
func putOne(ctx context.Context, v archive.Vault, key string, body []byte, sum [32]byte, until time.Time) (string, error) {
	version, err := v.Put(ctx, key, bytes.NewReader(body), archive.PutOptions{
		SHA256: sum, Size: int64(len(body)), Mode: archive.Compliance, RetainUntil: until})
	if !errors.Is(err, archive.ErrExists) {
		return version.VersionID, err
	}
	r, info, err := v.Get(ctx, key, "")
	if err != nil {
		return "", fmt.Errorf("couldn't read what is there already, %s in vault %s: %w", key, v.Name(), err)
	}
	there, err := io.ReadAll(io.LimitReader(r, int64(len(body))+1))
	r.Close()
	if err != nil {
		return "", fmt.Errorf("couldn't read what is there already, %s in vault %s: %w", key, v.Name(), err)
	}
	// Before its lock is touched: nobody's object is to be made undeletable.
	if cte.Checksum(there) != sum {
		return "", fmt.Errorf("%s in vault %s is there already, and is another object: %w", key, v.Name(), errMismatch)
	}
	if info.RetainUntil.Before(until) {
		if err := v.Retain(ctx, key, info.VersionID, until); err != nil {
			return "", fmt.Errorf("couldn't lengthen the lock of %s in vault %s: %w", key, v.Name(), err)
		}
	}
	return info.VersionID, nil
}

// distinct refuses copies that are one object: version ids are unique, so two vaults
// that give the same are two names of one place, and one copy would count as two.
func distinct(g *Segment, copies []Copy) error {
	by := map[string]string{}
	for _, c := range copies {
		if other, ok := by[c.ObjectVersion]; ok {
			return &Refused{"vault", fmt.Sprintf("vaults %s and %s are one place: both have version %s of %s", other, c.Vault, c.ObjectVersion, g.ObjectKey),
				"give each vault a place of its own in the configuration"}
		}
		by[c.ObjectVersion] = c.Vault
	}
	return nil
}

// lockFor makes a segment's retention as long as that of a new one would be at least.
func (e *Engine) lockFor(g *Segment, now time.Time) {
	if least := archive.WholeSecond(now.Add(e.Limits.MinLock)); g.RetainUntil.Before(least) {
		g.RetainUntil = least
	}
}

// members pairs a segment's entries with the checksums that the hot store has
// now. All of them must be there and agree.
func (s *sweep) members(ctx context.Context, entries []archive.Entry) ([]Member, error) {
	members := make([]Member, 0, len(entries))
	for start := 0; start < len(entries); start += s.Limits.BatchRecords {
		part := entries[start:min(start+s.Limits.BatchRecords, len(entries))]
		ids := make([]string, len(part))
		for i, en := range part {
			ids[i] = en.RecordID
		}
		sums, err := s.Store.Checksums(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, en := range part {
			sum, ok := sums[en.RecordID]
			if !ok || hexOf(sum) != en.Checksum {
				return nil, fmt.Errorf("record %s in the hot store is not the one that was packed: %w", en.RecordID, errChecksum)
			}
			members = append(members, Member{en.RecordID, sum})
		}
	}
	return members, nil
}

// verify reads the segment back from every vault, compares all of it, and only
// then moves it from staged to verified.
func (s *sweep) verify(ctx context.Context, g *Segment, copies []Copy, entries []archive.Entry, identity age.Identity) error {
	for i, v := range s.vaults {
		if err := checkCopy(ctx, v, g, copies[i], entries, identity); err != nil {
			return err
		}
		copies[i].VerifiedAt = s.Now().UTC()
	}
	g.Copies = copies
	leaf := s.leaf(s.Now(), ActionVerified, s.lease.RunID, g.ID, map[string]any{
		"class": g.Class, "object_key": g.ObjectKey, "object_sha256": hexOf(g.ObjectSHA256), "copies": g.Copies})
	if err := s.Store.VerifySegment(ctx, s.lease, g.ID, g.Copies, leaf); err != nil {
		return err
	}
	g.State = Verified
	return nil
}

// expect says what a copy of a segment has to be, by its row.
func expect(g *Segment, c Copy, entries []archive.Entry) archive.Expect {
	return archive.Expect{
		SegmentID:   g.ID,
		Object:      archive.File{Key: g.ObjectKey, VersionID: c.ObjectVersion, SHA256: g.ObjectSHA256, Size: g.ObjectSize},
		Manifest:    archive.File{Key: g.ManifestKey, VersionID: c.ManifestVersion, SHA256: g.ManifestSHA256, Size: g.ManifestSize},
		RetainUntil: c.RetainUntil, Entries: entries,
	}
}

// errMismatch: a copy is not what was put there.
var errMismatch = errors.New("the copy read back is not what was archived")

func checkCopy(ctx context.Context, v archive.Vault, g *Segment, c Copy, entries []archive.Entry, identity age.Identity) error {
	found, err := archive.VerifyCopy(ctx, v, expect(g, c, entries), identity)
	if err != nil {
		return fmt.Errorf("couldn't read back segment %s from vault %s: %w", g.ID, v.Name(), err)
	}
	if len(found) > 0 {
		m := found[0]
		return fmt.Errorf("vault %s, %s: %w (%d findings, the first: %s, expected %s, read %s)", v.Name(), m.Key, errMismatch, len(found), m.Kind, m.Expected, m.Actual)
	}
	return nil
}

// settle soft-deletes the members of a verified segment and settles it. A member
// that is held, or no longer active, stays as it is.
func (s *sweep) settle(ctx context.Context, g *Segment, members []Member) (archived int, err error) {
	for len(members) > 0 {
		part := members[:min(len(members), s.lockRecords())]
		members = members[len(part):]
		leaf := s.leaf(s.Now(), ActionArchived, s.lease.RunID, g.ID, map[string]any{
			"first": part[0].RecordID, "last": part[len(part)-1].RecordID, "object_sha256": hexOf(g.ObjectSHA256), "merkle_root": hexOf(g.Root), "cutoff": s.arithmetic(),
			"policy_hash": s.policy.Hash(), "copies": g.Copies})
		done, err := s.Store.SoftDelete(ctx, s.lease, g.ID, s.now, part, leaf)
		archived += done.Records
		s.pace.took(len(part), done.Locked)
		if err != nil {
			return archived, err
		}
	}
	leaf := s.leaf(s.Now(), ActionSettled, s.lease.RunID, g.ID, map[string]any{"archived": archived})
	return archived, s.Store.SettleSegment(ctx, s.lease, g.ID, leaf)
}

// lockRecords is how many records are soft-deleted while a hold waits. A scope that
// names neither a record nor a lot is compared with each of them, so the more there
// are of those, the fewer records.
func (s *sweep) lockRecords() int {
	const usual = 10 // such scopes, which cost about as much as all the rest
	return s.pace.records(max(1, s.Limits.LockRecords*usual/max(usual, len(s.holds.rest))))
}

// classEnd is when the month of an archive or hold class is over.
func classEnd(class string) (time.Time, error) {
	var year, mon, n int
	_, month, _ := strings.Cut(class, "-")
	if _, err := fmt.Sscanf(month, "%4d-%2d-%d", &year, &mon, &n); err != nil {
		return time.Time{}, fmt.Errorf("%q is not a class of segments: %w", class, err)
	}
	return ArchivePeriod(time.Date(year, time.Month(mon), 1, 0, 0, 0, 0, time.UTC)).Ends(), nil
}
