package report

import (
	"regexp"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// The page says all that a reviewer signs, takes nothing for markup that came from
// elsewhere, and needs nothing beside it.
func TestReconciliation(t *testing.T) {
	n := int64(1234567)
	r := &lifecycle.Reconciliation{
		At: "2026-11-21T10:00:00Z", Actor: "<i>Ann</i>", Software: "lotkeeper test", Policy: "default", PolicyHash: "abc",
		Log:      lifecycle.ReconciledLog{Size: 12, Vault: "main", CheckpointSize: 11, Root: "root", Checkpoint: "lotkeeper-x\n11\nroot\n"},
		Counts:   []lifecycle.ReconciledCount{{Of: "records", Name: "active", Count: n}, {Of: "records", Name: "in all", Count: 1, Expected: &n}},
		Vaults:   []lifecycle.ReconciledVault{{Vault: "main", State: lifecycle.ActiveVault, Objects: 5, Unknown: 1}},
		Kinds:    map[string]int64{lifecycle.DriftUnknownObject: 1001},
		Findings: []lifecycle.Drift{{Kind: lifecycle.DriftUnknownObject, Subject: `x"><script>alert(1)</script>`, Vault: "main", Expected: "e", Actual: "a"}},
	}
	page := func() string {
		var b strings.Builder
		if err := Reconciliation(&b, r); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	found := page()
	for _, want := range []string{"&lt;i&gt;Ann", "1\u202f001 findings", "1\u202f234\u202f567", "&lt;script&gt;alert(1)", "And 1\u202f000 more", "lotkeeper-x\n11\nroot", "Signature", "2026-11-21T10:00:00Z"} {
		if !strings.Contains(found, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if m := regexp.MustCompile(`(?i)<script|<i>|<link|<img|@import|url\(|https?:|\s(src|href|on\w+)=`).FindString(found); m != "" {
		t.Errorf("the page has %q", m)
	}
	r.Kinds, r.Findings, r.Log.Checkpoint = nil, nil, ""
	for _, want := range []string{">No findings<", "No checkpoint of it was found"} {
		if !strings.Contains(page(), want) {
			t.Errorf("a page without findings lacks %q", want)
		}
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1 000", -1000: "-1 000", -100: "-100", 123456789: "123 456 789"} {
		if got := strings.ReplaceAll(grouped(n), "\u202f", " "); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
