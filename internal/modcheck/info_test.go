package modcheck

import (
	"debug/elf"
	"encoding/json"
	"strings"
	"testing"

	"livepatch/internal/check"
	"livepatch/internal/refusal"
)

// What the old tool's, the in-tree tool's and our modules patch is told alike.
func TestDescribe(t *testing.T) {
	var objects []string
	for _, name := range x86Flavours {
		x, err := Describe(fileOf(t, livepatch(t, elf.EM_X86_64, name)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.MarshalIndent(x, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, strings.TrimSuffix(name, ".S")+".inspect", string(b)+"\n")
		b, err = json.Marshal(x.Objects)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, string(b))
		if want := []string{"widget"}; len(x.Wants()) != 1 || x.Wants()[0] != want[0] {
			t.Errorf("%s wants %q", name, x.Wants())
		}
	}
	for i := range objects {
		if objects[i] != objects[0] {
			t.Errorf("%s patches\n%s\n%s patches\n%s", x86Flavours[i], objects[i], x86Flavours[0], objects[0])
		}
	}
}

// An ordinary module is described and refused as a livepatch for one reason.
func TestOrdinaryModule(t *testing.T) {
	b := assemble(t, elf.EM_X86_64, source(t, "module-x86.S"))
	x, err := Describe(b)
	if err != nil || x.Name != "widget" || x.Flavour != "" || len(x.Objects) != 0 {
		t.Errorf("%+v, error %v", x, err)
	}
	r := Check(b, x86Set(t))
	if len(r.Results) != 1 || r.Results[0].Code != refusal.NotALivepatch {
		t.Errorf("%s", reportText(r))
	}
}

// The structures of a kernel that lays them out in another way are found by
// what is relocated in them, as long as more than one tells their distance.
func TestStride(t *testing.T) {
	edits := []edit{{"\t.quad .Lshow, new_show, 0\n\t.zero 152 - 24\n", "\t.quad .Lshow, new_show, 0\n\t.zero 176 - 24\n"},
		{"\t.quad .Ltwin, new_twin, 2\n\t.zero 152 - 24\n\t.zero 152\n", "\t.quad .Ltwin, new_twin, 2\n\t.zero 176 - 24\n\t.zero 176\n"},
		{"\t.zero 168 - 48\n", "\t.zero 192 - 48\n"}, {"\t.zero 168 - 16\n\t.zero 168\n", "\t.zero 192 - 16\n\t.zero 192\n"}}
	// The label is on the line of the first function.
	edits[0].old, edits[0].new = "funcs:"+edits[0].old, "funcs:"+edits[0].new
	x, err := Describe(fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S", edits...)))
	if err != nil || len(x.Objects) != 2 || len(x.Objects[0].Functions) != 2 || x.Objects[0].Functions[1].Position != 2 {
		t.Errorf("%+v, error %v", x, err)
	}
}

// Without files that tell, questions are left open, not answered.
func TestWithoutTarget(t *testing.T) {
	b := fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S"))
	full := x86Set(t)
	for name, set := range map[string]Set{
		"nothing":       {},
		"only symbols":  {Symbols: full.Kernel.Symbols},
		"only symvers":  {Exports: full.Exports},
		"only a module": {Modules: full.Modules},
	} {
		r := Check(b, set)
		if r.Count(check.Refused) > 0 || r.Count(check.Later) == 0 {
			t.Errorf("%s:\n%s", name, reportText(r))
		}
	}
}

func TestNotModules(t *testing.T) {
	for name, b := range map[string][]byte{"empty": nil, "text": []byte("hello"), "gzip": {0x1f, 0x8b, 8, 0}} {
		r := Check(b, Set{})
		if len(r.Results) != 1 || r.Results[0].Code != refusal.ModuleFormat {
			t.Errorf("%s: %s", name, reportText(r))
		}
		if _, err := Describe(b); err == nil {
			t.Errorf("%s is described", name)
		}
	}
}
