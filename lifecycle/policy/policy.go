package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
)

// Format is the version of the file format.
const Format = 1

// File is a policy as it is written, and with everything said that a file may leave
// out, its canonical form. The schema that editors use is made from it.
type File struct {
	Version  int      `json:"version" yaml:"version" validate:"eq=1" jsonschema:"required,enum=1" jsonschema_description:"The version of this format."`
	Name     string   `json:"name" yaml:"name" validate:"required,max=64,printascii" jsonschema:"required,minLength=1,maxLength=64" jsonschema_description:"What leaves and manifests call the policy."`
	Taxonomy Taxonomy `json:"taxonomy" yaml:"taxonomy" jsonschema_description:"The words that rules may use beside the event types of 21 CFR 1.1325-1.1350."`
	Rules    []Rule   `json:"rules" yaml:"rules" validate:"required,min=1,max=200,dive" jsonschema:"required,minItems=1,maxItems=200" jsonschema_description:"The first rule that matches a record is its rule. A record that none matches is kept, and reported."`
}

// Taxonomy is the words that a policy's rules may use.
type Taxonomy struct {
	Jurisdictions []string `json:"jurisdictions,omitempty" yaml:"jurisdictions" validate:"max=1000,unique,dive,required,max=64,printascii" jsonschema:"maxItems=1000,uniqueItems=true" jsonschema_description:"The jurisdictions that records may name in their label jurisdiction. The first is that of records that name none. Default: US."`
	Triggers      []string `json:"triggers,omitempty" yaml:"triggers" validate:"max=1000,unique,dive,required,max=64,printascii" jsonschema:"maxItems=1000,uniqueItems=true" jsonschema_description:"Triggers beside date_of_final_audit_closure and fiscal_year_end."`
}

// Rule says what happens to the records that it matches.
type Rule struct {
	Name     string `json:"name" yaml:"name" validate:"required,max=64,printascii" jsonschema:"required,minLength=1,maxLength=64" jsonschema_description:"No two rules have the same name."`
	Citation string `json:"citation" yaml:"citation" validate:"required,max=500" jsonschema:"required,minLength=1,maxLength=500" jsonschema_description:"The legal basis, such as 21 CFR 1.1455(d)."`
	Match    string `json:"match" yaml:"match" validate:"max=10000" jsonschema:"maxLength=10000,default=true" jsonschema_description:"A CEL expression over event_type, lot, lot_source, location, product, jurisdiction and labels that is true or false. Default: every record."`
	Hot      string `json:"hot" yaml:"hot" jsonschema:"maxLength=64,default=P730D" jsonschema_description:"How long a record stays in the hot store from its clock on, as an ISO 8601 period of years, months, weeks and days."`
	Archive  string `json:"archive" yaml:"archive" jsonschema:"maxLength=64,default=P1Y" jsonschema_description:"How long it stays in the archive after that."`
	Clock    string `json:"clock" yaml:"clock" validate:"max=80" jsonschema:"maxLength=80,default=event" jsonschema_description:"event; created_or_obtained; or trigger:NAME, a date that is set later. Until it is set the record is kept, and reported."`
	// HoldWhileLotActive keeps a due record hot whose lot has a newer event inside the
	// hot period.
	HoldWhileLotActive bool   `json:"hold_while_lot_active" yaml:"hold_while_lot_active" jsonschema:"default=false" jsonschema_description:"A due record stays hot while its lot has an event that is younger than the hot period."`
	Action             string `json:"action" yaml:"action" validate:"oneof=archive archive_then_shred" jsonschema:"required,enum=archive,enum=archive_then_shred" jsonschema_description:"archive: the archived copy is kept for good. archive_then_shred: it is purged after the archive period, and never before the law's floor."`
	SegmentRecords     int    `json:"segment_records,omitempty" yaml:"segment_records" validate:"min=0,max=100000" jsonschema:"minimum=1,maximum=100000" jsonschema_description:"How many records a segment in the archive holds at most."`
	ReviewBy           string `json:"review_by,omitempty" yaml:"review_by" validate:"omitempty,datetime=2006-01-02" jsonschema:"maxLength=10" jsonschema_description:"The day, YYYY-MM-DD, by which somebody is to look at the rule again. Past it, it is a finding."`
	BackupRetention    string `json:"backup_retention,omitempty" yaml:"backup_retention" jsonschema:"maxLength=64" jsonschema_description:"How long backups of the database and of the keyring are kept."`
	Before             []Step `json:"before,omitempty" yaml:"before" validate:"max=20,dive" jsonschema:"maxItems=20" jsonschema_description:"What must succeed before the rule destroys anything."`
}

