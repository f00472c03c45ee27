package main

import (
	"encoding/json"
	"os"
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
		"hold place":                          {lifecycle.PlaceResult{}},
		"hold list, hold show, hold release":  {lifecycle.HoldDetail{}},
		"run list, run show":                  {runDetail{}},
		"report checksums":                    {report.ChecksumRow{}},
		"verify":                              {lifecycle.VerifyResult{}},
		"export":                              {exportRow{}},
		"shred status":                        {shredStatus{}},
		"shred identity":                      {identityResult{}},
		"shred recover":                       {lifecycle.KeyringRecovery{}},
		"vault list, vault add, vault retire": {lifecycle.VaultView{}},
		"vault sync":                          {lifecycle.VaultSync{}},
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
