package manifest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaFile = "../docs/manifest.schema.json"

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func conforms(t *testing.T, s *jsonschema.Schema, b []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestSchemaAcceptsGoldens(t *testing.T) {
	s := compileSchema(t)
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens (error %v)", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := conforms(t, s, b); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// The largest address must pass: schema numbers are not doubles.
func TestSchemaAddressRange(t *testing.T) {
	m := sample()
	m.Targets[0].Variables[0].Address = 1<<64 - 8
	m.Targets[0].Imports[0].Address = 1<<64 - 8
	b, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := conforms(t, compileSchema(t), b); err != nil {
		t.Error(err)
	}
	if !bytes.Contains(b, []byte("18446744073709551608")) {
		t.Error("the address is not written as it is")
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	for name, edit := range map[string]func(*Manifest){
		"format":              func(m *Manifest) { m.Format = "livepatch/2" },
		"name":                func(m *Manifest) { m.Name = "a b" },
		"no targets":          func(m *Manifest) { m.Targets = nil },
		"kind":                func(m *Manifest) { m.Targets[0].Kind = "kernel" },
		"machine":             func(m *Manifest) { m.Targets[0].Machine = "mips" },
		"no identity":         func(m *Manifest) { m.Targets[0].BuildID = nil },
		"directory":           func(m *Manifest) { m.Targets[0].Name = "a/b" },
		"member":              func(m *Manifest) { m.Targets[0].Payload.Member = "../x" },
		"payload size":        func(m *Manifest) { m.Targets[0].Payload.Size = 1 },
		"digest":              func(m *Manifest) { m.Targets[0].Payload.SHA256 = nil },
		"no functions":        func(m *Manifest) { m.Targets[0].Functions = nil },
		"function size":       func(m *Manifest) { m.Targets[0].Functions[0].Size = 0 },
		"strategy":            func(m *Manifest) { m.Targets[0].Functions[0].Strategy = "x" },
		"proof":               func(m *Manifest) { m.Targets[0].Functions[0].Proof = "x" },
		"site kind":           func(m *Manifest) { m.Targets[0].Functions[0].Site.Kind = "none" },
		"site bytes":          func(m *Manifest) { m.Targets[0].Functions[0].Site.Expected = nil },
		"import kind":         func(m *Manifest) { m.Targets[0].Imports[0].Kind = "x" },
		"import of two kinds": func(m *Manifest) { m.Targets[0].Imports[0].Name = "x" },
		"dynamic, no name":    func(m *Manifest) { m.Targets[0].Imports[2].Name = "" },
		"dispatch":            func(m *Manifest) { m.Targets[0].Functions[0].Dispatch = "direct" },
		"piece":               func(m *Manifest) { m.Targets[0].Pieces = []Piece{{Kind: "x", Symbol: "y"}} },
		"no writes":           func(m *Manifest) { m.Targets[0].Writes = nil },
		"write length":        func(m *Manifest) { m.Targets[0].Writes[0].Length = 65 },
		"hole kind":           func(m *Manifest) { m.Targets[0].Writes[0].Holes[0].Kind = "x" },
	} {
		m := sample()
		edit(m)
		b, err := marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if conforms(t, s, b) == nil {
			t.Errorf("%s: the schema accepts it", name)
		}
		if m.Validate() == nil {
			t.Errorf("%s: Validate accepts it", name)
		}
	}
}

// The schema and the types list the same keys, and docs/manifest.md names them.
func TestSchemaNamesAllFields(t *testing.T) {
	b, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]struct {
			Properties map[string]any
			Required   []string
		} `json:"$defs"`
	}
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{Manifest{}, Tool{}, Target{}, Payload{}, Function{}, Range{}, Site{}, Variable{}, Import{}, Write{}, Hole{}, Piece{},
		Kernel{}, KernelObject{}, KernelFunction{}, KernelSymbol{}, KernelCallback{}, KernelExport{}, KernelState{}} {
		typ := reflect.TypeOf(v)
		def := schema.Defs[typ.Name()]
		for i := range typ.NumField() {
			key, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if _, ok := def.Properties[key]; !ok {
				t.Errorf("schema: %s has no %q", typ.Name(), key)
			}
			if required := slices.Contains(def.Required, key); required != (options == "") {
				t.Errorf("schema: %s: %q required: %v", typ.Name(), key, required)
			}
			if !bytes.Contains(doc, []byte("`"+key+"`")) {
				t.Errorf("docs/manifest.md does not name %q of %s", key, typ.Name())
			}
		}
		if len(def.Properties) != typ.NumField() {
			t.Errorf("schema: %s has %d properties, the type has %d fields", typ.Name(), len(def.Properties), typ.NumField())
		}
	}
}
