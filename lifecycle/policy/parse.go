package policy

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/go-playground/validator/v10"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	checks "github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// MaxSize bounds a policy file, in bytes.
const MaxSize = 1 << 20

// maxDepth bounds how deep brackets may stand in each other, whatever is in quotes.
const maxDepth = 1000

// Kinds of faults that callers tell apart.
const (
	// TaxonomyMismatch: a word that nobody has declared.
	TaxonomyMismatch = "taxonomy_mismatch"
	// BelowFloor: a rule that would end a record before the law's floor.
	BelowFloor = "below_floor"
)

// Error is a fault in a policy file, at its line and column where there is one.
type Error struct {
	File         string
	Line, Column int
	Kind         string // one of the above, or empty
	Msg          string
}

func (e *Error) Error() string {
	s := e.File
	if e.Line > 0 {
		s += fmt.Sprintf(":%d:%d", e.Line, e.Column)
	}
	if e.Kind != "" {
		s += ": " + e.Kind
	}
	return s + ": " + e.Msg
}

// Parse reads a policy file and checks all of it; what it returns can decide. The name
// is for errors, which are of type *Error.
func Parse(name string, b []byte) (*Policy, error) {
	s := &source{name: name, text: b}
	f, err := s.read()
	if err != nil {
		return nil, err
	}
	return s.build(f)
}

// source is a file that is being read.
type source struct {
	name string
	text []byte
	tree *ast.File
}

