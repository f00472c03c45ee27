package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/integration/s3test"
)

// A store that began with a directory for a vault moves into a bucket: added, brought
// everything, and alone in the end; nothing is missing on the way.
func TestMoveIntoBucket(t *testing.T) {
	t.Parallel()
	s, cloud := newShell(t), newBucket(t, s3test.MinIO)
	configure := func(vaults ...string) {
		s.file("lotkeeper.yaml", "data: data\nvaults:\n"+strings.Join(vaults, ""))
	}
	directory, bucket := "  - {name: first, url: 'dir:vault'}\n", fmt.Sprintf("  - {name: cloud, url: '%s'}\n", cloud.minioURL())
	s.env = []string{"LOTKEEPER_CONFIG=lotkeeper.yaml",
		"MINIO_ACCESS_KEY_CLOUD_FILE=" + s.file("access", s3test.AccessKey), "MINIO_SECRET_KEY_CLOUD_FILE=" + s.file("secret", s3test.SecretKey)}
	number := 0
	sweep := func() map[string]any {
		t.Helper()
		s.run(0, "ingest", s.file("season.jsonl", strings.Join(season(number, 30), "\n")))
		number++
		return s.object(0, "sweep")
	}
	states := func(want string) {
		t.Helper()
		var got []string
		for _, v := range s.array(0, "vault", "list") {
			got = append(got, fmt.Sprintf("%v %v, copies %v, missing %v", v["name"], v["state"], v["copies"], v["missing"]))
		}
		if all := strings.Join(got, "; "); all != want {
			t.Errorf("vaults: %s\nnot:    %s", all, want)
		}
	}
	verify := func(objects float64) {
		t.Helper()
		if v := s.object(0, "verify"); v["records"] != float64(30*number) || v["objects"] != objects {
			t.Errorf("verify: %v, of %d records and %v objects", v, 30*number, objects)
		}
	}

	configure(directory)
	s.run(0, "init")
	sweep()
	sweep()
	states("first active, copies 2, missing 0")

	configure(directory, bucket)
	// Until it has everything a vault does not count, and sweeps say so before.
	s.run(6, "sweep")
	if got := s.object(3, "vault", "add", "cloud"); got["state"] != "joining" || got["missing"] != 2.0 {
		t.Errorf("vault add: %v", got)
	}
	sweep() // into the first alone
	if got := s.object(0, "vault", "sync", "cloud"); got["state"] != "active" || got["copied"] != 3.0 || got["failed"] != 0.0 {
		t.Errorf("vault sync: %v", got)
	}
	states("cloud active, copies 3, missing 0; first active, copies 3, missing 0")
	verify(12)
	sweep() // into both
	verify(16)

	if got := s.object(0, "vault", "retire", "first"); got["state"] != "retiring" {
		t.Errorf("vault retire: %v", got)
	}
	sweep() // into the bucket alone
	states("cloud active, copies 5, missing 0; first retiring, copies 4, missing 1")
	verify(18)
	s.run(6, "vault", "retire", "cloud")

	// What lies in the bucket is locked: its server says so, to another library.
	locked := 0
	for _, r := range s.array(0, "report", "checksums") {
		if r["vault"] != "cloud" {
			continue
		}
		_, mode, until := cloud.awsClient().read(t, s3test.Prefix+"/"+r["key"].(string), r["version_id"].(string))
		if mode != "COMPLIANCE" || until.Format("2006-01-02T15:04:05Z") != r["retain_until"] {
			t.Errorf("%v: locked as %q until %v", r, mode, until)
		}
		locked++
	}
	if locked == 0 {
		t.Error("the report names no copy in the bucket")
	}
}
