package compose

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/kmod"
)

// tabled is an object with two functions that are the same but for what a table
// says of one of them, and for the place of a text.
func tabled(t testing.TB) *module {
	t.Helper()
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	add := func(name string, flags elf.SectionFlag, data []byte) *elfpatch.Section {
		return f.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | flags, Align: 1, Data: data})
	}
	body := []byte{
		0x48, 0x8d, 0x3d, 0, 0, 0, 0, // lea text(%rip), %rdi
		0xe8, 0, 0, 0, 0, // call printer
		0x0f, 0x0b, // ud2
		0x90, 0x90,
	}
	text := add(".text", elf.SHF_EXECINSTR, slices.Concat(body, body, body))
	words := add(".rodata", 0, []byte("text\x00\x00\x00\x00text\x00text\x00"))
	bugs := add("__bug_table", 0, make([]byte, 24))
	bugs.Data[10] = 1                  // flags of the first
	bugs.Data[8], bugs.Data[20] = 7, 9 // lines
	section := func(s *elfpatch.Section) uint32 {
		return uint32(f.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Section: s.Index}))
	}
	textSym, wordsSym := section(text), section(words)
	printer := uint32(f.AddSymbol(elfpatch.Symbol{Name: "printer", Bind: elf.STB_GLOBAL}))
	const pc32 = uint32(elf.R_X86_64_PC32)
	var rels, table []elfpatch.Rela
	for i, at := range []int64{0, 8, 13} {
		off := uint64(16 * i)
		f.AddSymbol(elfpatch.Symbol{Name: []string{"warns", "other", "plain"}[i], Type: elf.STT_FUNC, Section: text.Index, Value: off, Size: 16})
		rels = append(rels, elfpatch.Rela{Offset: off + 3, Type: pc32, Symbol: wordsSym, Addend: at - 4},
			elfpatch.Rela{Offset: off + 8, Type: uint32(elf.R_X86_64_PLT32), Symbol: printer, Addend: -4})
		if i < 2 {
			row := uint64(12 * i)
			table = append(table, elfpatch.Rela{Offset: row, Type: pc32, Symbol: textSym, Addend: int64(off) + 12}, elfpatch.Rela{Offset: row + 4, Type: pc32, Symbol: wordsSym, Addend: at})
		}
	}
	for sec, list := range map[*elfpatch.Section][]elfpatch.Rela{text: rels, bugs: table} {
		if err := f.SetRelocations(sec, list); err != nil {
			t.Fatal(err)
		}
	}
	m, err := newModule(kmod.Spec{Object: f, Bindings: map[string]kmod.Binding{"printer": {Kind: kmod.Export, Name: "printer"}}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func digestOf(t testing.TB, m *module, name string) [32]byte {
	t.Helper()
	r, err := m.replacementOf(name)
	if err != nil {
		t.Fatal(err)
	}
	return r.digest
}

// Texts count by what they say; entries of tables count, lines of the source do
// not.
func TestModuleDigest(t *testing.T) {
	m := tabled(t)
	warns := digestOf(t, m, "warns")
	if warns == digestOf(t, m, "plain") {
		t.Error("a function with a WARN and one without are the same")
	}
	if warns == digestOf(t, m, "other") {
		t.Error("flags of an entry do not count")
	}
	m.obj.Section("__bug_table").Data[22] = 1
	if warns != digestOf(t, m, "other") {
		t.Error("two that differ by the line of the source and the place of a text are not the same")
	}
	m.obj.Section(".rodata").Data[9] = 'a'
	if warns == digestOf(t, m, "other") {
		t.Error("the text does not count")
	}
}

// TestLiteral finds out how far constants without symbol go.
func TestLiteral(t *testing.T) {
	m := tabled(t)
	rodata := m.obj.Section(".rodata").Index
	for _, tc := range []struct{ at, hi uint64 }{{0, 4}, {8, 12}, {13, 17}, {5, 5}} {
		if u := m.literal(place{rodata, tc.at}); u.lo != tc.at || u.hi != tc.hi {
			t.Errorf("at %d: %d to %d, want to %d", tc.at, u.lo, u.hi, tc.hi)
		}
	}
	for text, want := range map[string]uint64{"ab\x00c": 3, "": 0, "\x00": 1, "a\x02\x00": 0, "\x016now\n\x00": 7} {
		if n, _ := textLength([]byte(text)); n != want {
			t.Errorf("%q has %d bytes, want %d", text, n, want)
		}
	}
}

// FuzzModule walks through whatever an object holds.
func FuzzModule(f *testing.F) {
	for _, dir := range []string{"x86_64-gcc", "aarch64-gcc"} {
		b, err := os.ReadFile(filepath.Join(binaries, dir, "counter.O2.after.o"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	b, err := tabled(f).obj.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		obj, err := elfpatch.Parse(b)
		if err != nil || obj.Type != elf.ET_REL {
			return
		}
		m, err := newModule(kmod.Spec{Object: obj})
		if err != nil {
			return
		}
		for i, s := range obj.Symbols {
			if s.Section <= 0 || s.Section >= len(obj.Sections) || i > 20 {
				continue
			}
			if r, err := m.replacementOf(s.Name); err == nil && r.digest == ([32]byte{}) {
				t.Error("an empty digest")
			}
		}
		m.variables()
	})
}
