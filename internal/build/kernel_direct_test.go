package build

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/elfpatch"
	"livepatch/internal/check"
	"livepatch/internal/compose"
	"livepatch/internal/kmod"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// directPackage makes a package of direct calls for two functions of the
// fixture's kernel.
func directPackage(t *testing.T, r kernelRecipe, way trampoline.Dispatch) (kernelFixture, *pack.Package) {
	t.Helper()
	f := newKernelFixture(t, r, map[string]string{
		"show": change(t, showSource, `"before"`, `"after"`), "twin": change(t, twinSource, `"twin"`, `"new"`),
	})
	in := f.inputs("show", "twin")
	in.Kernel.Flavour, in.Dispatch = manifest.FlavourDirect, way
	res, err := Create(in)
	if err != nil {
		t.Fatal(err)
	}
	return f, res
}

func set(f kernelFixture) modcheck.Set {
	return modcheck.Set{Kernel: f.img, Exports: f.inputs("show").Kernel.Symvers}
}

// TestCreateDirect makes packages of direct calls for both machines, and breaks
// the module in one way at a time: the audit has to say so.
func TestCreateDirect(t *testing.T) {
	for _, r := range kernelRecipes {
		t.Run(r.name, func(t *testing.T) { createDirect(t, r, trampoline.Direct, directMutants) })
		t.Run(r.name+"/shared", func(t *testing.T) { createDirect(t, r, trampoline.Shared, sharedMutants) })
	}
}

func createDirect(t *testing.T, r kernelRecipe, way trampoline.Dispatch, mutants map[string]mutant) {
	f, pkg := directPackage(t, r, way)
	k := pkg.Manifest.Kernel
	if want := map[trampoline.Dispatch]string{trampoline.Shared: manifest.DispatchShared}[way]; k.Dispatch != want {
		t.Errorf("dispatch %q", k.Dispatch)
	}
	if k.Flavour != manifest.FlavourDirect || k.Consistency != manifest.ConsistencyCalls || k.Base == nil || k.Base.Module != manifest.BaseModule {
		t.Errorf("manifest %+v", k)
	}
	report := modcheck.Package(pkg, set(f))
	if err := report.Refusals().Err(); err != nil {
		t.Errorf("the package is refused: %v", err)
	}
	for _, x := range report.Results {
		if strings.Contains(x.Where+x.Text, manifest.BaseModule) && x.Status == check.Later {
			t.Errorf("not checked though the package has it: %+v", x)
		}
	}
	info, err := modcheck.Describe(pkg.Members[manifest.KernelMember])
	if err != nil || info.Flavour != modcheck.FlavourDirect || len(info.Objects) != 1 || len(info.Objects[0].Functions) != len(k.Objects[0].Functions) {
		t.Errorf("module %+v, error %v", info, err)
	}
	for name, m := range mutants {
		module := mutate(t, pkg.Members[manifest.KernelMember], m.edit)
		list := modcheck.Check(module, set(f)).Refusals()
		if !hasCode(list, m.code) {
			t.Errorf("%s: not refused as %s: %v", name, m.code, list)
		}
	}
}

// A mutant is a change of a module, and the code that refuses it.
type mutant struct {
	code refusal.Code
	edit func(t *testing.T, f *elfpatch.File)
}

// sharedMutants are those of the shared dispatch.
var sharedMutants = map[string]mutant{
	"not ascending":  {refusal.KLPStructures, func(t *testing.T, f *elfpatch.File) { movePointer(t, f, "livepatch_funcs", 0, 1<<20) }},
	"other record":   {refusal.KLPStructures, func(t *testing.T, f *elfpatch.File) { at(t, f, "livepatch_patch", 24)[0] = 64 }},
	"other site":     {refusal.NoFtraceSite, func(t *testing.T, f *elfpatch.File) { movePointer(t, f, "livepatch_funcs", 32, 1) }},
	"other name":     {refusal.KLPStructures, func(t *testing.T, f *elfpatch.File) { movePointer(t, f, "livepatch_funcs", 16, 1) }},
	"other build-id": directMutants["other build-id"],
	"fewer records":  directMutants["fewer records"],
}