// Step is done before a rule destroys anything: one of the two.
type Step struct {
	Command   []string `json:"command,omitempty" yaml:"command" validate:"required_without=Aggregate,excluded_with=Aggregate,max=100,dive,required,max=4096" jsonschema:"minItems=1,maxItems=100" jsonschema_description:"A program and its arguments. It must end with exit code 0."`
	Aggregate string   `json:"aggregate,omitempty" yaml:"aggregate" validate:"omitempty,oneof=month_product_event_type" jsonschema:"enum=month_product_event_type" jsonschema_description:"Totals by month, product and event type, which stay when the records are gone."`
}

// The clocks that a period can begin with, and what a rule does.
const (
	Event             = "event"
	CreatedOrObtained = "created_or_obtained"
	Trigger           = "trigger:"

	Archive          = "archive"
	ArchiveThenShred = "archive_then_shred"
)

// jurisdictionLabel is the label of a record that says where it is kept.
const jurisdictionLabel = "jurisdiction"

// Facts is what a rule may go by.
type Facts struct {
	EventType                           cte.EventType
	Lot, LotSource, Location, Product   string
	EventTimestamp, CreatedOrObtainedAt time.Time
	// Labels are unknown where only the record's row is there, and not the record.
	Labels        map[string]string
	LabelsUnknown bool
	// Triggers are the dates that were set, by name.
	Triggers map[string]time.Time
}

// Schedule is what a policy says of one record.
type Schedule struct {
	// Rule is the name of the rule; empty if none matches.
	Rule string
	// Due is when the hot copy falls due, Purge when the last copy may go; Never if
	// the record is kept.
	Due, Purge time.Time
	// Kept says why the record is kept though a policy is in force; else empty.
	Kept string
	// Unknown: only the record's labels could say which rule it is. Failed: the rule that
	// could be its own cannot be evaluated.
	Unknown, Failed bool

	start time.Time
	hot   Period
}

// Arithmetic is how Due comes about, in words that can be checked with a calendar; or
// why there is no such day.
func (s Schedule) Arithmetic() string {
	if s.Kept != "" {
		return s.Kept
	}
	return fmt.Sprintf("%s + %s = %s", cte.FormatTime(s.start.UTC()), s.hot.Words(), cte.FormatTime(s.Due))
}

// Policy is a policy that was checked, ready to decide. It may be used concurrently.
type Policy struct {
	file  File
	hash  string
	rules []rule
	// jurisdictions is the taxonomy's, with its default.
	jurisdictions []string
}

type rule struct {
	*Rule
	match        *matcher // nil: every record
	hot, archive Period
	backups      Period // zero: the rule does not say
}

// OfDays is the policy of the configuration's policy block: days in the hot store from
// the event, years in the archive, for every record. It is known by the hash given.
func OfDays(name string, days, years int, hash string) *Policy {
	r := Rule{Name: name, Citation: "21 CFR 1.1455(d)", Match: "true", Hot: Period{Days: days}.String(), Archive: Period{Years: years}.String(), Clock: Event, Action: ArchiveThenShred}
	return &Policy{file: File{Version: Format, Name: name, Rules: []Rule{r}}, hash: hash, jurisdictions: []string{"US"},
		rules: []rule{{Rule: &r, hot: Period{Days: days}, archive: Period{Years: years}}}}
}

// Name is the policy's name, Hash its identity: the SHA-256 of its canonical form, in
// hex.
func (p *Policy) Name() string { return p.file.Name }
func (p *Policy) Hash() string { return p.hash }

