package policy

import (
	"bytes"
	"encoding/json"
	"sync"

	"github.com/invopop/jsonschema"
	checks "github.com/santhosh-tekuri/jsonschema/v6"
)

// Schema is the JSON Schema of policy files, which editors understand.
func Schema() []byte {
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: true, ExpandedStruct: true, RequiredFromJSONSchemaTags: true}
	s := r.Reflect(&File{})
	s.Title = "Lotkeeper retention policy"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // a struct of plain values
	}
	return append(b, '\n')
}

var schema = sync.OnceValue(compileSchema)

func compileSchema() *checks.Schema {
	doc, err := checks.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		panic(err) // the schema above
	}
	c := checks.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		panic(err)
	}
	return c.MustCompile("policy.json")
}
