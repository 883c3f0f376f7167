package build

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/compose"
	"livepatch/internal/kimage"
	"livepatch/internal/kmod"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// makeOf makes the package of changes of one object, given as old and new text.
func (f kernelFixture) makeOf(t testing.TB, name, object string, oldNew ...string) compose.Part {
	t.Helper()
	source := map[string]string{"show": showSource, "twin": twinSource, "widget": widgetSource}[object]
	pair, _ := f.r.pair(t, object, source, change(t, source, oldNew...))
	in := f.r.inputs(f.img, Target{Name: "vmlinuz", Pairs: []Pair{pair}})
	if object == "widget" {
		in = f.r.inputs(f.img, Target{Name: "widget.ko", Module: f.widget, Pairs: []Pair{pair}})
	}
	in.Name = name
	return f.part(t, in)
}

func (f kernelFixture) part(t testing.TB, in Inputs) compose.Part {
	t.Helper()
	result, err := Create(in)
	if err != nil {
		t.Fatal(err)
	}
	return asPart(t, in.Name, result)
}

func mergeParts(parts ...compose.Part) (*compose.Merged, error) {
	return compose.Merge(compose.Options{Name: "all", Version: "test"}, parts)
}

// replacedBy lists what a package replaces.
func replacedBy(p *pack.Package) (list []string) {
	for _, o := range p.Manifest.Kernel.Objects {
		for _, f := range o.Functions {
			list = append(list, o.Name+" "+f.Name)
		}
	}
	return list
}

// Packages of a kernel and of a module, made apart, become one that does all.
func TestMergeKernel(t *testing.T) {
	eachKernel(t, func(t *testing.T, r kernelRecipe) {
		f := newKernelFixture(t, r, nil)
		show := f.makeOf(t, "show", "show", `"before"`, `"after"`)
		twin := f.makeOf(t, "twin", "twin", `"twin"`, `"other twin"`, "x * 2", "x * 4")
		widget := f.makeOf(t, "widget", "widget", `"widget"`, `"gadget"`, "static int turns;", "static int turns;\nstatic int added(void *o) { return helper(o != 0); }\nCALLBACK(pre_patch, added);")
		merged, err := mergeParts(show, twin, widget)
		if err != nil {
			t.Fatal(err)
		}
		t.Run("union", func(t *testing.T) { f.checkUnion(t, merged.Package) })
		t.Run("order", func(t *testing.T) {
			again, err := mergeParts(widget, show, twin, show)
			if err != nil || !bytes.Equal(packed(t, again.Package), packed(t, merged.Package)) {
				t.Errorf("in another order, and with one twice, it is another package (%v)", err)
			}
		})
		t.Run("again", func(t *testing.T) {
			both, err := mergeParts(show, twin)
			if err != nil {
				t.Fatal(err)
			}
			three, err := mergeParts(asPart(t, "both", both.Package), widget)
			if err != nil || !slices.Equal(replacedBy(three.Package), replacedBy(merged.Package)) {
				t.Errorf("two and one: %v", err)
			}
			once, err := mergeParts(asPart(t, "all", merged.Package), show, widget)
			if err != nil || len(once.Once) != 3 || !bytes.Equal(moduleOf(once.Package), moduleOf(merged.Package)) {
				t.Errorf("what one package has already: %v, %+v", err, once)
			}
		})
		t.Run("once", f.testOnce)
		if r.machine == elf.EM_X86_64 {
			t.Run("refused", f.testRefused)
			t.Run("foreign", func(t *testing.T) { testForeign(t, moduleOf(show.Package)) })
		}
	})
}

// checkUnion checks what is merged of three packages beside the files of the kernel.
func (f kernelFixture) checkUnion(t *testing.T, p *pack.Package) {
	if got, want := replacedBy(p), []string{"vmlinux show", "vmlinux show_all", "vmlinux twin", "widget widget_turn"}; !slices.Equal(got, want) {
		t.Errorf("it replaces %v, want %v", got, want)
	}
	set := modcheck.Set{Kernel: f.img, Modules: []*kimage.Module{f.widget}, Exports: f.r.inputs(f.img).Kernel.Symvers}
	if list := modcheck.Package(p, set).Refusals(); len(list) > 0 {
		t.Errorf("verify: %v", list)
	}
	var reads []int
	for _, s := range kernelObject(t, p, "vmlinux").Symbols {
		if s.Name == "reads" {
			reads = append(reads, s.Position)
		}
	}
	if slices.Sort(reads); !slices.Equal(reads, []int{1, 2}) {
		t.Errorf("variables reads at positions %v, want those of both objects", reads)
	}
	if o := kernelObject(t, p, "widget"); len(o.Callbacks) != 1 || o.Callbacks[0].Kind != "pre_patch" {
		t.Errorf("callbacks of the module: %+v", o.Callbacks)
	}
	if n := len(p.Manifest.Build.Inputs); n != 3 {
		t.Errorf("%d inputs in the record, want the three packages", n)
	}
}