// Rules are the rules with everything said that the file left out.
func (p *Policy) Rules() []Rule { return append([]Rule(nil), p.file.Rules...) }

// Jurisdictions are those that the policy knows: a record of another is kept.
func (p *Policy) Jurisdictions() []string { return p.jurisdictions }

// Triggers are the names of the triggers that rules have for a clock, each once.
func (p *Policy) Triggers() (names []string) {
	for _, r := range p.rules {
		if name, ok := strings.CutPrefix(r.Clock, Trigger); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// KnowsTrigger says whether a trigger of the name can be a clock.
func (p *Policy) KnowsTrigger(name string) bool {
	return slices.Contains(triggers, name) || slices.Contains(p.file.Taxonomy.Triggers, name)
}

// Canonical is the policy's canonical form: JSON, which Parse reads too.
func (p *Policy) Canonical() []byte { return canonical(&p.file) }

func canonical(f *File) []byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // a struct of plain values
	}
	return b
}

func hashOf(f *File) string {
	sum := sha256.Sum256(canonical(f))
	return hex.EncodeToString(sum[:])
}

// SegmentRecords is the smallest segment size that a rule asks for; 0 if none does.
func (p *Policy) SegmentRecords() int {
	n := 0
	for _, r := range p.rules {
		if r.SegmentRecords > 0 && (n == 0 || r.SegmentRecords < n) {
			n = r.SegmentRecords
		}
	}
	return n
}

// Longest is when the last copy of any record that falls under the policy at the given
// time may go, of those that ever go.
func (p *Policy) Longest(now time.Time) time.Time {
	last := NotBefore(now, now)
	for _, r := range p.rules {
		if at := r.archive.After(r.hot.After(now)); at.After(last) {
			last = at
		}
	}
	return last
}

// BackupsGone is when the last backup that was made at an instant is gone, by the rules
// that say how long backups are kept; and whether every rule does.
func (p *Policy) BackupsGone(made time.Time) (last time.Time, all bool) {
	last, all = made, true
	for _, r := range p.rules {
		if r.backups == (Period{}) {
			all = false
		} else if at := r.backups.After(made); at.After(last) {
			last = at
		}
	}
	return last, all
}

// Days is the number of days after its event at which every record is due, if there is
// one.
func (p *Policy) Days() (int, bool) {
	if len(p.rules) != 1 {
		return 0, false
	}
	r := p.rules[0]
	return r.hot.Days, r.match == nil && r.Clock == Event && r.hot == Period{Days: r.hot.Days}
}

// Allows says whether a record, of which the labels are not known, can be due at an
// instant by the policy. Every record can be kept: its jurisdiction may be one that the
// taxonomy has not.
func (p *Policy) Allows(f Facts, due time.Time) bool {
	s := p.Schedule(f)
	if due.Equal(Never) || !s.Unknown {
		return due.Equal(Never) || due.Equal(s.Due)
	}
	return slices.ContainsFunc(p.rules, func(r rule) bool {
		return r.schedule(f, func(string, string) Schedule { return Schedule{} }).Due.Equal(due)
	})
}

// HoldsActiveLots says whether any rule keeps a due record hot while its lot is active.
func (p *Policy) HoldsActiveLots() bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool { return r.HoldWhileLotActive })
}

// HeldAsActive is the name of the rule by which a due record stays hot at a time, since
// its lot had an event at newest: one that is newer than its own, and inside the hot
// period before that time. It is empty if there is no such rule. Where only labels that are not
// known say which rule is the record's, any that may be keeps it: too long is mended by
// the next sweep, too short by nothing.
func (p *Policy) HeldAsActive(f Facts, newest, now time.Time) string {
	if !newest.After(f.EventTimestamp) {
		return ""
	}
	for _, r := range p.candidates(f) {
		if r.HoldWhileLotActive && r.hot.After(newest).After(now) {
			return r.Name
		}
	}
	return ""
}

// Aggregates says whether any rule counts what it purges.
func (p *Policy) Aggregates() bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool { return r.aggregates() })
}

// Counts says whether a record is to be counted when it is purged: where only labels that
// are not known say which rule is its, if any that may be does.
func (p *Policy) Counts(f Facts) bool {
	return slices.ContainsFunc(p.candidates(f), func(r *rule) bool { return r.aggregates() })
}

