package elfpatch_test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// again writes a file and reads the result.
func again(t testing.TB, f *elfpatch.File) *elfpatch.File {
	t.Helper()
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, b)
}

// sameModel compares what two files say, apart from offsets and string tables.
func sameModel(a, b *elfpatch.File) error {
	if a.Type != b.Type || a.Machine != b.Machine || a.Flags != b.Flags || a.OSABI != b.OSABI ||
		a.ABIVersion != b.ABIVersion || a.Entry != b.Entry || !slices.Equal(a.Segments, b.Segments) {
		return fmt.Errorf("file headers or segments differ")
	}
	if len(a.Sections) != len(b.Sections) {
		return fmt.Errorf("%d and %d sections", len(a.Sections), len(b.Sections))
	}
	for i, s := range a.Sections {
		x, y := *s, *b.Sections[i]
		x.Offset, y.Offset = 0, 0
		inSegment := len(a.Segments) > 0 && s.Flags&elf.SHF_ALLOC != 0
		if s.Type == elf.SHT_STRTAB && !inSegment || s.Type == elf.SHT_SYMTAB || s.Type == elf.SHT_SYMTAB_SHNDX {
			x.Data, y.Data, x.Size, y.Size = nil, nil, 0, 0
			x.Info, y.Info = 0, 0
		}
		if !bytes.Equal(x.Data, y.Data) {
			return fmt.Errorf("section %d: contents differ", i)
		}
		if x.Data, y.Data = nil, nil; fmt.Sprint(x) != fmt.Sprint(y) {
			return fmt.Errorf("section %d: %+v and %+v", i, x, y)
		}
	}
	if !slices.Equal(a.Symbols, b.Symbols) {
		return fmt.Errorf("symbols differ")
	}
	return nil
}

func TestSharedStringTable(t *testing.T) {
	// One table for the names of sections and symbols, as clang makes it.
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	f.AddSymbol(elfpatch.Symbol{Name: "text", Bind: elf.STB_GLOBAL})
	f = again(t, f)
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	le.PutUint16(b[62:], uint16(f.Section(".strtab").Index))
	header := b[le.Uint64(b[40:]):]
	for i := range f.Sections { // all names come from the shared table now: have none
		le.PutUint32(header[64*i:], 0)
	}
	g := mustParse(t, b)
	for i, name := range []string{"", ".symtab", ".strtab", ".text"} {
		g.Sections[i].Name = name
	}
	h := again(t, g)
	if got := string(h.Section(".strtab").Data); got != "\x00.symtab\x00.strtab\x00.text\x00" {
		t.Errorf("shared string table %q", got)
	}
	if h.Symbols[1].Name != "text" || h.Section(".text") == nil {
		t.Errorf("symbols %v", h.Symbols)
	}
}

func TestStringTableInUse(t *testing.T) {
	// A section of unknown type has offsets into .strtab: these must stay good.
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	f.AddSymbol(elfpatch.Symbol{Name: "first", Bind: elf.STB_GLOBAL})
	f.AddSymbol(elfpatch.Symbol{Name: "second", Bind: elf.STB_GLOBAL})
	f.AddSection(elfpatch.Section{Name: ".user", Type: elf.SHT_LOUSER, Link: uint32(f.SymbolTable().Link)})
	f = again(t, f)
	f.Symbols = f.Symbols[:2]
	f.Symbols[1].Name = "cond"
	f.AddSymbol(elfpatch.Symbol{Name: "third", Bind: elf.STB_GLOBAL})
	f.AddSymbol(elfpatch.Symbol{Name: "rst", Bind: elf.STB_GLOBAL})
	g := again(t, f)
	if got := string(g.Section(".strtab").Data); got != "\x00first\x00second\x00third\x00" {
		t.Errorf("string table %q", got)
	}
	for i, want := range []string{"", "cond", "third", "rst"} {
		if g.Symbols[i].Name != want {
			t.Errorf("symbol %d is %q, want %q", i, g.Symbols[i].Name, want)
		}
	}
}

