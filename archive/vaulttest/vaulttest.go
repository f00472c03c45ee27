// Package vaulttest is the suite that every archive.Vault has to pass, real
// stores and fakes alike. Its vocabulary is that of package archive.
//
// A vault's test file is a few lines:
//
//	func TestVault(t *testing.T) {
//		vaulttest.Exercise(t, func(t *testing.T) vaulttest.Harness { … })
//	}
package vaulttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
)

// A Harness is a vault with a hand on its clock.
type Harness struct {
	Vault archive.Vault

	// Advance returns once the vault's own clock has moved on by at least d.
	// Where the clock is real, it waits.
	Advance func(d time.Duration)

	// Retention is how long the suite locks objects that it wants to see
	// locked, and then unlocked. With a real clock it has to be longer than a
	// handful of calls takes on a bad day, and is waited for.
	Retention time.Duration

	// Parallel: Advance moves no clock that another test looks at, so that the
	// tests may run side by side. With a real clock most of their time is
	// waiting.
	Parallel bool
}

// Exercise runs the suite. open is called for each test with that test's t, and
// may return a vault with other objects in it: the suite uses keys of its own
// and leaves locked objects behind, none locked for more than a few Retentions.
func Exercise(t *testing.T, open func(t *testing.T) Harness) {
	tests := []struct {
		name string
		test func(*vault)
	}{
		{"Status", status},
		{"RoundTrip", roundTrip},
		{"Described", described},
		{"Exclusive", exclusive},
		{"ExclusiveConcurrent", exclusiveConcurrent},
		{"Checksum", checksum},
		{"RetentionRequired", retentionRequired},
		{"RetentionRoundsUp", retentionRoundsUp},
		{"RetentionEnds", retentionEnds},
		{"Retain", retain},
		{"LegalHold", legalHold},
		{"Versions", versions},
		{"NotFound", notFound},
		{"InvalidKeys", invalidKeys},
		{"Context", contextDone},
		{"Concurrent", concurrent},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := open(t)
			if h.Parallel {
				t.Parallel()
			}
			test.test(&vault{Harness: h, Vault: h.Vault, T: t, folder: "vaulttest-" + strings.ToLower(rand.Text())})
		})
	}
}

// A vault under test, with what the tests would otherwise repeat.
type vault struct {
	Harness
	archive.Vault
	*testing.T
	folder string // no other run uses it
}

func (v *vault) key(name string) string { return v.folder + "/" + name }

func (v *vault) now() time.Time {
	v.Helper()
	s, err := v.Status(v.Context())
	if err != nil {
		v.Fatalf("Status: %v", err)
	}
	return s.Now
}

func (v *vault) options(body []byte) archive.PutOptions {
	v.Helper()
	return archive.PutOptions{
		SHA256: sha256.Sum256(body), Size: int64(len(body)),
		Mode: archive.Compliance, RetainUntil: v.now().Add(v.Retention),
	}
}

func (v *vault) put(key string, body []byte) archive.Version {
	v.Helper()
	version, err := v.Put(v.Context(), key, bytes.NewReader(body), v.options(body))
	if err != nil {
		v.Fatalf("Put %s: %v", key, err)
	}
	if version.Key != key || version.VersionID == "" || version.Size != int64(len(body)) || version.DeleteMarker || !version.Latest {
		v.Fatalf("Put %s returned %+v", key, version)
	}
	return version
}

func (v *vault) stat(key, versionID string) archive.ObjectInfo {
	v.Helper()
	info, err := v.Stat(v.Context(), key, versionID)
	if err != nil {
		v.Fatalf("Stat %s %q: %v", key, versionID, err)
	}
	return info
}

