package elfpatch_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// manySections is an object like those of -ffunction-sections with 70,000
// functions: a section of code and one of relocations for each.
func manySections(t testing.TB, functions int) *elfpatch.File {
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	callee := f.AddSymbol(elfpatch.Symbol{Name: "callee", Bind: elf.STB_GLOBAL})
	for i := range functions {
		text := f.AddSection(elfpatch.Section{
			Name: fmt.Sprintf(".text.f%d", i), Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16,
			Data: []byte{0xe8, 0, 0, 0, 0, 0xc3}, // call callee; ret
		})
		bind := elf.STB_GLOBAL
		if i%2 == 1 {
			bind = elf.STB_LOCAL // locals after globals: Bytes has to sort
		}
		f.AddSymbol(elfpatch.Symbol{
			Name: fmt.Sprintf("f%d", i), Type: elf.STT_FUNC, Bind: bind, Section: text.Index, Size: 6,
		})
		err := f.SetRelocations(text, []elfpatch.Rela{
			{Offset: 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: uint32(callee), Addend: -4},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestManySections(t *testing.T) {
	const functions = 70001 // with the tables and a note, 140,008 sections
	f := manySections(t, functions)
	f.AddSection(elfpatch.Section{Name: ".note.GNU-stack", Type: elf.SHT_PROGBITS})
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	g, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(g.Sections), 140008; got != want {
		t.Errorf("%d sections, want %d", got, want)
	}
	if got, want := len(g.Symbols), functions+2; got != want {
		t.Fatalf("%d symbols, want %d", got, want)
	}
	if g.Symbols[1].Name != "f1" || g.Symbols[functions/2+1].Name != "callee" {
		t.Errorf("local symbols are not in front: %v, %v", g.Symbols[1], g.Symbols[functions/2+1])
	}
	for i, s := range g.Symbols[1:] {
		if s.Name == "callee" {
			continue
		}
		sec := g.Sections[s.Section]
		if sec.Name != ".text."+s.Name {
			t.Fatalf("symbol %d, %s, is in section %s", i+1, s.Name, sec.Name)
		}
		rel, err := g.Relocations(sec)
		if err != nil || len(rel) != 1 || g.Symbols[rel[0].Symbol].Name != "callee" {
			t.Fatalf("relocations of %s: %v, %v", sec.Name, rel, err)
		}
	}
	again, err := g.Bytes()
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("written again, the file differs (%v)", err)
	}
	linkTogether(t, b, fmt.Sprintf("%d", functions-1))
}

// linkTogether lets the linker accept an object.
func linkTogether(t *testing.T, b []byte, last string) {
	ld, err := exec.LookPath("ld")
	if err != nil {
		t.Log("no linker to try the object with")
		return
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.o"), filepath.Join(dir, "out.o")
	if err := os.WriteFile(in, b, 0o644); err != nil {
		t.Fatal(err)
	}
	// One section of all code, or the linker takes minutes for the names.
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("SECTIONS { .text : { *(.text.*) } }"), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command(ld, "-r", "-T", script, "-o", out, in).CombinedOutput(); err != nil {
		t.Fatalf("ld -r: %v\n%s", err, text)
	}
	linked, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elfpatch.Parse(linked)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.Symbols, func(s elfpatch.Symbol) bool { return s.Name == "f"+last }) {
		t.Errorf("the linked object lacks f%s", last)
	}
}

func TestNew(t *testing.T) {
	f := elfpatch.New(elf.ET_REL, elf.EM_AARCH64)
	if len(f.Sections) != 1 || len(f.Symbols) != 1 {
		t.Fatalf("%d sections and %d symbols, want the null ones", len(f.Sections), len(f.Symbols))
	}
	text := f.AddSection(elfpatch.Section{
		Name: ".text.g", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 4,
		Data: []byte{0, 0, 0, 0x94, 0xc0, 0x03, 0x5f, 0xd6},
	})
	bss := f.AddSection(elfpatch.Section{Name: ".bss", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Size: 1 << 40, Align: 8})
	g := f.AddSymbol(elfpatch.Symbol{Name: "g", Type: elf.STT_FUNC, Bind: elf.STB_WEAK, Section: text.Index, Size: 8})
	x := f.AddSymbol(elfpatch.Symbol{Name: "x", Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: bss.Index, Value: 16, Size: 4})
	abs := f.AddSymbol(elfpatch.Symbol{Name: "abs", Bind: elf.STB_GLOBAL, Section: elfpatch.Absolute, Value: 7})
	f.AddSymbol(elfpatch.Symbol{Name: "common", Bind: elf.STB_GLOBAL, Type: elf.STT_OBJECT, Section: elfpatch.Common, Value: 8, Size: 8})
	f.AddGroup(".group", 1, g, []int{text.Index})
	err := f.SetRelocations(text, []elfpatch.Rela{
		{Offset: 0, Type: uint32(elf.R_AARCH64_CALL26), Symbol: uint32(abs)}, {Offset: 4, Symbol: uint32(x), Addend: -3},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 4096 {
		t.Errorf("%d bytes: contents of .bss were written", len(b))
	}
	h, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	wantSymbols := []elfpatch.Symbol{{}, f.Symbols[x], f.Symbols[g], f.Symbols[abs], f.Symbols[abs+1]}
	if !slices.Equal(h.Symbols, wantSymbols) {
		t.Errorf("symbols %v\nwant    %v", h.Symbols, wantSymbols)
	}
	rel, err := h.Relocations(h.Section(".text.g"))
	want := []elfpatch.Rela{{Type: uint32(elf.R_AARCH64_CALL26), Symbol: 3}, {Offset: 4, Symbol: 1, Addend: -3}}
	if err != nil || !slices.Equal(rel, want) {
		t.Errorf("relocations %v (%v), want %v", rel, err, want)
	}
	groups, err := h.Groups()
	if err != nil || len(groups) != 1 || !groups[0].Comdat() || h.Symbols[groups[0].Signature].Name != "g" ||
		!slices.Equal(groups[0].Members, []int{h.Section(".text.g").Index, h.Section(".rela.text.g").Index}) {
		t.Errorf("groups %+v (%v)", groups, err)
	}
	if got := h.Section(".bss"); got.Size != 1<<40 || got.Data != nil {
		t.Errorf(".bss: size %#x, data %v", got.Size, got.Data)
	}
	if h.Section(".text.g").Flags&elf.SHF_GROUP == 0 || h.Section(".nope") != nil {
		t.Error("a flag or a section that should not be as it is")
	}
}

func TestSetRelocations(t *testing.T) {
	f := manySections(t, 2)
	s := f.Section(".text.f1")
	tests := []struct {
		list []elfpatch.Rela
		want string
	}{
		{[]elfpatch.Rela{{Offset: 6}}, ""},
		{nil, ""},
		{[]elfpatch.Rela{{Offset: 7}}, "set relocations of .text.f1: entry 0: offset 0x7 exceeds 0x6"},
		{[]elfpatch.Rela{{}, {Symbol: 4}}, "set relocations of .text.f1: entry 1: symbol index 4, there are 4 symbols"},
	}
	for _, test := range tests {
		err := f.SetRelocations(s, test.list)
		if test.want != "" {
			if err == nil || err.Error() != test.want {
				t.Errorf("%v: %v, want %s", test.list, err, test.want)
			}
			continue
		}
		got, err2 := f.Relocations(s)
		if err != nil || err2 != nil || !slices.Equal(got, test.list) {
			t.Errorf("%v: %v, %v, %v", test.list, got, err, err2)
		}
	}
	if other, err := f.Relocations(f.Section(".text.f0")); err != nil || len(other) != 1 {
		t.Errorf("relocations of another section changed: %v, %v", other, err)
	}
}

func TestBytesRefuses(t *testing.T) {
	tests := []struct {
		want string
		edit func(f *elfpatch.File)
	}{
		{"write: section .text.f0 at position 1 has index 9", func(f *elfpatch.File) { f.Sections[1].Index = 9 }},
		{"write: section 1: a zero in its name \"a\\x00b\"", func(f *elfpatch.File) { f.Sections[1].Name = "a\x00b" }},
		{"write: symbol 2: a zero in its name \"\\x00\"", func(f *elfpatch.File) { f.Symbols[2].Name = "\x00" }},
		{"write: symbol 2 (f0) is in section 6, there are 6", func(f *elfpatch.File) { f.Symbols[2].Section = 6 }},
		{"write: symbol 2 (f0) is in section -1, there are 6", func(f *elfpatch.File) { f.Symbols[2].Section = -1 }},
		{"write: symbol 2 (f0): type 16, binding 1", func(f *elfpatch.File) { f.Symbols[2].Type = 16 }},
		{"write: segments can only be written to a file that was read", func(f *elfpatch.File) { f.Segments = make([]elfpatch.Segment, 1) }},
		{"write: section 2 is gone, it was a table of the file", func(f *elfpatch.File) { f.Sections, f.Symbols = f.Sections[:1], nil }},
		{"write: the string table of symbols is not a string table", func(f *elfpatch.File) { f.SymbolTable().Link = 1 }},
	}
	for _, test := range tests {
		f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
		*f = *manySections(t, 1)
		f.AddSection(elfpatch.Section{Name: ".note", Type: elf.SHT_NOTE})
		test.edit(f)
		if _, err := f.Bytes(); err == nil || err.Error() != test.want {
			t.Errorf("got %v\nwant %s", err, test.want)
		}
	}
}

// Whoever reads relocations looks up their symbols: a file that has none has no
// relocations, not even against symbol 0.
func TestRelocationsWithoutSymbols(t *testing.T) {
	b, err := manySections(t, 2).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	headers := binary.LittleEndian.Uint64(b[0x28:])
	for i, s := range f.Sections {
		h := b[headers+64*uint64(i):]
		switch s.Type {
		case elf.SHT_SYMTAB:
			binary.LittleEndian.PutUint32(h[4:], uint32(elf.SHT_PROGBITS))
		case elf.SHT_RELA:
			binary.LittleEndian.PutUint32(h[40:], 0)
			for at := s.Offset; at < s.Offset+s.Size; at += 24 {
				binary.LittleEndian.PutUint32(b[at+12:], 0)
			}
		}
	}
	if f, err = elfpatch.Parse(b); err != nil {
		t.Fatal(err)
	}
	if len(f.Symbols) != 0 {
		t.Fatalf("%d symbols", len(f.Symbols))
	}
	got, err := f.Relocations(f.Section(".text.f1"))
	if want := "symbol index 0, there are 0 symbols"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
}
