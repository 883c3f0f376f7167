package diff

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// What the author asks for and what the object imports is told beside the
// object.
func TestKernelCutTells(t *testing.T) {
	a, b := assemble(t, elf.EM_X86_64, callbacksX86)
	cut := cutKernel(t, a, b, CutOptions{})
	var got []string
	for _, c := range cut.Kernel.Callbacks {
		got = append(got, c.Kind+" "+cut.Object.Symbols[c.Symbol].Name)
	}
	slices.Sort(got)
	if want := []string{"post_unpatch enter", "pre_patch enter"}; !slices.Equal(got, want) {
		t.Errorf("callbacks %q, want %q", got, want)
	}
	if !cut.Kernel.Raw {
		t.Error("the object is not said to need objtool")
	}
	a, b = assemble(t, elf.EM_X86_64, twoX86)
	cut = cutKernel(t, a, b, CutOptions{Strides: map[string]uint64{"__bug_table": 12, ".altinstructions": 14}})
	if want := []string{"FIRST", "SECOND"}; !slices.Equal(cut.Kernel.ImportNS, want) {
		t.Errorf("namespaces %q, want %q", cut.Kernel.ImportNS, want)
	}
	a, b = assemble(t, elf.EM_X86_64, orcX86)
	if cut = cutKernel(t, a, b, CutOptions{}); cut.Kernel.Raw {
		t.Error("an object with unwind tables is said to need objtool")
	}
}

// The size of entries that the target's types give has to be that of the
// object.
func TestKernelCutStrides(t *testing.T) {
	a, b := assemble(t, elf.EM_X86_64, twoX86)
	for name, size := range map[string]uint64{"__bug_table": 16, ".altinstructions": 12, "__jump_table": 8, ".smp_locks": 8} {
		refuses(t, a, b, CutOptions{Strides: map[string]uint64{name: size}}, refusal.SpecialSection, name)
	}
	a, b = assemble(t, elf.EM_X86_64, orcX86)
	refuses(t, a, b, CutOptions{Strides: map[string]uint64{".orc_unwind": 8}}, refusal.SpecialSection, ".orc_unwind")
}

func refuses(t *testing.T, a, b *elfpatch.File, opt CutOptions, code refusal.Code, where string) {
	t.Helper()
	d, err := Compare(a, b, Options{Name: "o", Kernel: true})
	if err == nil {
		_, err = d.CutFor(opt)
	}
	list, _ := err.(refusal.List)
	if !slices.ContainsFunc(list, func(r refusal.Refusal) bool { return r.Code == code && strings.Contains(r.Where+r.Text, where) }) {
		t.Errorf("%s: got %v, want a refusal %s", where, err, code)
	}
}

// Tables whose size or relocations are not those of whole entries are refused,
// never torn.
func TestKernelCutDamagedTables(t *testing.T) {
	for _, tc := range []struct {
		source, section string
		damage          func(*elfpatch.File, *elfpatch.Section)
	}{
		{orcX86, ".orc_unwind", shorten(1)},
		{orcX86, ".orc_unwind", shorten(5)},
		{orcX86, ".orc_unwind_ip", shorten(4)},
		{orcX86, ".orc_unwind_ip", moveRelocation(2)},
		{orcX86, "__mcount_loc", shorten(3)},
		{orcX86, "__mcount_loc", moveRelocation(4)},
		{hackX86, ".discard.unwind_hints", moveRelocation(3)},
		{hackX86, ".discard.annotate_insn", shorten(3)},
		{twoX86, "__bug_table", shorten(4)},
		{twoX86, "__ex_table", shorten(8)},
		{twoX86, "__jump_table", moveRelocation(4)},
		{twoX86, ".altinstructions", shorten(13)},
		{twoX86, ".static_call_sites", shorten(4)},
		{twoX86, ".call_sites", moveRelocation(2)},
	} {
		a, b := assemble(t, elf.EM_X86_64, tc.source)
		for _, f := range []*elfpatch.File{a, b} {
			sec := f.Section(tc.section)
			sec.Data = slices.Clone(sec.Data)
			tc.damage(f, sec)
			sec.Size = uint64(len(sec.Data))
		}
		refuses(t, a, b, CutOptions{}, refusal.SpecialSection, strings.TrimSuffix(tc.section, "_ip"))
	}
}

func shorten(n int) func(*elfpatch.File, *elfpatch.Section) {
	return func(f *elfpatch.File, sec *elfpatch.Section) {
		sec.Data = sec.Data[:len(sec.Data)-n]
		rels, _ := f.Relocations(sec)
		rels = slices.DeleteFunc(slices.Clone(rels), func(r elfpatch.Rela) bool { return r.Offset >= uint64(len(sec.Data)) })
		if err := f.SetRelocations(sec, rels); err != nil {
			panic(err)
		}
	}
}