func (s *source) read() (*File, error) {
	if len(s.text) > MaxSize {
		return nil, &Error{File: s.name, Msg: fmt.Sprintf("it is too long: a policy has at most %d bytes", MaxSize)}
	}
	if bytes.Count(s.text, []byte("[")) > maxDepth || bytes.Count(s.text, []byte("{")) > maxDepth {
		return nil, &Error{File: s.name, Msg: fmt.Sprintf("it has more than %d brackets of one kind", maxDepth)}
	}
	var err error
	if s.tree, err = parser.ParseBytes(s.text, 0); err != nil {
		return nil, s.yamlError(err)
	}
	if len(s.tree.Docs) != 1 || s.tree.Docs[0].Body == nil {
		return nil, &Error{File: s.name, Msg: "it must hold exactly one document"}
	}
	body := s.tree.Docs[0].Body
	if n := reference(body); n != nil {
		p := n.GetToken().Position
		return nil, &Error{File: s.name, Line: p.Line, Column: p.Column, Msg: "anchors and aliases are not for policies: each rule is to say all of itself"}
	}
	f := &File{}
	if err := yaml.NodeToValue(body, f, yaml.Strict()); err != nil {
		return nil, s.yamlError(err)
	}
	var plain any
	if err := yaml.NodeToValue(body, &plain); err != nil {
		return nil, s.yamlError(err)
	}
	var invalid *checks.ValidationError
	if err := schema().Validate(plain); errors.As(err, &invalid) {
		for len(invalid.Causes) > 0 {
			invalid = invalid.Causes[0]
		}
		return nil, s.at(pathOf(invalid.InstanceLocation), "", invalid.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
	} else if err != nil {
		return nil, &Error{File: s.name, Msg: err.Error()}
	}
	return f, nil
}

// reference finds an anchor or alias: a small file could be a very large policy.
func reference(n ast.Node) (found ast.Node) {
	ast.Walk(visit(func(n ast.Node) bool {
		switch n.Type() {
		case ast.AnchorType, ast.AliasType, ast.MergeKeyType:
			found = n
		}
		return found == nil
	}), n)
	return found
}

type visit func(ast.Node) bool

func (v visit) Visit(n ast.Node) ast.Visitor {
	if n == nil || !v(n) {
		return nil
	}
	return v
}

// yamlError is the library's error in one line.
func (s *source) yamlError(err error) error {
	e := &Error{File: s.name, Msg: err.Error()}
	var y yaml.Error
	if errors.As(err, &y) {
		e.Msg = y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
	}
	return e
}

// pathOf is a place in the file as the YAML library names it: rules[0].hot.
func pathOf(location []string) string {
	var b strings.Builder
	for _, part := range location {
		switch {
		case part != "" && strings.Trim(part, "0123456789") == "":
			b.WriteString("[" + part + "]")
		case b.Len() > 0:
			b.WriteString("." + part)
		default:
			b.WriteString(part)
		}
	}
	return b.String()
}

// node finds what is at a path, or else what is nearest above it.
func (s *source) node(path string) ast.Node {
	for {
		if path == "" {
			return s.tree.Docs[0].Body
		}
		if p, err := yaml.PathString("$." + path); err == nil {
			if n, err := p.FilterFile(s.tree); err == nil && n != nil {
				return n
			}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// at is a fault of the value at a path.
func (s *source) at(path, kind, msg string) *Error {
	e := &Error{File: s.name, Kind: kind, Msg: strings.TrimPrefix(path+": "+msg, ": ")}
	// A mapping's own token is the colon behind its first key.
	t := s.node(path).GetToken()
	if m, ok := s.node(path).(*ast.MappingNode); ok && len(m.Values) > 0 {
		t = m.Values[0].Key.GetToken()
	}
	if t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
	}
	return e
}

// within is a fault inside of an expression.
func (s *source) within(path string, f *fault) *Error {
	e := s.at(path, f.kind, f.msg)
	switch n := s.node(path).(type) {
	case *ast.StringNode:
		if t := n.GetToken(); f.line == 1 && !strings.Contains(n.Value, "\n") {
			e.Column += f.column
			if t.Type == token.DoubleQuoteType || t.Type == token.SingleQuoteType {
				e.Column++
			}
		}
	case *ast.LiteralNode:
		if p := n.Start.Position; strings.HasPrefix(n.Start.Value, "|") {
			lines := strings.Split(string(s.text), "\n")
			if at := p.Line + f.line; at <= len(lines) {
				text := lines[at-1]
				e.Line, e.Column = at, len(text)-len(strings.TrimLeft(text, " "))+f.column+1
			}
		}
	}
	return e
}

var validate = newValidator()

func newValidator() *validator.Validate {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(func(f reflect.StructField) string {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		return name
	})
	return v
}

// triggers are those that every policy may use.
var triggers = []string{"date_of_final_audit_closure", "fiscal_year_end"}

// build fills in what the file left out, checks what it means and compiles it.
func (s *source) build(f *File) (*Policy, error) {
	if err := validate.Struct(f); err != nil {
		var broken validator.ValidationErrors
		if !errors.As(err, &broken) {
			return nil, &Error{File: s.name, Msg: err.Error()}
		}
		_, path, _ := strings.Cut(broken[0].Namespace(), ".")
		return nil, s.at(path, "", strings.TrimSpace("it breaks the rule "+broken[0].Tag()+" "+broken[0].Param()))
	}
	p := &Policy{file: *f, jurisdictions: f.Taxonomy.Jurisdictions}
	if len(p.jurisdictions) == 0 {
		p.jurisdictions = []string{"US"}
	}
	names := map[string]bool{}
	for i := range p.file.Rules {
		r := &p.file.Rules[i]
		path := fmt.Sprintf("rules[%d].", i)
		if names[r.Name] {
			return nil, s.at(path+"name", "", fmt.Sprintf("two rules are called %q", r.Name))
		}
		names[r.Name] = true
		for _, d := range []struct {
			to    *string
			value string
		}{{&r.Match, "true"}, {&r.Hot, "P730D"}, {&r.Archive, "P1Y"}, {&r.Clock, Event}} {
			if *d.to = strings.TrimSpace(*d.to); *d.to == "" {
				*d.to = d.value
			}
		}
		done, err := s.rule(path, r, p)
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, done)
	}
	p.hash = hashOf(&p.file)
	return p, nil
}

func (s *source) rule(path string, r *Rule, p *Policy) (done rule, err error) {
	done = rule{Rule: r}
	for _, d := range []struct {
		field string
		text  *string
		to    *Period
	}{{"hot", &r.Hot, &done.hot}, {"archive", &r.Archive, &done.archive}, {"backup_retention", &r.BackupRetention, &done.backups}} {
		if *d.text == "" {
			continue
		}
		if *d.to, err = ParsePeriod(*d.text); err != nil {
			return done, s.at(path+d.field, "", fmt.Sprintf("%q: %v", *d.text, err))
		}
		*d.text = d.to.String()
	}
	trigger, isTrigger := strings.CutPrefix(r.Clock, Trigger)
	if isTrigger && !p.KnowsTrigger(trigger) {
		return done, s.at(path+"clock", TaxonomyMismatch, fmt.Sprintf("there is no trigger %q", trigger))
	}
	if !isTrigger && r.Clock != Event && r.Clock != CreatedOrObtained {
		return done, s.at(path+"clock", "", fmt.Sprintf("%q is no clock; there is event, created_or_obtained and trigger:NAME", r.Clock))
	}
	var f *fault
	if done.match, f = compile(r.Match, p.jurisdictions); f != nil {
		return done, s.within(path+"match", f)
	}
	if r.Action == ArchiveThenShred {
		if why := belowFloor(done.hot, done.archive); why != "" {
			field := path + "archive"
			if s.node(field).GetToken() == s.node(strings.TrimSuffix(path, ".")).GetToken() {
				field = path + "hot"
			}
			return done, s.at(field, BelowFloor, why)
		}
	}
	return done, nil
}
