package elfpatch_test

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// sharedLibrary makes a small ET_DYN with everything that the dynamic loader
// reads: two PT_LOAD, PT_DYNAMIC, PT_NOTE, symbols with versions (one needed,
// two defined, one hidden), relocations plain and packed, and section headers.
func sharedLibrary(t testing.TB) []byte {
	strtab := "\x00libc.so.6\x00libx.so\x00GLIBC_2.34\x00V1\x00V2\x00read\x00f\x00/opt\x00"
	str := func(s string) uint64 {
		for i := range strtab {
			if i+len(s) < len(strtab) && strtab[i:i+len(s)] == s && strtab[i+len(s)] == 0 && strtab[i-min(i, 1)] == 0 {
				return uint64(i)
			}
		}
		t.Fatalf("no string %q", s)
		return 0
	}
	img := &image{}
	img.pad(64 + 5*56)
	dynstr := img.put(8, []byte(strtab))
	dynsym := img.put(8, slices.Concat(make([]byte, 24), // null
		sym(str("read"), 0x12, 0, 0, 0),
		sym(str("f"), 0x12, 4, 0x200, 16),
		sym(str("f"), 0x12, 4, 0x210, 16)))
	versym := img.put(2, u16s(0, 4, 0x8002, 3))
	verneed := img.put(8, slices.Concat(u16s(1, 1), u32s(str("libc.so.6"), 16, 0), u32s(0), u16s(0, 4), u32s(str("GLIBC_2.34"), 0)))
	verdef := img.put(8, slices.Concat(
		u16s(1, 1, 1, 1), u32s(0, 20, 28), u32s(str("libx.so"), 0),
		u16s(1, 0, 2, 1), u32s(0, 20, 28), u32s(str("V1"), 0),
		u16s(1, 0, 3, 2), u32s(0, 20, 0), u32s(str("V2"), 8), u32s(str("V1"), 0)))
	hash := img.put(8, slices.Concat(u32s(1, 4), u32s(1), u32s(0, 2, 3, 0)))
	rela := img.put(8, u64s(0x1100, 8, 0x200))
	jmprel := img.put(8, u64s(0x1108, 1<<32|7, 0))
	relr := img.put(8, u64s(0x1110, 0b101<<1|1)) // 0x1110, 0x1118, 0x1128
	note := img.put(4, slices.Concat(u32s(4, 8, 3), []byte("GNU\x00"), []byte("\x01\x02\x03\x04\x05\x06\x07\x08")))
	noteEnd := len(img.b)
	text := img.put(64, make([]byte, 64))
	textEnd := len(img.b)
	const shift = 0x1000 - 0x400 // addresses of the second segment less their offsets
	img.pad(0x500)
	slots := img.put(8, u64s(0x200, 0, 0x208, 0x210, 0, 0x218))
	dynamic := img.put(8, u64s(
		uint64(elf.DT_NEEDED), str("libc.so.6"), uint64(elf.DT_SONAME), str("libx.so"), uint64(elf.DT_RUNPATH), str("/opt"),
		uint64(elf.DT_STRTAB), dynstr, uint64(elf.DT_STRSZ), uint64(len(strtab)), uint64(elf.DT_SYMTAB), dynsym, uint64(elf.DT_HASH), hash,
		uint64(elf.DT_VERSYM), versym, uint64(elf.DT_VERNEED), verneed, uint64(elf.DT_VERNEEDNUM), 1, uint64(elf.DT_VERDEF), verdef,
		uint64(elf.DT_VERDEFNUM), 3, uint64(elf.DT_RELA), rela, uint64(elf.DT_RELASZ), 24, uint64(elf.DT_JMPREL), jmprel,
		uint64(elf.DT_PLTRELSZ), 24, uint64(elf.DT_PLTREL), uint64(elf.DT_RELA), 36, relr, 35, 16,
		uint64(elf.DT_FLAGS), uint64(elf.DF_BIND_NOW), uint64(elf.DT_FLAGS_1), uint64(elf.DF_1_NOW), 0, 0))
	end := uint64(len(img.b))
	debug := img.put(1, []byte("a comment, not loaded"))
	names := "\x00.dynstr\x00.dynsym\x00.note\x00.text\x00.data\x00.dynamic\x00.bss\x00.comment\x00.shstrtab\x00"
	shstrtab := img.put(1, []byte(names))
	shoff := img.put(8, slices.Concat(make([]byte, 64),
		shdr(1, elf.SHT_STRTAB, 2, dynstr, dynstr, len(strtab), 0, 0, 1, 0),
		shdr(9, elf.SHT_DYNSYM, 2, dynsym, dynsym, 96, 1, 1, 8, 24),
		shdr(17, elf.SHT_NOTE, 2, note, note, noteEnd-int(note), 0, 0, 4, 0),
		shdr(23, elf.SHT_PROGBITS, 6, text, text, textEnd-int(text), 0, 0, 64, 0),
		shdr(29, elf.SHT_PROGBITS, 3, slots+shift, slots, int(dynamic-slots), 0, 0, 8, 0),
		shdr(35, elf.SHT_DYNAMIC, 3, dynamic+shift, dynamic, int(end-dynamic), 1, 0, 8, 16),
		shdr(44, elf.SHT_NOBITS, 3, end+shift, end, 0x40, 0, 0, 8, 0),
		shdr(49, elf.SHT_PROGBITS, 0, 0, debug, 21, 0, 0, 1, 0),
		shdr(58, elf.SHT_STRTAB, 0, 0, shstrtab, len(names), 0, 0, 1, 0)))
	b := img.b
	copy(b, "\x7fELF\x02\x01\x01")
	copy(b[16:], u16s(3, 62))
	copy(b[20:], u32s(1))
	copy(b[24:], u64s(text, 64, shoff))
	copy(b[52:], u16s(64, 56, 5, 64, 10, 9))
	copy(b[64:], slices.Concat(
		phdr(elf.PT_LOAD, 5, 0, 0, textEnd, textEnd), phdr(elf.PT_LOAD, 6, 0x500, 0x500+shift, int(end)-0x500, int(end)-0x500+0x40),
		phdr(elf.PT_DYNAMIC, 6, dynamic, dynamic+shift, int(end-dynamic), int(end-dynamic)),
		phdr(elf.PT_NOTE, 4, note, note, noteEnd-int(note), noteEnd-int(note)), phdr(elf.PT_GNU_STACK, 6, 0, 0, 0, 0)))
	return b
}

