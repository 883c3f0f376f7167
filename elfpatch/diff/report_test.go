package diff

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"livepatch/internal/testkit"
)

// Every report of the corpus conforms to the published schema, as the command
// prints it.
func TestReportSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/diff.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range testdataPairs(t) {
		d, err := Compare(testkit.ELF(t, p.before), testkit.ELF(t, p.after), Options{})
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		b, err := json.Marshal(struct {
			Orig    string `json:"orig"`
			Patched string `json:"patched"`
			*Report
		}{p.before, p.after, d.Report()})
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v\n%s", p.name, err, b)
		}
	}
}