func moveRelocation(by uint64) func(*elfpatch.File, *elfpatch.Section) {
	return func(f *elfpatch.File, sec *elfpatch.Section) {
		rels, _ := f.Relocations(sec)
		rels = slices.Clone(rels)
		rels[len(rels)-1].Offset -= by
		if err := f.SetRelocations(sec, rels); err != nil {
			panic(err)
		}
	}
}

// kernelPairs are small objects that have every table.
func kernelPairs(t testing.TB) [][2][]byte {
	t.Helper()
	var pairs [][2][]byte
	for _, tc := range asmCases {
		a, b := assemble(t, tc.machine, tc.source)
		pairs = append(pairs, [2][]byte{must(a.Bytes()), must(b.Bytes())})
	}
	return pairs
}

// FuzzCut cuts damaged kernel objects; edits are those of FuzzCompare.
func FuzzCut(f *testing.F) {
	pairs := kernelPairs(f)
	for i := range pairs {
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{0x80, 0, 0x60, 1, 0x80, 1, 0x10, 0xff})
	}
	f.Fuzz(func(t *testing.T, pair uint8, edits []byte) {
		p := pairs[int(pair)%len(pairs)]
		var both [2][]byte
		for i := range both {
			both[i] = bytes.Clone(p[i])
			for e := edits; len(e) >= 4; e = e[4:] {
				if off := int(e[0]&0x7f)<<16 | int(e[1])<<8 | int(e[2]); int(e[0]>>7) == i {
					both[i][off%len(p[i])] ^= e[3]
				}
			}
		}
		cutDamaged(t, both[0], both[1])
	})
}

// cutDamaged cuts two objects that may be nonsense. What comes out is sound.
func cutDamaged(t testing.TB, before, after []byte) {
	t.Helper()
	a, err := elfpatch.Parse(before)
	if err != nil {
		return
	}
	b, err := elfpatch.Parse(after)
	if err != nil {
		return
	}
	d, err := Compare(a, b, Options{Kernel: true})
	if err != nil {
		return
	}
	cut, err := d.CutFor(CutOptions{ModuleKey: func(s string) (string, bool) { return "m", strings.HasPrefix(s, "__tracepoint_") }})
	if err != nil {
		return
	}
	f, err := elfpatch.Parse(must(cut.Object.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for _, sec := range f.Sections {
		rels, err := f.Relocations(sec)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rels {
			if info, ok := elfpatch.RelocInfo(f.Machine, r.Type); ok && r.Offset+uint64(info.Size) > sec.Size {
				t.Errorf("%s+%#x: %s is outside of the section", sec.Name, r.Offset, info.Name)
			}
		}
	}
	for _, table := range cut.Kernel.Tables {
		if row := kernel.Lookup(f.Machine, table.Section); row == nil || row.Use == kernel.Entries {
			checkTable(t, f, table)
		}
	}
}

// Damaged objects do no harm: 5,000 of them, and 100,000 in the slow tier.
func TestKernelCutDamaged(t *testing.T) {
	rounds := 5000
	if slow() {
		rounds = 100000
	}
	pairs := kernelPairs(t)
	if dir := filepath.Join(testkit.Shared(t, "vectors/object-pairs"), "x86_64"); true {
		for _, name := range []string{"fixup-section", "static-call-issue-1165", "cmdline-ubsan", "dynamic-debug-jump-label-issue-1253", "special-static"} {
			a, err1 := os.ReadFile(filepath.Join(dir, name+".ORIG.o"))
			b, err2 := os.ReadFile(filepath.Join(dir, name+".PATCHED.o"))
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			pairs = append(pairs, [2][]byte{a, b})
		}
	}
	seed := uint64(0x9e3779b97f4a7c15)
	next := func(n int) int {
		seed ^= seed << 13
		seed ^= seed >> 7
		seed ^= seed << 17
		return int(seed % uint64(n))
	}
	for i := range rounds {
		p := pairs[i%len(pairs)]
		if len(p[0]) > 50000 && i/len(pairs)%20 != 0 {
			p = pairs[next(len(asmCases))] // large ones take long
		}
		both := [2][]byte{bytes.Clone(p[0]), bytes.Clone(p[1])}
		for range 1 + next(4) {
			b := both[next(2)]
			b[next(len(b))] ^= byte(1 + next(255))
		}
		cutDamaged(t, both[0], both[1])
		if t.Failed() {
			t.Fatalf("round %d", i)
		}
	}
}