type image struct{ b []byte }

func (m *image) pad(n int) { m.b = append(m.b, make([]byte, n-len(m.b))...) }

func (m *image) put(align int, b []byte) uint64 {
	m.pad((len(m.b) + align - 1) / align * align)
	at := len(m.b)
	m.b = append(m.b, b...)
	return uint64(at)
}

func u16s(v ...uint16) []byte { b, _ := binary.Append(nil, le, v); return b }
func u64s(v ...uint64) []byte { b, _ := binary.Append(nil, le, v); return b }

func u32s(v ...uint64) (b []byte) {
	for _, x := range v {
		b = le.AppendUint32(b, uint32(x))
	}
	return b
}

func sym(name uint64, info, section uint16, value, size uint64) []byte {
	return slices.Concat(u32s(name), u16s(info, section), u64s(value, size))
}

func phdr(t elf.ProgType, flags, off, addr uint64, file, mem int) []byte {
	return slices.Concat(u32s(uint64(t), flags), u64s(off, addr, addr, uint64(file), uint64(mem), 8))
}

func shdr(name uint64, t elf.SectionType, flags, addr, off uint64, size int, link, info, align, entsize uint64) []byte {
	return slices.Concat(u32s(name, uint64(t)), u64s(flags, addr, off, uint64(size)), u32s(link, info), u64s(align, entsize))
}

// withoutSections removes the section headers of a file.
func withoutSections(b []byte) []byte {
	b = slices.Clone(b)
	clear(b[40:48])
	clear(b[58:64])
	return b
}

func TestDynamic(t *testing.T) {
	whole := sharedLibrary(t)
	for name, b := range map[string][]byte{"sections": whole, "no sections": withoutSections(whole)} {
		f := mustParse(t, b)
		d, err := f.Dynamic()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.Soname != "libx.so" || !slices.Equal(d.Needed, []string{"libc.so.6"}) || d.Runpath != "/opt" ||
			d.Flags != elf.DF_BIND_NOW || d.Flags1 != elf.DF_1_NOW {
			t.Errorf("%s: dynamic section %+v", name, d)
		}
		checkDynSymbols(t, name, f)
		rels, err := f.DynRelocations()
		want := []elfpatch.Rela{
			{Offset: 0x1100, Type: 8, Addend: 0x200}, {Offset: 0x1110, Type: 8, Addend: 0x208},
			{Offset: 0x1118, Type: 8, Addend: 0x210}, {Offset: 0x1128, Type: 8, Addend: 0x218},
			{Offset: 0x1108, Type: 7, Symbol: 1},
		}
		if err != nil || !slices.Equal(rels, want) {
			t.Errorf("%s: relocations %v (%v)\nwant %v", name, rels, err, want)
		}
		id, err := f.BuildID()
		if err != nil || string(id) != "\x01\x02\x03\x04\x05\x06\x07\x08" {
			t.Errorf("%s: build-id %x, %v", name, id, err)
		}
	}
}

func checkDynSymbols(t *testing.T, name string, f *elfpatch.File) {
	syms, err := f.DynSymbols()
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	fn := func(name string, section int, value, size uint64) elfpatch.Symbol {
		return elfpatch.Symbol{Name: name, Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: section, Value: value, Size: size}
	}
	want := []elfpatch.DynSymbol{
		{},
		{Symbol: fn("read", 0, 0, 0), Version: "GLIBC_2.34", Library: "libc.so.6"},
		{Symbol: fn("f", 4, 0x200, 16), Version: "V1", Hidden: true},
		{Symbol: fn("f", 4, 0x210, 16), Version: "V2"},
	}
	if !slices.Equal(syms, want) {
		t.Errorf("%s: dynamic symbols %v\nwant %v", name, syms, want)
	}
}

