package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/report"
)

// docs/cli-json.md names exactly the fields that the program prints.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli-json.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, s := range strings.Split(string(page), "\n## ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		sections[title] = text
	}
	quoted := regexp.MustCompile("`([a-z][a-z0-9_]*)`")
	for title, printed := range map[string][]any{
		"init":                                {initResult{}},
		"ingest":                              {lifecycle.IngestResult{}, rejectLine{}},
		"sweep":                               {lifecycle.SweepResult{}},
		"record show":                         {lifecycle.RecordView{}},
		"record list":                         {recordRow{}},
		"trace":                               {lifecycle.Chain{}},
		"hold place, hold extend":             {lifecycle.PlaceResult{}},
		"hold list, hold show, hold release":  {lifecycle.HoldDetail{}},
		"run list, run show":                  {runDetail{}},
		"report checksums":                    {report.ChecksumRow{}},
		"report aggregates":                   {lifecycle.Aggregate{}},
		"verify":                              {lifecycle.VerifyResult{}},
		"reconcile":                           {lifecycle.Reconciliation{}, reconciliationLine{}},
		"export":                              {exportRow{}},
		"audit log":                           {leafResult{}},
		"audit verify":                        {lifecycle.LogReport{}, proofChecked{}},
		"audit proof":                         {lifecycle.RecordProof{}},
		"audit export":                        {logExport{}},
		"audit checkpoint":                    {lifecycle.Publication{}},
		"audit recover, recover":              {lifecycle.LogRecovery{}},
		"shred status":                        {shredStatus{}},
		"shred identity":                      {identityResult{}},
		"shred recover":                       {lifecycle.KeyringRecovery{}},
		"receipt list":                        {lifecycle.ReceiptSummary{}},
		"receipt show, receipt verify":        {lifecycle.Receipt{}},
		"vault list, vault add, vault retire": {lifecycle.VaultView{}},
		"vault sync":                          {lifecycle.VaultSync{}},
		"policy check":                        {policyCheck{}},
		"policy apply, policy approve":        {lifecycle.PolicyChange{}},
		"policy show":                         {policyShown{}},
		"policy history":                      {lifecycle.PolicyVersion{}},
		"policy simulate":                     {lifecycle.Simulation{}},
		"trigger set, trigger list":           {lifecycle.Trigger{}},
		"doctor":                              {lifecycle.Check{}},
		"config show":                         {setting{}},
		"version":                             {versionResult{}},
	} {
		text, ok := sections[title]
		if !ok {
			t.Errorf("there is no section %q", title)
			continue
		}
		delete(sections, title)
		var named, fields []string
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			named = append(named, m[1])
		}
		for _, v := range printed {
			fields = append(fields, fieldsOf(reflect.TypeOf(v))...)
		}
		for _, f := range fields {
			if !slices.Contains(named, f) {
				t.Errorf("%s prints %s, which is not documented", title, f)
			}
		}
		// The other way round for what stands first in a row of a table.
		for row := range strings.Lines(text) {
			first, _, ok := strings.Cut(strings.TrimPrefix(row, "| "), " |")
			if !ok || !strings.HasPrefix(row, "| `") {
				continue
			}
			for _, m := range quoted.FindAllStringSubmatch(first, -1) {
				if !slices.Contains(fields, m[1]) {
					t.Errorf("%s does not print %s", title, m[1])
				}
			}
		}
	}
	for title := range sections {
		t.Errorf("the section %q is about nothing that is printed", title)
	}
}

// fieldsOf lists the names of a type in JSON, and those of what is in it.
func fieldsOf(typ reflect.Type) (names []string) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		if typ == reflect.TypeFor[json.RawMessage]() {
			return nil
		}
		return fieldsOf(typ.Elem())
	case reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Anonymous {
				names = append(names, fieldsOf(f.Type)...)
				continue
			}
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				names = append(append(names, name), fieldsOf(f.Type)...)
			}
		}
	}
	return names
}

// commandsOf lists the commands in the indented blocks of a page.
func commandsOf(t *testing.T, page string) (commands []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(line, "    "); ok && strings.HasPrefix(command, "lotkeeper ") {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	if len(commands) == 0 {
		t.Fatalf("%s has no commands", page)
	}
	return commands
}

// Whoever types docs/recall.md, line by line, gets through a recall.
func TestRecallPage(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, "init")
	for name, text := range map[string]string{
		"lots.txt": "SALAD-8\nSALAD-9\tKitchen 12\n",
		"in": `{"record_id":"pack-1","traceability_lot_code":"GTIN: 314141999995 4856APR0227","event_timestamp":"2022-09-14T08:30:00Z","kde_payload":{"a":1}}
{"record_id":"cut-7","traceability_lot_code":"SALAD-7","event_timestamp":"2022-09-16T08:30:00Z","input_lots":["GTIN: 314141999995 4856APR0227"],"kde_payload":{"a":1}}
{"record_id":"cut-8","traceability_lot_code":"SALAD-8","event_timestamp":"2022-09-16T08:30:00Z","kde_payload":{"a":1}}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, dir, "ingest", "in")
	mustRun(t, dir, "sweep")
	id := regexp.MustCompile("hold-[0-9]{8}-[0-9a-z]{10}")
	placed := ""
	for _, command := range commandsOf(t, "../../docs/recall.md") {
		if placed != "" {
			command = id.ReplaceAllString(command, placed)
		}
		sh := exec.CommandContext(t.Context(), "sh", "-c", command)
		sh.Dir = dir
		var stderr bytes.Buffer
		sh.Stderr = &stderr
		out, err := sh.Output()
		if err != nil || stderr.Len() > 0 && !strings.Contains(stderr.String(), "note: ") {
			t.Fatalf("%s\n%v\n%s%s", command, err, out, &stderr)
		}
		if strings.HasPrefix(command, "lotkeeper hold place") && placed == "" {
			placed = id.FindString(string(out))
		}
	}
	if got := mustRun(t, dir, "record", "list", "--state", "held", "-o", "csv"); strings.Contains(got, "SALAD-7") || !strings.Contains(got, "SALAD-8") {
		t.Errorf("held at its end:\n%s", got)
	}
}

// The README's commands exist, with their flags.
func TestReadmeCommands(t *testing.T) {
	for _, command := range commandsOf(t, "../../README.md") {
		command, _, _ = strings.Cut(command, " #")
		var words []string
		for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(command, -1) {
			words = append(words, m[1]+m[2])
		}
		cmd, rest, err := newRoot(newApp()).Find(words[1:])
		if err == nil {
			if err = cmd.ParseFlags(rest); err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
		}
		if err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
}