// get reads a version and checks that Get describes it as Stat does.
func (v *vault) get(key, versionID string) []byte {
	v.Helper()
	r, info, err := v.Get(v.Context(), key, versionID)
	if err != nil {
		v.Fatalf("Get %s %q: %v", key, versionID, err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		v.Fatalf("Get %s %q: %v", key, versionID, err)
	}
	stat := v.stat(key, versionID)
	if versionID != "" { // then Latest may be unknown
		info.Latest = stat.Latest
	}
	if info != stat {
		v.Errorf("Get %.60s %q: described as\n%+v, by Stat as\n%+v", key, versionID, info, stat)
	}
	return b
}

// absent checks that nothing can be had or listed under a key.
func (v *vault) absent(key string) {
	v.Helper()
	if _, err := v.Stat(v.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
		v.Errorf("Stat %s: %v, want ErrNotFound", key, err)
	}
	if r, _, err := v.Get(v.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
		v.Errorf("Get %s: %v, want ErrNotFound", key, err)
		if err == nil {
			r.Close()
		}
	}
	if got := v.list(key); len(got) > 0 {
		v.Errorf("Versions lists %+v, want none", got)
	}
}

func (v *vault) list(prefix string) (all []archive.Version) {
	v.Helper()
	for version, err := range v.Versions(v.Context(), prefix) {
		if err != nil {
			v.Fatalf("Versions %s: %v", prefix, err)
		}
		all = append(all, version)
	}
	return all
}

func (v *vault) want(err, sentinel error, format string, args ...any) {
	v.Helper()
	if !errors.Is(err, sentinel) {
		v.Errorf("%s: %v, want %v", fmt.Sprintf(format, args...), err, sentinel)
	}
}

func (v *vault) ok(err error, format string, args ...any) {
	v.Helper()
	if err != nil {
		v.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

func status(v *vault) {
	if v.Name() == "" {
		v.Error("the vault has no name")
	}
	s, err := v.Status(v.Context())
	v.ok(err, "Status")
	if s.Lock != archive.LockCompliance && s.Lock != archive.LockAdvisory {
		v.Errorf("lock is %q", s.Lock)
	}
	before := s.Now
	v.Advance(2 * time.Second)
	if after := v.now(); after.Sub(before) < 2*time.Second {
		v.Errorf("the clock went from %v to %v over two seconds", before, after)
	}
}

func roundTrip(v *vault) {
	large := make([]byte, 5<<20+17)
	_, _ = rand.Read(large)
	for name, body := range map[string][]byte{
		"empty": {}, "small": []byte("sealed"), "newlines": []byte("\n\r\n\x00\n"), "large": large,
		strings.Repeat("x", 240): []byte("long name"),
	} {
		key := v.key(name + ".age")
		// The reader stands at its end: Put has to read from the start.
		r := bytes.NewReader(body)
		_, _ = r.Seek(0, io.SeekEnd)
		o := v.options(body)
		put, err := v.Put(v.Context(), key, r, o)
		v.ok(err, "Put %.40s", name)
		for _, versionID := range []string{"", put.VersionID} {
			if got := v.get(key, versionID); !bytes.Equal(got, body) {
				v.Errorf("%.40s: got %d bytes that are not the %d put", name, len(got), len(body))
			}
			info := v.stat(key, versionID)
			if versionID != "" {
				// S3 does not say of a version that was named whether it is
				// the current one (HeadObject has no such field).
				info.Latest = put.Latest
			}
			if info.Version != put {
				v.Errorf("%.40s: Stat has %+v, Put returned %+v", name, info.Version, put)
			}
			if info.Mode != archive.Compliance || info.LegalHold {
				v.Errorf("%.40s: mode %q, legal hold %v", name, info.Mode, info.LegalHold)
			}
			if info.SHA256 != [32]byte{} && info.SHA256 != o.SHA256 {
				v.Errorf("%.40s: recorded SHA-256 %x, want %x", name, info.SHA256, o.SHA256)
			}
		}
	}
}

// described: what Get says of a version follows its lock through every change,
// so that a copy can be read back without asking a second time. Each get
// compares it with Stat.
func described(v *vault) {
	for _, mode := range []archive.Mode{archive.Compliance, archive.Governance} {
		key, body := v.key(string(mode)+".age"), []byte("body")
		o := v.options(body)
		o.Mode = mode
		put, err := v.Put(v.Context(), key, bytes.NewReader(body), o)
		v.ok(err, "Put")
		check := func(until time.Time, held bool) {
			v.Helper()
			for _, versionID := range []string{"", put.VersionID} {
				v.get(key, versionID)
				r, info, err := v.Get(v.Context(), key, versionID)
				v.ok(err, "Get")
				v.ok(r.Close(), "closing a body that was not read")
				if info.Key != key || info.VersionID != put.VersionID || info.Size != put.Size || info.DeleteMarker {
					v.Errorf("described as %+v, put as %+v", info.Version, put)
				}
				if versionID == "" && !info.Latest {
					v.Errorf("the current version is described as %+v", info.Version)
				}
				if info.Mode != mode || !info.RetainUntil.Equal(until) || info.RetainUntil.Location() != time.UTC || info.LegalHold != held {
					v.Errorf("described as %+v, want %s until %v, legal hold %v", info, mode, until, held)
				}
			}
		}
		until := archive.WholeSecond(o.RetainUntil)
		check(until, false)
		v.ok(v.SetLegalHold(v.Context(), key, put.VersionID, true), "SetLegalHold")
		check(until, true)
		until = until.Add(time.Second)
		v.ok(v.Retain(v.Context(), key, put.VersionID, until), "Retain")
		check(until, true)
		v.ok(v.SetLegalHold(v.Context(), key, put.VersionID, false), "lifting the legal hold")
		check(until, false)
	}
}

func exclusive(v *vault) {
	key := v.key("once.age")
	first := v.put(key, []byte("first"))
	for _, again := range []string{"first", "second"} {
		_, err := v.Put(v.Context(), key, strings.NewReader(again), v.options([]byte(again)))
		v.want(err, archive.ErrExists, "second Put")
	}
	if got := v.get(key, ""); string(got) != "first" {
		v.Errorf("the object is now %q", got)
	}
	if got := v.list(key); !slices.Equal(got, []archive.Version{first}) {
		v.Errorf("versions are %+v, want the first alone", got)
	}
}

func exclusiveConcurrent(v *vault) {
	const n = 16
	key := v.key("race.age")
	var wg sync.WaitGroup
	var errs [n]error
	var put [n]archive.Version
	for i := range n {
		body := fmt.Appendf(nil, "body of %d", i)
		o := v.options(body)
		wg.Go(func() { put[i], errs[i] = v.Put(v.Context(), key, bytes.NewReader(body), o) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		if err == nil {
			if winner >= 0 {
				v.Errorf("both %d and %d have put the object", winner, i)
			}
			winner = i
			continue
		}
		v.want(err, archive.ErrExists, "Put %d", i)
	}
	if winner < 0 {
		v.Fatal("no Put succeeded")
	}
	if got, want := string(v.get(key, "")), fmt.Sprintf("body of %d", winner); got != want {
		v.Errorf("the object is %q, want %q", got, want)
	}
	if got := v.list(key); !slices.Equal(got, []archive.Version{put[winner]}) {
		v.Errorf("versions are %+v, want the winner's alone", got)
	}
}

func checksum(v *vault) {
	body := []byte("what was announced")
	for name, sent := range map[string]string{
		"flipped": "what was announcee", "short": "what was announce", "long": "what was announced.", "empty": "",
	} {
		key := v.key(name + ".age")
		_, err := v.Put(v.Context(), key, strings.NewReader(sent), v.options(body))
		v.want(err, archive.ErrChecksum, "Put of %s bytes", name)
		v.absent(key)
		v.put(key, body) // a refused Put leaves the key free
	}
	key := v.key("size.age")
	o := v.options(body)
	o.Size--
	_, err := v.Put(v.Context(), key, bytes.NewReader(body), o)
	v.want(err, archive.ErrChecksum, "Put with a wrong size")
	v.absent(key)
}

func retentionRequired(v *vault) {
	body := []byte("body")
	now := v.now()
	for name, until := range map[string]time.Time{
		"none": {}, "past": now.Add(-time.Hour), "years ago": now.AddDate(-2, 0, 0),
	} {
		key := v.key(strings.ReplaceAll(name, " ", "-") + ".age")
		o := v.options(body)
		o.RetainUntil = until
		_, err := v.Put(v.Context(), key, bytes.NewReader(body), o)
		v.want(err, archive.ErrRetainUntil, "Put with retain-until %s", name)
		v.absent(key)
	}
	for _, mode := range []archive.Mode{"", "compliance", "NONE"} {
		key := v.key("mode.age")
		o := v.options(body)
		o.Mode = mode
		_, err := v.Put(v.Context(), key, bytes.NewReader(body), o)
		v.want(err, archive.ErrLockUnsupported, "Put with mode %q", mode)
		v.absent(key)
	}
}

func retentionRoundsUp(v *vault) {
	base := v.now().Truncate(time.Second).Add(v.Retention.Truncate(time.Second) + time.Second)
	zone := time.FixedZone("", -7*3600)
	for i, until := range []time.Time{
		base, base.Add(1), base.Add(time.Millisecond), base.Add(500 * time.Millisecond), base.Add(time.Second - 1), base.In(zone),
	} {
		key := v.key(fmt.Sprintf("%d.age", i))
		o := v.options(nil)
		o.RetainUntil = until
		put, err := v.Put(v.Context(), key, bytes.NewReader(nil), o)
		v.ok(err, "Put")
		v.roundedUp(key, put.VersionID, until)
		until = until.Add(time.Second)
		v.ok(v.Retain(v.Context(), key, put.VersionID, until), "Retain")
		v.roundedUp(key, put.VersionID, until)
	}
}

// roundedUp: never earlier than asked, and not by more than a second later.
func (v *vault) roundedUp(key, versionID string, until time.Time) {
	v.Helper()
	got := v.stat(key, versionID).RetainUntil
	if got.Before(until) || got.Sub(until) >= time.Second {
		v.Errorf("asked for %v, retained until %v", until, got)
	}
	if got.Location() != time.UTC {
		v.Errorf("retain-until %v is not in UTC", got)
	}
}

func retentionEnds(v *vault) {
	for _, mode := range []archive.Mode{archive.Compliance, archive.Governance} {
		key, body := v.key(string(mode)+".age"), []byte("body")
		o := v.options(body)
		o.Mode = mode
		put, err := v.Put(v.Context(), key, bytes.NewReader(body), o)
		v.ok(err, "Put")
		if got := v.stat(key, "").Mode; got != mode {
			v.Errorf("mode is %q, want %q", got, mode)
		}
		v.want(v.Delete(v.Context(), key, put.VersionID), archive.ErrLocked, "Delete of a retained version")
		v.want(v.Delete(v.Context(), key, ""), archive.ErrNoVersionID, "Delete without a version id")
		if got := v.get(key, ""); !bytes.Equal(got, body) {
			v.Errorf("a refused Delete left %q", got)
		}
		v.Advance(v.Retention + time.Second)
		v.want(v.Delete(v.Context(), key, ""), archive.ErrNoVersionID, "Delete without a version id")
		v.ok(v.Delete(v.Context(), key, put.VersionID), "Delete of a version whose retention is over")
		v.absent(key)
		v.want(v.Delete(v.Context(), key, put.VersionID), archive.ErrNotFound, "Delete of a deleted version")
		again := v.put(key, []byte("again")) // the key is free again
		if again.VersionID == put.VersionID {
			v.Errorf("version id %s was given twice", again.VersionID)
		}
		_, _, err = v.Get(v.Context(), key, put.VersionID)
		v.want(err, archive.ErrNotFound, "Get of the deleted version")
	}
}

func retain(v *vault) {
	key := v.key("retained.age")
	put := v.put(key, []byte("body"))
	first := v.stat(key, "").RetainUntil

	v.want(v.Retain(v.Context(), key, put.VersionID, first.Add(-time.Second)), archive.ErrLocked, "shortening by a second")
	v.want(v.Retain(v.Context(), key, put.VersionID, v.now().Add(-time.Hour)), archive.ErrLocked, "shortening into the past")
	v.want(v.Retain(v.Context(), key, put.VersionID, time.Time{}), archive.ErrLocked, "lifting")
	v.want(v.Retain(v.Context(), key, "", first.Add(time.Second)), archive.ErrNoVersionID, "Retain without a version id")
	if got := v.stat(key, "").RetainUntil; !got.Equal(first) {
		v.Errorf("refused changes moved retain-until from %v to %v", first, got)
	}
	v.ok(v.Retain(v.Context(), key, put.VersionID, first), "Retain until the same time")

	longer := first.Add(v.Retention)
	v.ok(v.Retain(v.Context(), key, put.VersionID, longer), "lengthening")
	info := v.stat(key, "")
	if !info.RetainUntil.Equal(longer) || info.Mode != archive.Compliance {
		v.Errorf("lengthened to %v, got %v in mode %q", longer, info.RetainUntil, info.Mode)
	}
	if now := v.now(); now.Before(first) {
		v.Advance(first.Sub(now) + time.Second)
	}
	v.want(v.Delete(v.Context(), key, put.VersionID), archive.ErrLocked, "Delete after the first date, before the lengthened one")
	v.Advance(v.Retention + time.Second)
	v.ok(v.Delete(v.Context(), key, put.VersionID), "Delete after the lengthened date")
}

func legalHold(v *vault) {
	key := v.key("held.age")
	put := v.put(key, []byte("body"))
	until := v.stat(key, "").RetainUntil
	v.want(v.SetLegalHold(v.Context(), key, "", true), archive.ErrNoVersionID, "SetLegalHold without a version id")
	for range 2 { // setting twice is setting once
		v.ok(v.SetLegalHold(v.Context(), key, put.VersionID, true), "SetLegalHold")
		if info := v.stat(key, put.VersionID); !info.LegalHold || !info.RetainUntil.Equal(until) || info.Mode != archive.Compliance {
			v.Errorf("under legal hold: %+v", info)
		}
	}
	v.Advance(v.Retention + time.Second)
	v.want(v.Delete(v.Context(), key, put.VersionID), archive.ErrLocked, "Delete under legal hold, retention over")
	for range 2 {
		v.ok(v.SetLegalHold(v.Context(), key, put.VersionID, false), "lifting the legal hold")
	}
	if info := v.stat(key, ""); info.LegalHold || !info.RetainUntil.Equal(until) {
		v.Errorf("after the legal hold: %+v", info)
	}
	v.ok(v.Delete(v.Context(), key, put.VersionID), "Delete with neither")
	v.absent(key)

	// The other way round: lifting a hold does not lift a retention.
	put = v.put(key, []byte("body"))
	v.ok(v.SetLegalHold(v.Context(), key, put.VersionID, true), "SetLegalHold")
	v.ok(v.SetLegalHold(v.Context(), key, put.VersionID, false), "lifting the legal hold")
	v.want(v.Delete(v.Context(), key, put.VersionID), archive.ErrLocked, "Delete of a retained version")
}

func versions(v *vault) {
	// In byte order: '-' < '.' < '/' < '0', which is not how a walk through
	// folders meets them.
	names := []string{
		"a-b.age", "a.age", "a/1.age", "a/b/2.age", "a0.age", "b/1.age", "b/10.age", "b/2.age", "é.age",
	}
	if got := v.list(v.folder); len(got) > 0 {
		v.Fatalf("a new folder has %+v", got)
	}
	put := make(map[string]archive.Version)
	for i := range names {
		name := names[(i*4)%len(names)] // in another order than they are listed
		put[name] = v.put(v.key(name), []byte(name))
	}
	for _, test := range []struct {
		prefix string
		want   []string
	}{
		{"", names},
		{"a", names[:5]},
		{"a/", names[2:4]},
		{"a/b", names[3:4]},
		{"a/b/2.age", names[3:4]},
		{"b/1", names[5:7]},
		{"b/2.age", names[7:8]},
		{"b/2.age/", nil},
		{"c", nil},
		{"c/d", nil},
	} {
		var want []archive.Version
		for _, name := range test.want {
			want = append(want, put[name])
		}
		if got := v.list(v.key(test.prefix)); !slices.Equal(got, want) {
			v.Errorf("prefix %q lists\n%+v, want\n%+v", test.prefix, got, want)
		}
	}
	// Half a folder's name is a prefix like any other.
	if got := v.list(v.folder[:len(v.folder)-1]); len(got) != len(names) {
		v.Errorf("prefix %q lists %d versions, want %d", v.folder[:len(v.folder)-1], len(got), len(names))
	}
	// A consumer may stop, and may call the vault while it lists.
	for version, err := range v.Versions(v.Context(), v.folder) {
		v.ok(err, "Versions")
		v.stat(version.Key, version.VersionID)
		break
	}
}

func notFound(v *vault) {
	here := v.key("here.age")
	put := v.put(here, []byte("body"))
	elsewhere := v.put(v.key("elsewhere.age"), []byte("body"))
	for _, at := range []struct{ key, versionID string }{
		{v.key("nowhere.age"), ""},
		{v.key("no/such/folder.age"), ""},
		{v.key("nowhere.age"), put.VersionID},
		{here, elsewhere.VersionID},
		{here + "/below", ""},
		{v.folder, ""}, // a folder is not an object
	} {
		_, err := v.Stat(v.Context(), at.key, at.versionID)
		v.want(err, archive.ErrNotFound, "Stat %v", at)
		r, _, err := v.Get(v.Context(), at.key, at.versionID)
		v.want(err, archive.ErrNotFound, "Get %v", at)
		if err == nil {
			r.Close()
		}
		if at.versionID == "" {
			at.versionID = put.VersionID
		}
		v.want(v.Delete(v.Context(), at.key, at.versionID), archive.ErrNotFound, "Delete %v", at)
		v.want(v.Retain(v.Context(), at.key, at.versionID, v.now().Add(v.Retention)), archive.ErrNotFound, "Retain %v", at)
		v.want(v.SetLegalHold(v.Context(), at.key, at.versionID, true), archive.ErrNotFound, "SetLegalHold %v", at)
	}
	if info := v.stat(here, ""); info.LegalHold {
		v.Error("a call for another version took effect")
	}
}

func invalidKeys(v *vault) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a/..", ".hidden", "a/.lotkeeper/b",
		"a\x00b", "a\nb", `a\b`, "a\xffb", strings.Repeat("x", 251), strings.Repeat("x/", 512) + "x",
	} {
		_, err := v.Put(v.Context(), key, strings.NewReader(""), v.options(nil))
		v.want(err, archive.ErrInvalidKey, "Put %.40q", key)
		r, _, err := v.Get(v.Context(), key, "")
		v.want(err, archive.ErrInvalidKey, "Get %.40q", key)
		if err == nil {
			r.Close()
		}
		_, err = v.Stat(v.Context(), key, "")
		v.want(err, archive.ErrInvalidKey, "Stat %.40q", key)
		v.want(v.Retain(v.Context(), key, "x", v.now().Add(v.Retention)), archive.ErrInvalidKey, "Retain %.40q", key)
		v.want(v.SetLegalHold(v.Context(), key, "x", true), archive.ErrInvalidKey, "SetLegalHold %.40q", key)
		v.want(v.Delete(v.Context(), key, "x"), archive.ErrInvalidKey, "Delete %.40q", key)
	}
}

func contextDone(v *vault) {
	key := v.key("done.age")
	put := v.put(key, []byte("body"))
	o := v.options([]byte("new"))
	until := o.RetainUntil.Add(v.Retention)
	done, cancel := context.WithCancel(v.Context())
	cancel()

	_, err := v.Status(done)
	v.want(err, context.Canceled, "Status")
	_, err = v.Put(done, v.key("new.age"), strings.NewReader("new"), o)
	v.want(err, context.Canceled, "Put")
	v.absent(v.key("new.age"))
	_, _, err = v.Get(done, key, "")
	v.want(err, context.Canceled, "Get")
	_, err = v.Stat(done, key, "")
	v.want(err, context.Canceled, "Stat")
	v.want(v.Retain(done, key, put.VersionID, until), context.Canceled, "Retain")
	v.want(v.SetLegalHold(done, key, put.VersionID, true), context.Canceled, "SetLegalHold")
	v.want(v.Delete(done, key, put.VersionID), context.Canceled, "Delete")
	var listed error
	for _, err := range v.Versions(done, v.folder) {
		listed = err
	}
	v.want(listed, context.Canceled, "Versions")
	if info := v.stat(key, ""); info.LegalHold || !info.RetainUntil.Before(until) {
		v.Errorf("a call whose context was done took effect: %+v", info)
	}
}

// concurrent mixes all calls on a few keys: nothing may be torn or lost.
func concurrent(v *vault) {
	const workers, keys = 8, 12
	var wg sync.WaitGroup
	fail := make(chan error, workers*keys)
	until := v.now().Add(2 * v.Retention)
	for range workers {
		wg.Go(func() {
			for i := range keys {
				key, body := v.key(fmt.Sprintf("%d.age", i)), bytes.Repeat([]byte{byte(i)}, 10_000)
				o := archive.PutOptions{SHA256: sha256.Sum256(body), Size: int64(len(body)), Mode: archive.Compliance, RetainUntil: until}
				if err := v.use(key, body, o); err != nil {
					fail <- fmt.Errorf("%s: %w", key, err)
				}
			}
		})
	}
	wg.Wait()
	close(fail)
	for err := range fail {
		v.Error(err)
	}
	if got := v.list(v.folder); len(got) != keys {
		v.Errorf("%d versions, want %d", len(got), keys)
	}
}

func (v *vault) use(key string, body []byte, o archive.PutOptions) error {
	ctx := v.Context()
	if _, err := v.Put(ctx, key, bytes.NewReader(body), o); err != nil && !errors.Is(err, archive.ErrExists) {
		return err
	}
	info, err := v.Stat(ctx, key, "")
	if err != nil {
		return err
	}
	r, _, err := v.Get(ctx, key, info.VersionID)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, body) {
		return errors.New("other bytes than were put")
	}
	if err := v.Retain(ctx, key, info.VersionID, info.RetainUntil.Add(time.Second)); err != nil && !errors.Is(err, archive.ErrLocked) {
		return err // ErrLocked: somebody else has lengthened it further
	}
	if err := v.SetLegalHold(ctx, key, info.VersionID, true); err != nil {
		return err
	}
	if err := v.Delete(ctx, key, info.VersionID); !errors.Is(err, archive.ErrLocked) {
		return fmt.Errorf("deleted while locked: %w", err)
	}
	for _, err := range v.Versions(ctx, v.folder) {
		if err != nil {
			return err
		}
	}
	return v.SetLegalHold(ctx, key, info.VersionID, false)
}
