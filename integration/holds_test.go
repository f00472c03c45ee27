package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	miniogo "github.com/minio/minio-go/v7"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
)

func (c minioClient) legalHold(t *testing.T, key, versionID string) bool {
	t.Helper()
	status, err := c.GetObjectLegalHold(t.Context(), c.bucket, key, miniogo.GetObjectLegalHoldOptions{VersionID: versionID})
	if miniogo.ToErrorResponse(err).Code == "NoSuchObjectLockConfiguration" {
		return false // there never was one
	}
	if err != nil {
		t.Fatal(err)
	}
	return *status == miniogo.LegalHoldEnabled
}

func (c awsClient) legalHold(t *testing.T, key, versionID string) bool {
	t.Helper()
	o, err := c.HeadObject(t.Context(), &awss3.HeadObjectInput{Bucket: &c.bucket, Key: &key, VersionId: version(versionID)})
	if err != nil {
		t.Fatal(err)
	}
	return o.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn
}

// manifests lists the versions of a segment's manifest.
func (b bucket) manifests(t *testing.T, segment string) (all []miniogo.ObjectInfo) {
	t.Helper()
	for o := range b.Admin(t).ListObjects(t.Context(), b.Name, miniogo.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if strings.HasSuffix(o.Key, segment+".json") {
			all = append(all, o)
		}
	}
	return all
}

// legalHolds asks the servers, each with the library that the vault does not use,
// whether the copies of a record, with their manifests, are under legal hold: "east",
// "west", both or neither, and nothing in between.
func (s *deployment) legalHolds(record string) (on string) {
	s.t.Helper()
	var v struct {
		Archive struct {
			Segment string
		}
	}
	s.decode(&v, s.run(0, "-o", "json", "record", "show", record))
	for _, r := range s.copies(record) {
		object := r.foreignClient.legalHold(s.t, r.stored, r.VersionID)
		held := 0
		for _, stored := range r.bucket.manifests(s.t, v.Archive.Segment) {
			if r.foreignClient.legalHold(s.t, stored.Key, stored.VersionID) {
				held++
			}
		}
		if (held == 1) != object || held > 1 {
			s.t.Errorf("vault %s: object of %s under legal hold: %t, manifests: %d", r.Vault, record, object, held)
		}
		if object {
			on += r.Vault + " "
		}
	}
	return on
}

// Legal holds on both vaults, as other clients see them: set by placing a hold on
// what is archived, completed by a sweep where a vault was down, and lifted when the
// last hold is released.
func TestHoldsOnServers(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	s := newDeployment(t, d.URL(), d.URL())
	s.run(0, "init")
	line := func(id, lot, event string) string {
		return fmt.Sprintf(`{"record_id":%q,"traceability_lot_code":%q,"event_type":"shipping","event_timestamp":%q,"created_or_obtained_at":%[3]q,"kde_payload":{"facility":"FAC-001"}}`+"\n", id, lot, event)
	}
	// Due, and of two archive months that are to come.
	ago := func(months int) string { return time.Now().UTC().AddDate(0, -months, 0).Format(time.RFC3339) }
	s.run(0, "ingest", s.file("in.jsonl", line("a", "LOT-A", ago(26))+line("b", "LOT-B", ago(30))))
	if swept := s.object(0, "sweep"); swept["archived"] != 2.0 || swept["segments"] != 2.0 {
		t.Fatalf("%v", swept)
	}
	expect := func(when, a, b string) {
		t.Helper()
		if gotA, gotB := s.legalHolds("a"), s.legalHolds("b"); gotA != a || gotB != b {
			t.Errorf("%s: legal holds on the copies of a in %q, of b in %q, want %q and %q", when, gotA, gotB, a, b)
		}
	}
	expect("at first", "", "")
	place := func(code int, lot, kind, reference string) (id string) {
		t.Helper()
		held := s.place(code, "--lot", lot, "--kind", kind, "--reference", reference, "--reason", "a test")
		if want := map[int]string{0: "open", 3: "partial"}[code]; held["status"] != want || held["covered"] != 1.0 || held["archived"] != 1.0 {
			t.Errorf("%v", held)
		}
		return held["hold_id"].(string)
	}
	recall := place(0, "LOT-A", "recall", "F-1")
	expect("after a hold on a", "east west ", "")

	s.west.Kill(t)
	litigation := place(3, "LOT-B", "litigation", "D-1")
	if shown := s.object(0, "hold", "show", litigation); shown["status"] != "partial" {
		t.Errorf("with a vault that is down: %v", shown)
	}
	s.west.Restart(t)
	expect("after a hold beside a vault that was down", "east west ", "east ")
	if swept := s.object(0, "sweep"); swept["legal_holds_set"] != 1.0 || swept["legal_holds_missing"] != 0.0 {
		t.Errorf("%v", swept)
	}
	expect("after the next sweep", "east west ", "east west ")
	if shown := s.object(0, "hold", "show", litigation); shown["status"] != "open" {
		t.Errorf("completed: %v", shown)
	}

	second := place(0, "LOT-B", "recall", "F-2")
	s.run(0, "hold", "release", litigation, "--reason", "settled")
	s.run(0, "hold", "release", recall, "--reason", "closed")
	expect("after the first release of two on b, and the only one on a", "", "east west ")
	s.run(0, "hold", "release", second, "--reason", "closed")
	expect("at the end", "", "")
	s.run(0, "verify")
}