// directMutants are ways in which a module is wrong though the kernel would
// load it.
var directMutants = map[string]mutant{
	"no landing pad": {refusal.LandingPadMissing, func(t *testing.T, f *elfpatch.File) { at(t, f, "direct.show", 0)[0] ^= 0xff }},
	"other way back": {refusal.LandingPadMissing, func(t *testing.T, f *elfpatch.File) { at(t, f, "direct_leave", 0)[3] ^= 1 }},
	"gate of another": {refusal.LandingPadMissing, func(t *testing.T, f *elfpatch.File) {
		move(t, f, "direct.twin", "livepatch_patch", 8)
	}},
	"other build-id": {refusal.WrongTarget, func(t *testing.T, f *elfpatch.File) { at(t, f, "build_id", 3)[0] ^= 1 }},
	"other notes":    {refusal.WrongTarget, func(t *testing.T, f *elfpatch.File) { movePointer(t, f, "livepatch_patch", 56, 1) }},
	"other site":     {refusal.NoFtraceSite, func(t *testing.T, f *elfpatch.File) { movePointer(t, f, "livepatch_funcs", 8, 16) }},
	"fewer records":  {refusal.KLPStructures, func(t *testing.T, f *elfpatch.File) { at(t, f, "livepatch_patch", 8)[0]-- }},
}

// at is the contents of a symbol's section from the symbol on.
func at(t *testing.T, f *elfpatch.File, name string, off uint64) []byte {
	t.Helper()
	s := symbolOf(t, f, name)
	return f.Sections[s.Section].Data[s.Value+off:]
}

// move adds to the relocations of a function that refer to a symbol.
func move(t *testing.T, f *elfpatch.File, function, symbol string, by int64) {
	t.Helper()
	fn := symbolOf(t, f, function)
	edit(t, f, fn.Section, func(r *elfpatch.Rela) bool {
		return r.Offset >= fn.Value && r.Offset < fn.Value+fn.Size && f.Symbols[r.Symbol].Name == symbol
	}, by)
}

// movePointer adds to the pointer in a record.
func movePointer(t *testing.T, f *elfpatch.File, record string, off uint64, by int64) {
	t.Helper()
	s := symbolOf(t, f, record)
	edit(t, f, s.Section, func(r *elfpatch.Rela) bool { return r.Offset == s.Value+off }, by)
}

func edit(t *testing.T, f *elfpatch.File, section int, which func(*elfpatch.Rela) bool, by int64) {
	t.Helper()
	list, err := f.Relocations(f.Sections[section])
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range list {
		if which(&list[i]) {
			list[i].Addend += by
			n++
		}
	}
	if n == 0 {
		t.Fatal("no such relocation")
	}
	if err := f.SetRelocations(f.Sections[section], list); err != nil {
		t.Fatal(err)
	}
}

