package elfpatch_test

import (
	"debug/elf"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// smallObject has a bit of everything that Parse looks at.
func smallObject(t testing.TB) []byte {
	f := manySections(t, 2)
	f.AddGroup(".group", 1, 2, []int{1})
	f.AddSection(elfpatch.Section{Name: ".note.x", Type: elf.SHT_NOTE, Flags: elf.SHF_ALLOC, Align: 4,
		Data: []byte("\x04\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00GNU\x00ab\x00\x00")})
	f.AddSection(elfpatch.Section{Name: ".bss", Type: elf.SHT_NOBITS, Size: 64})
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exercise calls everything that reads a file and returns how many bytes were
// allocated on the way. Whatever it finds wrong must be a FormatError.
func exercise(t testing.TB, b []byte) (allocated uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	defer func() {
		runtime.ReadMemStats(&after)
		allocated = after.TotalAlloc - before.TotalAlloc
	}()
	f, err := elfpatch.Parse(b)
	if !ok(t, err) {
		return
	}
	for _, s := range f.Sections {
		_, err := f.Relocations(s)
		ok(t, err)
	}
	_, err = f.Groups()
	ok(t, err)
	_, err = f.DynSymbols()
	ok(t, err)
	_, err = f.DynRelocations()
	ok(t, err)
	_, err = f.BuildID()
	ok(t, err)
	f.Debuglink()
	f.ReadAddr(f.Entry, 16)
	if out, err := f.Bytes(); err == nil {
		if _, err := elfpatch.Parse(out); err != nil {
			t.Errorf("what was written cannot be read: %v", err)
		}
	} else if !strings.HasPrefix(err.Error(), "write: ") {
		t.Errorf("unexpected error of Bytes: %v", err)
	}
	return
}

func ok(t testing.TB, err error) bool {
	var format *elfpatch.FormatError
	if err != nil && (!errors.As(err, &format) || format.Where == "" || format.Text == "") {
		t.Errorf("not a FormatError with a place: %v", err)
	}
	return err == nil
}

// allocationLimit is what a file may cost: a section header of 64 bytes
// becomes a Section and its copy, a symbol of 24 bytes a Symbol, names are
// copied and their places kept in maps, and the file is written.
func allocationLimit(size int) uint64 { return 64*uint64(size) + 1<<17 }

func smallFiles(t testing.TB) map[string][]byte {
	return map[string][]byte{"object": smallObject(t), "shared": sharedLibrary(t)}
}

func TestTruncated(t *testing.T) {
	for name, b := range smallFiles(t) {
		for n := range b {
			cut := slices.Clone(b[:n])
			if got := exercise(t, cut); got > allocationLimit(n) {
				t.Errorf("%s cut to %d bytes: %d allocated", name, n, got)
			}
			if _, err := elfpatch.Parse(cut); err == nil && n < len(b)-64 {
				t.Errorf("%s cut to %d of %d bytes is accepted", name, n, len(b))
			}
		}
	}
}

// TestMutated changes every byte of small files to values that make counts and
// offsets small, huge or off by a little.
func TestMutated(t *testing.T) {
	for name, b := range smallFiles(t) {
		limit := allocationLimit(len(b))
		for i := range b {
			for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff, b[i] + 1, b[i] - 1, b[i] ^ 4} {
				m := slices.Clone(b)
				m[i] = v
				if got := exercise(t, m); got > limit {
					t.Errorf("%s, byte %#x set to %#x: %d bytes allocated for a file of %d", name, i, v, got, len(b))
				}
			}
		}
	}
}

// TestFormatErrors shows what is said about broken files, and where.
func TestFormatErrors(t *testing.T) {
	b := smallObject(t)
	shoff := int(le.Uint64(b[40:]))
	section := func(i, field int) int { return shoff + 64*i + field }
	index := func(name string) int { return mustParse(t, b).Section(name).Index }
	symtab, strtab := index(".symtab"), index(".strtab")
	symbols := int(mustParse(t, b).Sections[symtab].Offset)
	rela := index(".rela.text.f0")
	const (
		name, typ, flags, offset, size, link, info, align, entsize = 0, 4, 8, 24, 32, 40, 44, 48, 56
	)
	tests := []struct {
		at, width int
		value     uint64
		want      string
	}{
		{0, 1, 0, "file header: not an ELF file"},
		{4, 1, 1, "file header: not a 64-bit little-endian file"},
		{5, 1, 2, "file header: not a 64-bit little-endian file"},
		{6, 1, 0, "file header: version 0.1 is unknown"},
		{16, 2, 4, "file header: type ET_CORE is neither object, executable nor shared library"},
		{18, 2, 22, "file header: machine EM_S390 is neither x86-64 nor arm64"},
		{40, 8, 1 << 40, "section headers: offset 0x10000000000 leaves no room for them between the file header and the end at 0x418"},
		{40, 8, 8, "section headers: offset 0x8 leaves no room for them between the file header and the end at 0x418"},
		{56, 2, 9, "file header: program headers of 0 bytes"},
		{58, 2, 40, "file header: section headers of 40 bytes"},
		{60, 2, 999, "section headers: 999 of them exceed the file of 0x418 bytes"},
		{62, 2, 99, "file header: section names in section 99, there are 11"},
		{62, 2, 1, "section header 1: it is not the string table it is used as"},
		{section(1, name), 4, 1 << 20, "section header 1: its name: offset 0x100000 exceeds the string table of 0x4b bytes"},
		{section(1, flags) + 4, 4, 1, "section header 1: flags 0x100000206 are unknown"},
		{section(1, offset), 8, 1 << 20, "section header 1: contents at 0x100000, 0x6 bytes, exceed the file of 0x418 bytes"},
		{section(1, size), 8, 1<<64 - 1, "section header 1: contents at 0x40, 0xffffffffffffffff bytes, exceed the file of 0x418 bytes"},
		{section(1, size), 8, 0x3d8, "section headers: contents of 0x4e3 bytes in a file of 0x418: they overlap"},
		{section(1, align), 8, 3, "section header 1: alignment 0x3 is no power of two"},
		{section(symtab, link), 4, 77, "section header 2: linked section 77, there are 11"},
		{section(symtab, link), 4, uint64(symtab), "section header 2: it is not the string table it is used as"},
		{section(symtab, entsize), 8, 16, "section header 2: entries of 16 bytes in a table of 24-byte entries"},
		{section(symtab, size), 8, 25, "section header 2: 25 bytes are no whole number of entries"},
		{section(strtab, typ), 4, 2, "section header 3: entries of 0 bytes in a table of 24-byte entries"},
		{section(rela, info), 4, 88, "section header 4: it applies to section 88, there are 11"},
		{section(symtab, flags), 4, 0x40, "section header 2: its info is about symbols, its flags say that it names a section"},
		{symbols + 24, 4, 0xfffffff, "section .symtab: symbol 1: its name: offset 0xfffffff exceeds the string table of 0xe bytes"},
		{symbols + 24 + 6, 2, 0xffff, "section .symtab: symbol 1: no extended section number"},
		{symbols + 24 + 6, 2, 300, "section .symtab: symbol 1: section 300, there are 11"},
	}
	for _, test := range tests {
		m := slices.Clone(b)
		for i := range test.width {
			m[test.at+i] = byte(test.value >> (8 * i))
		}
		_, err := elfpatch.Parse(m)
		if err == nil || err.Error() != test.want {
			t.Errorf("%d bytes at %#x set to %#x:\ngot  %v\nwant %s", test.width, test.at, test.value, err, test.want)
		}
	}
}

func mustParse(t testing.TB, b []byte) *elfpatch.File {
	t.Helper()
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestEndlessNames has 40,000 symbols whose names are the endings of one
// string of a million bytes: 40 GB if each were taken for itself.
func TestEndlessNames(t *testing.T) {
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	f.AddSymbol(elfpatch.Symbol{Name: strings.Repeat("a", 1<<20)})
	for range 40000 {
		f.AddSymbol(elfpatch.Symbol{Name: "a"})
	}
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	symbols := int(mustParse(t, b).SymbolTable().Offset)
	for i := range 40000 {
		le.PutUint32(b[symbols+24*(i+1):], uint32(i+1))
	}
	if got, limit := exercise(t, b), allocationLimit(len(b)); got > limit {
		t.Errorf("%d bytes allocated for a file of %d", got, len(b))
	}
	if _, err := elfpatch.Parse(b); err == nil || !strings.Contains(err.Error(), "overlap too much") {
		t.Errorf("got %v", err)
	}
}

// TestLargeImage indexes a file like a vmlinux with debug information: 118,000
// symbols and 340 MB that Parse has no business with.
func TestLargeImage(t *testing.T) {
	const symbols, debug = 118000, 340 << 20
	f := elfpatch.New(elf.ET_EXEC, elf.EM_X86_64)
	text := f.AddSection(elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Addr: 0x1000, Data: make([]byte, 16)})
	info := f.AddSection(elfpatch.Section{Name: ".debug_info", Type: elf.SHT_PROGBITS})
	for i := range symbols {
		f.AddSymbol(elfpatch.Symbol{Name: fmt.Sprintf("a_symbol_of_the_kernel_%d", i), Section: text.Index, Type: elf.STT_FUNC})
	}
	small, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(small)+debug) // untouched pages cost nothing
	copy(b, small)
	header := b[le.Uint64(b[40:])+64*uint64(info.Index):]
	le.PutUint64(header[24:], uint64(len(small)))
	le.PutUint64(header[32:], debug)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	g := mustParse(t, b)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 20<<20 {
		t.Errorf("%d bytes allocated to index %d symbols", got, symbols)
	}
	if got := g.Section(".debug_info"); len(got.Data) != debug || &got.Data[0] != &b[len(small)] {
		t.Error("the contents of .debug_info were copied")
	}
}

func BenchmarkParse(b *testing.B) {
	data, err := manySections(b, 70001).Bytes()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := elfpatch.Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBytes(b *testing.B) {
	f := manySections(b, 70001)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Bytes(); err != nil {
			b.Fatal(err)
		}
	}
}
