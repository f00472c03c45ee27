package lifecycle

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"
)

// withoutEffect says of each action that a recovery has nothing to do for but to write its
// entry, why that is so.
var withoutEffect = map[string]string{
	ActionInit:           "the database was made with it",
	ActionDropped:        "what was archived again loses its ciphertext with the next sweep",
	ActionResealed:       "the entry does not say which records, nor has it their keys: LostKey says so",
	ActionRescheduled:    "nor this one; the next sweep does it again, and LostKey says where it cannot",
	ActionStep:           "nothing was changed",
	ActionReceipt:        "receipts are made of the entries",
	ActionIdentityShown:  "receipts list it by its entry",
	ActionExportBegun:    "receipts, and the limit of a day, go by the entry",
	ActionUnmasked:       "receipts go by the entry",
	ActionExportLimit:    "it is looked up as an entry",
	ActionExported:       "receipts, and the limit of a day, go by the entry",
	ActionReported:       "nothing was changed",
	ActionVerifyDone:     "nothing was changed",
	ActionReconciled:     "nothing was changed",
	ActionDryRun:         "nothing was changed",
	ActionRefused:        "nothing was changed",
	ActionTriggerSet:     "triggers are read from the entries",
	ActionTriggerUnset:   "triggers are read from the entries",
	ActionPolicyApplied:  "policies are read from the entries",
	ActionPolicyProposed: "policies are read from the entries",
	ActionPolicyRefused:  "policies are read from the entries",
}

// A new action has an effect, or it is said why it has none.
func TestEveryActionIsReplayed(t *testing.T) {
	cases := map[string]bool{} // by the names of the constants
	names := map[string]string{}
	for _, file := range []string{"logrecovery.go", "leaf.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				return n.Name.Name == "effect"
			case *ast.CaseClause:
				for _, x := range n.List {
					if id, ok := x.(*ast.Ident); ok {
						cases[id.Name] = true
					}
				}
			case *ast.ValueSpec:
				for i := range n.Values {
					if lit, ok := n.Values[i].(*ast.BasicLit); ok {
						if value, err := strconv.Unquote(lit.Value); err == nil {
							names[value] = n.Names[i].Name
						}
					}
				}
			}
			return true
		})
	}
	if len(cases) == 0 {
		t.Fatal("there is no effect of anything")
	}
	for _, action := range Actions {
		if replayed, without := cases[names[action]], withoutEffect[action] != ""; replayed == without {
			t.Errorf("action %q has an effect: %t; it is said why it has none: %t", action, replayed, without)
		}
	}
}
