package modcheck

import (
	"debug/elf"
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// What inspect prints of modules is as docs/module.schema.json says, and the
// schema refuses what is not.
func TestSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/module.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	valid := func(x any) error {
		b, err := json.Marshal(map[string]any{"file": "x.ko", "size": 1, "module": x})
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(v)
	}
	modules := [][]byte{fileOf(t, livepatch(t, elf.EM_AARCH64, "static-arm64.S")), assemble(t, elf.EM_X86_64, source(t, "module-x86.S"))}
	for _, name := range x86Flavours {
		modules = append(modules, fileOf(t, livepatch(t, elf.EM_X86_64, name)))
	}
	for _, b := range modules {
		x, err := Describe(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(x); err != nil {
			t.Errorf("%s (%s): %v", x.Name, x.Flavour, err)
		}
		x.Flavour = "other"
		if valid(x) == nil {
			t.Errorf("the schema takes any flavour")
		}
	}
}