func packed(t testing.TB, p *pack.Package) []byte {
	t.Helper()
	b, err := pack.Write(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func asPart(t testing.TB, name string, p *pack.Package) compose.Part {
	t.Helper()
	sum := sha256.Sum256(packed(t, p))
	return compose.Part{File: name + ".lpatch", SHA256: sum[:], Package: p}
}

func moduleOf(p *pack.Package) []byte { return p.Members[manifest.KernelMember] }

// testOnce: a function that two packages replace in the same way is taken once,
// and what calls the other's copy calls the one that is used.
func (f kernelFixture) testOnce(t *testing.T) {
	scale := []string{"helper(x) * 9", "helper(x) * 8"}
	show, _ := f.r.pair(t, "show", showSource, change(t, showSource, `"before"`, `"after"`))
	twin, _ := f.r.pair(t, "twin", twinSource, change(t, twinSource, scale...))
	in := f.r.inputs(f.img, Target{Name: "vmlinuz", Pairs: []Pair{show, twin}})
	in.Name = "a"
	merged, err := mergeParts(f.part(t, in), f.makeOf(t, "b", "twin", append(scale, "scale(x * 2)", "scale(x * 3)")...))
	if err != nil {
		t.Fatal(err)
	}
	if want := []compose.Once{{Target: "vmlinux", Function: "scale", Used: "a.lpatch", Left: "b.lpatch"}}; !slices.Equal(merged.Once, want) {
		t.Errorf("once: %+v", merged.Once)
	}
	if got, want := replacedBy(merged.Package), []string{"vmlinux show", "vmlinux show_all", "vmlinux scale", "vmlinux twin"}; !slices.Equal(got, want) {
		t.Errorf("it replaces %v, want %v", got, want)
	}
	if list := modcheck.Package(merged.Package, modcheck.Set{Kernel: f.img, Exports: in.Kernel.Symvers}).Refusals(); len(list) > 0 {
		t.Errorf("verify: %v", list)
	}
	module, err := elfpatch.Parse(moduleOf(merged.Package))
	if err != nil {
		t.Fatal(err)
	}
	rels, err := module.Relocations(module.Section(".text"))
	if err != nil {
		t.Fatal(err)
	}
	calls, left := map[string]int{}, uint64(0)
	for _, r := range rels {
		calls[module.Symbols[r.Symbol].Name]++
	}
	for _, s := range module.Symbols {
		if s.Name == "scale#2" {
			left = s.Value
		}
	}
	to := int64(left)
	if module.Machine == elf.EM_X86_64 {
		to -= 4
	}
	if calls["scale"] == 0 || calls["scale#2"] != 0 || slices.ContainsFunc(rels, func(r elfpatch.Rela) bool {
		return module.Symbols[r.Symbol].Type == elf.STT_SECTION && r.Addend == to
	}) {
		t.Errorf("references of code: %v, want some to the copy that is used and none to the one at %#x", calls, left)
	}
}

// testRefused: each of these packages do not go together.
func (f kernelFixture) testRefused(t *testing.T) {
	base := f.makeOf(t, "base", "show", `"before"`, `"after"`, "return scale(x)", "return 2 * scale(x)")
	counted := []string{"int show(struct", "static int count;\nstatic noinline void tell(struct seq_file *m) { seq_puts(m, count++ & 1 ? \"odd\" : \"even\"); }\nint show(struct", `seq_puts(m, "before");`, `tell(m);`}
	all := []string{"show(m, 2) * 5", "show(m, 2) * 6"}
	signed := f.makeOf(t, "signed", "twin", `"twin"`, `"other twin"`)
	signed.Package.Manifest.Kernel.Signed = true
	stack := f.makeOf(t, "stack", "twin", `"twin"`, `"other twin"`)
	stack.Package.Manifest.Kernel.Replace = false
	older := f.makeOf(t, "older", "twin", `"twin"`, `"other twin"`)
	older.Package.Manifest.Kernel.BuildID = bytes.Repeat([]byte{8}, 20)
	pre := []string{"int show_all", "static int before(void *o) { return helper(o != 0); }\nCALLBACK(pre_patch, before);\nint show_all"}
	for _, tc := range []struct {
		name string
		with []compose.Part
		code refusal.Code
		want string // where and text
	}{
		{"code", []compose.Part{base, f.makeOf(t, "other", "show", `"before"`, `"after"`, "return scale(x)", "return 3 * scale(x)")},
			refusal.MergeConflict, "vmlinux: show: base.lpatch and other.lpatch replace it differently"},
		{"text", []compose.Part{base, f.makeOf(t, "other", "show", `"before"`, `"later"`, "return scale(x)", "return 2 * scale(x)")},
			refusal.MergeConflict, "vmlinux: show: base.lpatch and other.lpatch replace it differently"},
		{"helper", []compose.Part{f.makeOf(t, "a", "show", counted...), f.makeOf(t, "b", "show", append(slices.Clone(counted[:3]), `tell(m); tell(m);`)...)},
			refusal.MergeConflict, "vmlinux: show: a.lpatch and b.lpatch replace it differently"},
		{"variables of one function", []compose.Part{f.makeOf(t, "a", "show", append(slices.Clone(counted), all...)...),
			f.part(t, f.countedAndTwin(t, counted))}, refusal.MergeConflict, "variables of their own: count"},
		{"variables of one name", []compose.Part{f.makeOf(t, "a", "show", counted...),
			f.makeOf(t, "b", "twin", "int twin(struct", "static int count;\nint twin(struct", `"twin"`, `count++ & 1 ? "a" : "b"`)},
			refusal.MergeConflict, "count: a.lpatch and b.lpatch both bring a new variable"},
		{"callbacks", []compose.Part{f.makeOf(t, "a", "show", append(slices.Clone(pre), all...)...),
			f.makeOf(t, "b", "twin", "int twin", "static int before(void *o) { return helper(o != 0); }\nCALLBACK(post_patch, before);\nint twin", `"twin"`, `"other"`)},
			refusal.MergeConflict, "vmlinux: a.lpatch and b.lpatch both have callbacks"},
		{"copies", []compose.Part{base, f.makeOf(t, "b", "twin", "int twin(struct", "static noinline int show(int x) { return helper(x) + 1; }\nint twin(struct", "scale(x * 2)", "show(x)")},
			refusal.MergeConflict, "vmlinux: show: base.lpatch replaces it, and b.lpatch has code of its own that is called show"},
		{"signed", []compose.Part{base, signed}, refusal.MergeKernel, "signed.lpatch: its module is signed"},
		{"replace", []compose.Part{base, stack}, refusal.MergeKernel, "replace is "},
		{"another kernel", []compose.Part{base, older}, refusal.MergeKernel, "build-id"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := mergeParts(tc.with...)
			var list refusal.List
			if !errors.As(err, &list) {
				t.Fatalf("error %v", err)
			}
			if !slices.ContainsFunc(list, func(r refusal.Refusal) bool {
				return r.Code == tc.code && strings.Contains(r.Where+": "+r.Text, tc.want)
			}) {
				t.Errorf("%v, want %s", list, tc.want)
			}
			slices.Reverse(tc.with)
			_, again := mergeParts(tc.with...)
			if again == nil || again.Error() != err.Error() {
				t.Errorf("in the other order: %v", again)
			}
		})
	}
}

// countedAndTwin changes show and another object.
func (f kernelFixture) countedAndTwin(t testing.TB, counted []string) Inputs {
	t.Helper()
	show, _ := f.r.pair(t, "show", showSource, change(t, showSource, counted...))
	twin, _ := f.r.pair(t, "twin", twinSource, change(t, twinSource, `"twin"`, `"other twin"`))
	in := f.r.inputs(f.img, Target{Name: "vmlinuz", Pairs: []Pair{show, twin}})
	in.Name = "b"
	return in
}

// testForeign: a module that is not exactly what livepatch makes is not taken
// apart.
func testForeign(t *testing.T, whole []byte) {
	if _, err := kmod.Undo(whole); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		edit func(*elfpatch.File)
	}{
		{"init", func(f *elfpatch.File) { s := f.Section(".init.text"); s.Data[len(s.Data)-1] ^= 1 }},
		{"structures", func(f *elfpatch.File) { s := f.Section(".data.livepatch"); s.Data[32] = 1 }},
		{"information", func(f *elfpatch.File) {
			s := f.Section(".modinfo")
			s.Data = append(s.Data, "intree=Y\x00"...)
			s.Size += 9
		}},
		{"a section", func(f *elfpatch.File) {
			f.AddSection(elfpatch.Section{Name: ".mystery", Type: elf.SHT_PROGBITS, Data: []byte{1}})
		}},
		{"struct module", func(f *elfpatch.File) { f.Section(".gnu.linkonce.this_module").Data[700] = 1 }},
	} {
		f, err := elfpatch.Parse(bytes.Clone(whole))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range f.Sections {
			s.Data = bytes.Clone(s.Data)
		}
		tc.edit(f)
		b, err := f.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		var list refusal.List
		if _, err := kmod.Undo(b); !errors.As(err, &list) || list[0].Code != refusal.MergeKernel {
			t.Errorf("%s: error %v", tc.name, err)
		}
	}
}