func TestNoNames(t *testing.T) {
	for _, f := range []*elfpatch.File{
		elfpatch.New(elf.ET_REL, elf.EM_AARCH64), // nothing at all
		mustParse(t, withoutSections(sharedLibrary(t))),
	} {
		g := again(t, f)
		if len(f.Symbols) == 1 {
			f.Symbols = nil // the null symbol alone makes no table
		}
		if err := sameModel(f, g); err != nil {
			t.Error(err)
		}
		if g.Symbols != nil && len(g.Symbols) > 0 || g.Section(".shstrtab") != nil {
			t.Errorf("tables that nobody needs: %v", g.Sections)
		}
	}
}

func TestEditImage(t *testing.T) {
	lib := sharedLibrary(t)
	f := mustParse(t, lib)
	f.Section(".data").Data = slices.Clone(f.Section(".data").Data)
	f.Section(".data").Data[0] ^= 0xff
	f.Section(".comment").Data = []byte("a much longer comment than before, which takes another place")
	f.AddSymbol(elfpatch.Symbol{Name: "added", Section: f.Section(".text").Index, Bind: elf.STB_LOCAL})
	g := again(t, f)
	if b, ok := g.ReadAddr(f.Section(".data").Addr, 1); !ok || b[0] != f.Section(".data").Data[0] {
		t.Error("the change of .data is not in its segment")
	}
	if got := g.Symbols; len(got) != 2 || got[1].Name != "added" {
		t.Errorf("symbols %v", got)
	}
	if d, err := g.DynSymbols(); err != nil || len(d) != 4 {
		t.Errorf("dynamic symbols %v, %v", d, err)
	}
	if string(g.Section(".comment").Data) != string(f.Section(".comment").Data) {
		t.Error("the comment was not replaced")
	}

	refused := []struct {
		want string
		edit func(f *elfpatch.File)
	}{
		{"write: section .text has an address: its offset and size cannot change", func(f *elfpatch.File) { f.Section(".text").Data = []byte{1} }},
		{"write: section .text has an address: its offset and size cannot change", func(f *elfpatch.File) { f.Section(".text").Offset += 8 }},
		{"write: section .new has an address: its offset and size cannot change", func(f *elfpatch.File) {
			f.AddSection(elfpatch.Section{Name: ".new", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Offset: 1 << 50, Data: []byte{1}})
		}},
	}
	for _, r := range refused {
		f := mustParse(t, lib)
		r.edit(f)
		if _, err := f.Bytes(); err == nil || err.Error() != r.want {
			t.Errorf("got %v\nwant %s", err, r.want)
		}
	}
}

// TestUnusualLayouts writes images whose sections and segments do not go
// together as usual.
func TestUnusualLayouts(t *testing.T) {
	lib := sharedLibrary(t)
	at := func(name string, field int) int {
		s := mustParse(t, lib).Section(name)
		return int(le.Uint64(lib[40:])) + 64*s.Index + field
	}
	const typ, flags, offset, size = 4, 8, 24, 32
	set := func(place, width int, v uint64) func(b []byte) {
		return func(b []byte) {
			for i := range width {
				b[place+i] = byte(v >> (8 * i))
			}
		}
	}
	tests := map[string]func(b []byte){
		"no address inside a segment":    set(at(".note", flags), 8, 0),
		"empty inside a segment":         set(at(".text", size), 8, 0),
		"no contents in the middle":      set(at(".text", typ), 4, uint64(elf.SHT_NOBITS)),
		"unused header":                  set(at(".data", typ), 4, uint64(elf.SHT_NULL)),
		"an offset outside, but empty":   func(b []byte) { set(at(".comment", size), 8, 0)(b); set(at(".comment", offset), 8, 1<<60)(b) },
		"a segment that is not loaded":   set(64+3*56, 4, uint64(elf.PT_INTERP)),
		"names outside of the segments":  func([]byte) {},
		"the last segment has no memory": set(64+4*56, 4, uint64(elf.PT_NULL)),
		"debug file": func(b []byte) {
			for _, s := range []string{".dynstr", ".dynsym", ".text", ".data", ".dynamic"} {
				set(at(s, typ), 4, uint64(elf.SHT_NOBITS))(b)
			}
			set(64+56+32, 8, 1<<30)(b) // the segment's size in the other file
		},
	}
	for name, edit := range tests {
		b := slices.Clone(lib)
		edit(b)
		f, err := elfpatch.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		g := again(t, f)
		if err := sameModel(f, g); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, p := range f.Segments {
			if p.Type != elf.PT_LOAD || name == "debug file" {
				continue
			}
			was, _ := f.ReadAddr(p.VAddr, int(p.FileSize))
			is, ok := g.ReadAddr(p.VAddr, int(p.FileSize))
			if p.VAddr == 0 && ok { // the file header is there, with the new place of the section headers
				was, is = was[64:], is[64:]
			}
			if !ok || !bytes.Equal(was, is) {
				t.Errorf("%s: contents of the segment at %#x differ", name, p.VAddr)
			}
		}
	}
}

