package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Diff says what a policy changes against an older one: a line for each rule that was
// added, taken away, moved or changed, and for each field of it.
func (p *Policy) Diff(old *Policy) []string {
	out := []string{}
	if p.Name() != old.Name() {
		out = append(out, fmt.Sprintf("name: %s -> %s", old.Name(), p.Name()))
	}
	out = append(out, fields("taxonomy", old.file.Taxonomy, p.file.Taxonomy)...)
	find := func(p *Policy, name string) int {
		return slices.IndexFunc(p.file.Rules, func(r Rule) bool { return r.Name == name })
	}
	for i, r := range p.file.Rules {
		at := find(old, r.Name)
		if at < 0 {
			out = append(out, fmt.Sprintf("rule %s: added as number %d", r.Name, i+1))
			continue
		}
		if at != i {
			out = append(out, fmt.Sprintf("rule %s: number %d -> %d", r.Name, at+1, i+1))
		}
		out = append(out, fields("rule "+r.Name, old.file.Rules[at], r)...)
	}
	for _, r := range old.file.Rules {
		if find(p, r.Name) < 0 {
			out = append(out, fmt.Sprintf("rule %s: gone", r.Name))
		}
	}
	return out
}

// fields compares two structs of one type, field by field as the file names them.
func fields(what string, old, new any) (out []string) {
	a, b := reflect.ValueOf(old), reflect.ValueOf(new)
	for i := range a.NumField() {
		name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
		if was, is := fmt.Sprint(a.Field(i)), fmt.Sprint(b.Field(i)); was != is {
			out = append(out, fmt.Sprintf("%s: %s: %s -> %s", what, name, was, is))
		}
	}
	return out
}