func TestReadAddr(t *testing.T) {
	b := sharedLibrary(t)
	f := mustParse(t, b)
	end := f.Segments[1].VAddr + f.Segments[1].FileSize
	tests := []struct {
		addr uint64
		n    int
		at   int // offset in the file, -1 if refused
	}{
		{0, 64, 0}, {0x1100, 8, 0x500}, {0x10ff, 1, -1}, {end - 1, 1, int(f.Segments[1].Offset+f.Segments[1].FileSize) - 1},
		{end - 1, 2, -1}, {end, 1, -1}, {end, 0, -1}, {0x1100, 0, 0x500}, {0, -1, -1}, {1<<64 - 1, 1, -1}, {0, 1 << 30, -1},
	}
	for _, test := range tests {
		got, ok := f.ReadAddr(test.addr, test.n)
		if ok != (test.at >= 0) || ok && (len(got) != test.n || test.n > 0 && &got[0] != &b[test.at]) {
			t.Errorf("ReadAddr(%#x, %d) = %x, %v", test.addr, test.n, got, ok)
		}
	}
}

func TestNoDynamic(t *testing.T) {
	f := mustParse(t, smallObject(t))
	if d, err := f.Dynamic(); d != nil || err != nil {
		t.Errorf("Dynamic: %v, %v", d, err)
	}
	if s, err := f.DynSymbols(); s != nil || err != nil {
		t.Errorf("DynSymbols: %v, %v", s, err)
	}
	if r, err := f.DynRelocations(); r != nil || err != nil {
		t.Errorf("DynRelocations: %v, %v", r, err)
	}
	if _, ok := f.ReadAddr(0, 1); ok {
		t.Error("ReadAddr reads from an object")
	}
}

func TestDebuglink(t *testing.T) {
	tests := []struct {
		data string
		name string
		crc  uint32
		ok   bool
	}{
		{"a.debug\x00\x01\x02\x03\x04", "a.debug", 0x04030201, true},
		{"ab.debug\x00\x00\x00\x00\x01\x02\x03\x04", "ab.debug", 0x04030201, true},
		{"ab.debug\x00\x00\x00\x00\x01\x02\x03", "", 0, false},
		{"a.debug", "", 0, false},
		{"\x00\x00\x00\x00\x01\x02\x03\x04", "", 0, false},
	}
	for _, test := range tests {
		f := elfpatch.New(elf.ET_DYN, elf.EM_X86_64)
		f.AddSection(elfpatch.Section{Name: ".gnu_debuglink", Type: elf.SHT_PROGBITS, Data: []byte(test.data)})
		if name, crc, ok := f.Debuglink(); name != test.name || crc != test.crc || ok != test.ok {
			t.Errorf("%q: %q, %#x, %v", test.data, name, crc, ok)
		}
	}
}

// What each linker puts behind the dynamic symbols is where they end, when
// nothing is exported and the section headers are not there, as in memory.
func TestDynSymbolsOfLinkers(t *testing.T) {
	for linker, program := range map[string]string{"bfd": "ld.bfd", "gold": "ld.gold", "lld": "ld.lld"} {
		testkit.Tool(t, program)
		dir := t.TempDir()
		source := "int puts(const char *); int main(void) { return puts(\"x\"); }\n"
		run(t, dir, source, testkit.Tool(t, "gcc"), "-xc", "-", "-O2", "-pie", "-fPIE", "-fuse-ld="+linker, "-o", "a")
		b, err := os.ReadFile(filepath.Join(dir, "a"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := mustParse(t, b).DynSymbols()
		if err != nil || len(want) < 3 {
			t.Fatalf("%s: %d dynamic symbols, %v", linker, len(want), err)
		}
		got, err := mustParse(t, withoutSections(b)).DynSymbols()
		if err != nil || len(got) != len(want) {
			t.Errorf("%s without section headers: %d dynamic symbols, %v, want %d", linker, len(got), err, len(want))
		}
	}
}

// strip takes sections away and leaves their numbers in .dynsym.
func TestStaleSectionNumbers(t *testing.T) {
	dir := t.TempDir()
	source := "int f(void) { return 1; } int x = 3;\n"
	run(t, dir, source, testkit.Tool(t, "gcc"), "-xc", "-", "-O2", "-shared", "-fPIC", "-Wl,-q,--emit-relocs", "-o", "a")
	run(t, dir, "", testkit.Tool(t, "strip"), "a")
	syms, err := testkit.ELF(t, filepath.Join(dir, "a")).DynSymbols()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, s := range syms {
		named[s.Name] = s.Section != elfpatch.Undefined
	}
	if !named["f"] || !named["x"] {
		t.Errorf("defined symbols %v, want f and x among them", named)
	}
}