func (r *rule) aggregates() bool {
	return slices.ContainsFunc(r.Before, func(s Step) bool { return s.Aggregate != "" })
}

// HasCommands says whether any rule names a program.
func (p *Policy) HasCommands() bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool { return r.commands() })
}

// Commanding names the rule of a record if programs have to succeed before it destroys
// anything: where only labels that are not known say which rule it is, each that may be.
func (p *Policy) Commanding(f Facts) (names []string) {
	for _, r := range p.candidates(f) {
		if r.commands() {
			names = append(names, r.Name)
		}
	}
	return names
}

func (r *rule) commands() bool {
	return slices.ContainsFunc(r.Before, func(s Step) bool { return s.Command != nil })
}

// candidates are the rules that may be the record's, as far as its facts tell: up to the
// first that matches, those that do and those that cannot be decided.
func (p *Policy) candidates(f Facts) (out []*rule) {
	jurisdiction, known := p.jurisdiction(f)
	if !known {
		return nil
	}
	var vars any
	for i := range p.rules {
		r := &p.rules[i]
		if vars == nil && r.match != nil {
			vars = variables(f, jurisdiction)
		}
		matches, unknown, err := r.match.eval(vars)
		if matches || unknown || err != nil {
			out = append(out, r)
		}
		if matches {
			break
		}
	}
	return out
}

// Overdue lists the rules that somebody should have looked at again by now.
func (p *Policy) Overdue(now time.Time) (names []string) {
	for _, r := range p.rules {
		if r.ReviewBy != "" && r.ReviewBy < date(now.UTC()) {
			names = append(names, r.Name)
		}
	}
	return names
}

// Schedule finds the record's rule, the first that matches, and what follows from it.
func (p *Policy) Schedule(f Facts) Schedule {
	kept := func(rule, why string) Schedule { return Schedule{Rule: rule, Due: Never, Purge: Never, Kept: why} }
	jurisdiction, known := p.jurisdiction(f)
	if !known {
		return kept("", fmt.Sprintf("%s: the policy knows no jurisdiction %q", TaxonomyMismatch, jurisdiction))
	}
	var vars any
	for _, r := range p.rules {
		if vars == nil && r.match != nil {
			vars = variables(f, jurisdiction)
		}
		matches, unknown, err := r.match.eval(vars)
		switch {
		case err != nil:
			// A rule that does not answer must not let a shorter one have the record.
			s := kept("", fmt.Sprintf("rule %s cannot be decided: %v", r.Name, err))
			s.Failed = true
			return s
		case unknown:
			return Schedule{Due: Never, Purge: Never, Unknown: true, Kept: "only its labels say which rule is its"}
		case matches:
			return r.schedule(f, kept)
		}
	}
	return kept("", "no rule matches it")
}

func (r *rule) schedule(f Facts, kept func(rule, why string) Schedule) Schedule {
	s := Schedule{Rule: r.Name, hot: r.hot}
	switch r.Clock {
	case Event:
		s.start = f.EventTimestamp
	case CreatedOrObtained:
		s.start = f.CreatedOrObtainedAt
	default:
		at, set := f.Triggers[r.Clock[len(Trigger):]]
		if !set {
			return kept(r.Name, r.Clock+" is not set")
		}
		s.start = at
	}
	s.Due = r.hot.After(s.start)
	if s.Purge = Never; r.Action == ArchiveThenShred {
		s.Purge = r.archive.After(s.Due)
		if floor := NotBefore(f.EventTimestamp, f.CreatedOrObtainedAt); s.Purge.Before(floor) {
			s.Purge = floor
		}
	}
	return s
}

// jurisdiction is the record's, and whether the taxonomy has it.
func (p *Policy) jurisdiction(f Facts) (string, bool) {
	named, ok := f.Labels[jurisdictionLabel]
	if !ok {
		return p.jurisdictions[0], true
	}
	for _, j := range p.jurisdictions {
		if j == named {
			return j, true
		}
	}
	return named, false
}