func mutate(t *testing.T, module []byte, change func(*testing.T, *elfpatch.File)) []byte {
	t.Helper()
	f, err := elfpatch.Parse(bytes.Clone(module))
	if err != nil {
		t.Fatal(err)
	}
	change(t, f)
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hasCode(list refusal.List, code refusal.Code) bool {
	for _, r := range list {
		if r.Code == code {
			return true
		}
	}
	return false
}

// TestDirectNotMerged: packages of direct calls are compared, not merged, and
// neither of their modules is taken for one of the livepatch core.
func TestDirectNotMerged(t *testing.T) {
	f, pkg := directPackage(t, kernelRecipes[0], trampoline.Direct)
	in := f.inputs("show")
	in.Kernel.Flavour, in.Name = manifest.FlavourDirect, "less"
	less, err := Create(in)
	if err != nil {
		t.Fatal(err)
	}
	var list refusal.List
	_, err = mergeParts(compose.Part{File: "a", Package: pkg}, compose.Part{File: "b", Package: less})
	if !errors.As(err, &list) || !hasCode(list, refusal.MergeKernel) || !strings.Contains(err.Error(), "modules of flavour direct are not merged") {
		t.Errorf("merged: %v", err)
	}
	for name, b := range pkg.Members {
		if _, err := kmod.Undo(b); !errors.As(err, &list) || !hasCode(list, refusal.MergeKernel) {
			t.Errorf("%s is taken apart: %v", name, err)
		}
	}
	less.Manifest.Kernel.Base.Payload.SHA256[0] ^= 1
	changes, err := compose.Diff(pkg, less)
	if err != nil {
		t.Fatal(err)
	}
	var differ []string
	for _, c := range changes {
		if c.What == "function" || c.What == "base" {
			differ = append(differ, c.Change+" "+c.Where)
		}
	}
	if d := cmp.Diff([]string{"changed livepatch_direct", "removed twin"}, differ); d != "" {
		t.Errorf("functions and base that differ (-want +got)\n%s\n%+v", d, changes)
	}
}

// TestFlavourAuto takes the livepatch core where the kernel has one.
func TestFlavourAuto(t *testing.T) {
	f := newKernelFixture(t, kernelRecipes[1], map[string]string{"show": change(t, showSource, `"before"`, `"after"`)})
	for want, core := range map[string]bool{manifest.FlavourKLP: true, manifest.FlavourDirect: false} {
		in := f.inputs("show")
		if !core {
			delete(in.Kernel.Symvers, enablePatch)
		}
		res, err := Create(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Manifest.Kernel.Flavour; got != want {
			t.Errorf("flavour %s, want %s", got, want)
		}
	}
}

// TestSharedFlavour refuses the shared dispatch for a patch of the livepatch core.
func TestSharedFlavour(t *testing.T) {
	f := newKernelFixture(t, kernelRecipes[1], map[string]string{"show": change(t, showSource, `"before"`, `"after"`)})
	in := f.inputs("show")
	in.Dispatch = trampoline.Shared
	if _, err := Create(in); !errors.Is(err, ErrSharedFlavour) {
		t.Errorf("error %v", err)
	}
}

// TestDirectWarns of a change of locks, beside the finding: old and new code run
// at once for as long as a call takes.
func TestDirectWarns(t *testing.T) {
	f := newKernelFixture(t, kernelRecipes[0], map[string]string{"show": change(t, showSource, "mutex_lock(m);", "", "mutex_unlock(m);", "")})
	for flavour, want := range map[string]bool{manifest.FlavourKLP: false, manifest.FlavourDirect: true} {
		in := f.inputs("show")
		in.Kernel.Flavour = flavour
		res, err := Create(in)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(res.Manifest.Kernel.Warnings, "\n")
		if got := strings.Contains(text, "[lock-changed]; without a livepatch core calls that run finish in old code beside new ones"); got != want {
			t.Errorf("flavour %s warns:\n%s", flavour, text)
		}
	}
}

// TestDirectRefuses is about what direct calls cannot do.
func TestDirectRefuses(t *testing.T) {
	r := kernelRecipes[0]
	after := change(t, showSource, `"before"`, `"after"`)
	f := newKernelFixture(t, r, map[string]string{"show": after, "widget": change(t, widgetSource, `"widget"`, `"gadget"`)})
	callback := newKernelFixture(t, r, map[string]string{"show": after + "\nstatic int pre(void *o) { return o == 0; }\nCALLBACK(pre_patch, pre);\n"})
	for name, tc := range map[string]struct {
		in   Inputs
		edit func(*Kernel)
		code refusal.Code
		text string
	}{
		"module":    {f.inputs("show", "widget"), nil, refusal.Unsupported, "modules are patched through the livepatch core only"},
		"state":     {f.inputs("show"), func(k *Kernel) { k.States = []manifest.KernelState{{ID: 1}} }, refusal.Unsupported, "states of the system"},
		"callback":  {callback.inputs("show"), nil, refusal.Unsupported, "callbacks are called by the livepatch core only"},
		"no ftrace": {f.inputs("show"), func(k *Kernel) { delete(k.Symvers, "register_ftrace_direct") }, refusal.NoDirectCalls, "does not export register_ftrace_direct"},
		"no anchor": {f.inputs("show"), func(k *Kernel) { delete(k.Symvers, "_printk") }, refusal.NotExported, "exports none of"},
		"one table": {f.inputs("show"), func(k *Kernel) { delete(k.ABI.Structs["module"].Members, "gpl_syms") }, refusal.Unsupported, "one table for all exports"},
		"no layout": {f.inputs("show"), func(k *Kernel) { delete(k.ABI.Structs, "ftrace_ops") }, refusal.KLPStructures, "struct ftrace_ops"},
		"long id":   {f.inputs("show"), func(k *Kernel) { k.Image.BuildID = bytes.Repeat([]byte{7}, 40) }, refusal.AddressUnknown, "__start_notes"},
	} {
		tc.in.Kernel.Flavour = manifest.FlavourDirect
		image := *tc.in.Kernel.Image
		tc.in.Kernel.Image = &image
		if tc.edit != nil {
			tc.edit(tc.in.Kernel)
		}
		_, err := Create(tc.in)
		var list refusal.List
		if !errors.As(err, &list) || !hasCode(list, tc.code) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