// TestManySegments has more program headers than the file header can count.
func TestManySegments(t *testing.T) {
	const n = 0x10001
	lib := sharedLibrary(t)
	b := slices.Clone(lib)
	phoff := uint64(len(b))
	b = append(b, lib[64:64+5*56]...)
	b = append(b, make([]byte, (n-5)*56)...)
	le.PutUint64(b[32:], phoff)
	le.PutUint16(b[56:], 0xffff)
	le.PutUint32(b[le.Uint64(b[40:])+44:], n)
	f := mustParse(t, b)
	if len(f.Segments) != n {
		t.Fatalf("%d segments, want %d", len(f.Segments), n)
	}
	if err := sameModel(f, again(t, f)); err != nil {
		t.Error(err)
	}
}

// TestCompilers rewrites what compilers make of a source with groups,
// mergeable strings, thread-local and compressed sections, and lets the linker
// link the result.
func TestCompilers(t *testing.T) {
	testkit.Tool(t, "readelf")
	source := `
#include <string>
#include <map>
#include <stdexcept>
thread_local int depth = 3;
static int calls;
struct base { virtual ~base() {} virtual int f(const std::string &s) { return s.size(); } };
template <class T> struct derived : base { int f(const std::string &s) override { return s.size() + sizeof(T) + ++calls; } };
extern "C" int entry(const char *s, int n) {
	static std::map<std::string, int> seen;
	derived<long> d;
	try {
		if (n > 10) throw std::runtime_error("too many");
		return d.f(s) + ++seen[s] + ++depth;
	} catch (const std::exception &e) { return e.what()[0]; }
}
`
	compilers := []struct{ name, cxx, flags, ld string }{
		{"gcc", "g++", "-O2 -g -gz=zlib -ffunction-sections", "ld"},
		{"gcc O0", "g++", "-O0", "ld"},
		{"clang", "clang++", "-O2 -g -gz=zlib", "ld.lld"},
		{"clang sections", "clang++", "-O2 -ffunction-sections -fno-addrsig", "ld"},
		{"arm64 gcc", "aarch64-linux-gnu-g++", "-O2 -g -gz=zlib -ffunction-sections -mcmodel=small", "aarch64-linux-gnu-ld"},
		{"arm64 clang", "clang++", "--target=aarch64-linux-gnu -O2", "aarch64-linux-gnu-ld"},
	}
	for _, c := range compilers {
		t.Run(c.name, func(t *testing.T) {
			for _, tool := range []string{c.cxx, c.ld} {
				testkit.Tool(t, tool)
			}
			dir := t.TempDir()
			args := append(strings.Fields(c.flags), "-fPIC", "-c", "-xc++", "-o", "a.o", "-")
			run(t, dir, source, c.cxx, args...)
			path := filepath.Join(dir, "a.o")
			checkRewrite(t, path)
			rewrite(t, path, dir)
			run(t, dir, "", c.ld, "-r", "-o", "r.o", "rewritten.o")
			run(t, dir, "", c.ld, "-r", "-o", "s.o", "a.o")
			if err := sameModel(testkit.ELF(t, filepath.Join(dir, "r.o")), testkit.ELF(t, filepath.Join(dir, "s.o"))); err != nil {
				t.Errorf("linked from the rewritten object, the result differs: %v", err)
			}
		})
	}
}
