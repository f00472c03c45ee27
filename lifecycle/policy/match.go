package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/lotkeeper/lotkeeper/cte"
)

// maxCost bounds what deciding one rule of one record may cost, in CEL's units: about
// a comparison each. It is asked for when the rule is checked, of the largest record,
// and again of each record.
const maxCost = 100_000

// Sizes that a record's fields are taken to have at most when a rule's cost is
// estimated.
const (
	maxText   = 512
	maxLabels = 64
)

// environment takes memory that whoever has no policy to read does without.
var environment = sync.OnceValue(newEnvironment)

func newEnvironment() *cel.Env {
	env, err := cel.NewEnv(
		cel.Variable("event_type", cel.StringType), cel.Variable("lot", cel.StringType), cel.Variable("lot_source", cel.StringType),
		cel.Variable("location", cel.StringType), cel.Variable("product", cel.StringType), cel.Variable("jurisdiction", cel.StringType),
		cel.Variable("labels", cel.MapType(cel.StringType, cel.StringType)))
	if err != nil {
		panic(err) // the declarations above
	}
	return env
}

// matcher is a compiled match expression.
type matcher struct{ program cel.Program }

// fault is something wrong with an expression, at its line (from 1) and column (from
// 0) within it.
type fault struct {
	line, column int
	kind, msg    string
}

// compile checks an expression: it must be boolean, end, and use words of the taxonomy.
func compile(expression string, jurisdictions []string) (*matcher, *fault) {
	if strings.TrimSpace(expression) == "true" {
		return nil, nil
	}
	checked, issues := environment().Compile(expression)
	if issues != nil && issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, &fault{first.Location.Line(), first.Location.Column(), "", first.Message}
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, &fault{1, 0, "", fmt.Sprintf("the expression is %s, and must be true or false", t)}
	}
	if f := words(checked.NativeRep(), jurisdictions); f != nil {
		return nil, f
	}
	estimate, err := environment().EstimateCost(checked, sizes{})
	if err != nil {
		return nil, &fault{1, 0, "", fmt.Sprintf("how many steps it takes cannot be told: %v", err)}
	}
	if estimate.Max > maxCost {
		return nil, &fault{1, 0, "", fmt.Sprintf("the expression could take %d steps for one record, and may take %d", estimate.Max, maxCost)}
	}
	program, err := environment().Program(checked, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize, cel.OptPartialEval))
	if err != nil {
		return nil, &fault{1, 0, "", err.Error()}
	}
	return &matcher{program}, nil
}

// words finds a word that event_type or jurisdiction is compared with and that the
// taxonomy has not: the rule would never match, and nobody would see it.
func words(a *ast.AST, jurisdictions []string) (found *fault) {
	known := func(variable, word string) bool {
		if variable == "event_type" {
			_, ok := cte.ParseEventType(word)
			return ok
		}
		return slices.Contains(jurisdictions, word)
	}
	check := func(variable string, e ast.Expr) {
		word, ok := "", e.Kind() == ast.LiteralKind
		if ok {
			word, ok = e.AsLiteral().Value().(string)
		}
		if !ok || known(variable, word) || found != nil {
			return
		}
		at := a.SourceInfo().GetStartLocation(e.ID())
		found = &fault{at.Line(), at.Column(), TaxonomyMismatch, fmt.Sprintf("there is no %s %q", variable, word)}
	}
	variable := func(e ast.Expr) string {
		if e.Kind() == ast.IdentKind && (e.AsIdent() == "event_type" || e.AsIdent() == "jurisdiction") {
			return e.AsIdent()
		}
		return ""
	}
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || len(e.AsCall().Args()) != 2 {
			return
		}
		left, right := e.AsCall().Args()[0], e.AsCall().Args()[1]
		switch e.AsCall().FunctionName() {
		case operators.Equals, operators.NotEquals:
			if v := variable(left); v != "" {
				check(v, right)
			} else if v := variable(right); v != "" {
				check(v, left)
			}
		case operators.In:
			if v := variable(left); v != "" && right.Kind() == ast.ListKind {
				for _, e := range right.AsList().Elements() {
					check(v, e)
				}
			}
		}
	}))
	return found
}

// sizes tells the estimate how large a record can be.
type sizes struct{}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	switch path := n.Path(); {
	case len(path) == 0:
		return nil
	case path[0] == "labels" && len(path) == 1:
		return &cost.SizeEstimate{Max: maxLabels}
	}
	return &cost.SizeEstimate{Max: maxText}
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// variables gives a record's facts to expressions.
func variables(f Facts, jurisdiction string) any {
	labels := f.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	vars := map[string]any{
		"event_type": string(f.EventType), "lot": f.Lot, "lot_source": f.LotSource, "location": f.Location, "product": f.Product,
		"jurisdiction": jurisdiction, "labels": labels,
	}
	if !f.LabelsUnknown {
		return vars
	}
	part, err := cel.PartialVars(vars, cel.AttributePattern("labels"), cel.AttributePattern("jurisdiction"))
	if err != nil {
		panic(err) // a map of the variables above
	}
	return part
}

func (m *matcher) eval(vars any) (matches, unknown bool, err error) {
	if m == nil {
		return true, false, nil
	}
	out, _, err := m.program.Eval(vars)
	if types.IsUnknown(out) {
		return false, true, nil
	}
	if err != nil {
		return false, false, err
	}
	return out == types.True, false, nil
}
