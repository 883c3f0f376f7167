package resolve

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// memory is a process that is made of files laid out as the kernel and the
// dynamic linker do.
type memory map[uint64][]byte // by page

const page = 4096

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := uint64(off) + uint64(n)
		b, ok := m[at&^(page-1)]
		if !ok {
			return n, fmt.Errorf("nothing at %#x", at)
		}
		n += copy(p[n:], b[at%page:])
	}
	return len(p), nil
}

func (m memory) write(addr uint64, b []byte) {
	for len(b) > 0 {
		p, ok := m[addr&^(page-1)]
		if !ok {
			p = make([]byte, page)
			m[addr&^(page-1)] = p
		}
		n := copy(p[addr%page:], b)
		addr, b = addr+uint64(n), b[n:]
	}
}

func (m memory) words(addr uint64, words ...uint64) {
	for i, w := range words {
		m.write(addr+8*uint64(i), le.AppendUint64(nil, w))
	}
}

func fixture(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "binaries", "x86_64-gcc", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// load maps a file; glibc says whether addresses in its dynamic section are
// relocated in place, as glibc does and musl does not.
func (m memory) load(t *testing.T, name string, bias uint64, glibc bool) []Mapping {
	t.Helper()
	b := fixture(t, name)
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	var maps []Mapping
	for i, s := range f.Segments {
		if s.Type != elf.PT_LOAD {
			continue
		}
		start, end := (bias+s.VAddr)&^(page-1), (bias+s.VAddr+s.MemSize+page-1)&^(page-1)
		m.write(start, make([]byte, end-start))
		m.write(bias+s.VAddr, b[s.Offset:s.Offset+s.FileSize])
		maps = append(maps, Mapping{
			Start: start, End: end, Offset: s.Offset &^ (page - 1), Inode: uint64(len(name)), Path: "/lib/" + name,
			Read: true, Write: s.Flags&elf.PF_W != 0, Exec: s.Flags&elf.PF_X != 0,
		})
		_ = i
	}
	if d, err := f.Dynamic(); err == nil && d != nil && glibc {
		at := bias + dynamicAddr(f)
		for i, e := range d.Entries {
			switch e.Tag {
			case elf.DT_SYMTAB, elf.DT_STRTAB, elf.DT_GNU_HASH, elf.DT_RELA, elf.DT_JMPREL, elf.DT_PLTGOT, elf.DT_VERSYM, elf.DT_VERNEED:
				m.words(at+16*uint64(i)+8, e.Val+bias)
			}
		}
	}
	return maps
}

func dynamicAddr(f *elfpatch.File) uint64 {
	for _, s := range f.Segments {
		if s.Type == elf.PT_DYNAMIC {
			return s.VAddr
		}
	}
	return 0
}

// process is libprog with libcounter, and the library's file mapped once more
// to be read.
func process(t *testing.T, glibc bool) (memory, []Mapping, uint64) {
	const program, library, data, heap = 0x555555554000, 0x7ffff7d00000, 0x7ffff7a00000, 0x5555556000
	m := memory{}
	maps := m.load(t, "libprog", program, glibc)
	flat := fixture(t, "libcounter.so")
	m.write(data, flat)
	maps = append(maps, Mapping{Start: data, End: data + uint64(len(flat)+page-1)&^(page-1), Inode: 7, Path: "/lib/libcounter.so", Read: true})
	maps = append(maps, m.load(t, "libcounter.so", library, glibc)...)
	prog, err := elfpatch.Parse(fixture(t, "libprog"))
	if err != nil {
		t.Fatal(err)
	}
	lib, err := elfpatch.Parse(flat)
	if err != nil {
		t.Fatal(err)
	}
	// r_debug, and a link map: the program, the vdso (nobody's), the library.
	d, err := prog.Dynamic()
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range d.Entries {
		if e.Tag == elf.DT_DEBUG {
			m.words(program+dynamicAddr(prog)+16*uint64(i)+8, heap)
		}
	}
	m.words(heap, 1, heap+0x100)
	m.words(heap+0x100, program, 0, program+dynamicAddr(prog), heap+0x200)
	m.words(heap+0x200, 0, 0, 0x1234, heap+0x300)
	m.words(heap+0x300, library, 0, library+dynamicAddr(lib), heap+0x100) // a loop
	return m, maps, program + prog.Entry
}

func TestImages(t *testing.T) {
	m, maps, entry := process(t, true)
	images := Images(m, maps)
	if len(images) != 2 {
		t.Fatalf("%d images", len(images))
	}
	for i, name := range []string{"libprog", "libcounter.so"} {
		im := images[i]
		f, err := elfpatch.Parse(fixture(t, name))
		if err != nil {
			t.Fatal(err)
		}
		id, err := f.BuildID()
		if err != nil {
			t.Fatal(err)
		}
		if im.Name() != name || string(im.BuildID) != string(id) || im.Bias != im.Base {
			t.Errorf("image %d: %+v, build-id %x wanted", i, im, id)
		}
	}
	images[0], images[1] = images[1], images[0]
	ordered := Order(m, images, entry)
	if ordered[0].Name() != "libprog" || ordered[1].Name() != "libcounter.so" {
		t.Errorf("order %s, %s", ordered[0].Name(), ordered[1].Name())
	}
	if deleted := (&Image{Path: "/usr/bin/x (deleted)"}); deleted.Name() != "x" {
		t.Errorf("name %q", deleted.Name())
	}
}

func TestLookup(t *testing.T) {
	for _, glibc := range []bool{true, false} {
		m, maps, entry := process(t, glibc)
		images := Order(m, Images(m, maps), entry)
		scope := NewScope(m, images)
		prog, lib := images[0].Bias, images[1].Bias
		for _, tc := range []struct {
			name, version, library string
			want                   uint64
			reason                 string
		}{
			{"counter_tick", "", "", lib + 0x1130, ""},
			{"counter_total", "", "libcounter.so", lib + 0x4090, ""},
			{"counter_tick", "SOME_1", "", lib + 0x1130, ""}, // it defines no versions
			{"stdout", "GLIBC_2.2.5", "", prog + 0x4060, ""}, // a copy relocation
			{"stdout", "GLIBC_9", "", 0, "no loaded image defines it"},
			{"puts", "GLIBC_2.2.5", "", 0, "no loaded image defines it"},
			{"puts", "GLIBC_2.2.5", "libc.so.6", 0, "library libc.so.6 is not loaded"},
			{"", "", "", 0, "no loaded image defines it"},
		} {
			got, err := scope.Lookup(tc.name, tc.version, tc.library)
			if got != tc.want || (err == nil) != (tc.reason == "") || err != nil && !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("glibc %v: %s@%s: %#x, %v; want %#x %s", glibc, tc.name, tc.version, got, err, tc.want, tc.reason)
			}
		}
		var names []string
		if err := scope.Imported(images[0], func(n string) { names = append(names, n) }); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(names, " "); !strings.Contains(text, "counter_mood") || strings.Contains(text, "stdout") {
			t.Errorf("imported %s", text)
		}
		if got := scope.Soname(images[1]); got != "libcounter.so" && got != "" {
			t.Errorf("soname %q", got)
		}
	}
}

func TestDigestIsOfMemory(t *testing.T) {
	m, maps, _ := process(t, true)
	im := Images(m, maps)[0]
	one, err := im.Digest(m)
	if err != nil {
		t.Fatal(err)
	}
	m.write(im.Bias+0x1000, []byte{0xcc})
	two, err := im.Digest(m)
	if err != nil || one == two {
		t.Errorf("digest %x, then %x, %v", one, two, err)
	}
}

// Headers in memory are as untrusted as any file.
func TestDamagedImages(t *testing.T) {
	m, maps, entry := process(t, true)
	first := m[maps[0].Start]
	clean := string(first)
	for off := range 64 + 13*56 {
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			copy(first, clean)
			first[off] = v
			images := Order(m, Images(m, maps), entry)
			scope := NewScope(m, images)
			_, _ = scope.Lookup("counter_tick", "", "")
			for _, im := range images {
				_, _ = im.Digest(m)
			}
		}
	}
}

func TestParseMaps(t *testing.T) {
	const text = `555555554000-555555556000 r-xp 00001000 fe:00 1234   /usr/bin/a program (deleted)
555555556000-555555557000 rw-p 00000000 00:00 0 
7ffff7c00000-7ffff7c01000 rw-s 00000000 00:01 99   /dev/zero
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0    [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`
	maps, err := ParseMaps([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mapping{
		{Start: 0x555555554000, End: 0x555555556000, Offset: 0x1000, Read: true, Exec: true, Inode: 1234, Path: "/usr/bin/a program (deleted)"},
		{Start: 0x555555556000, End: 0x555555557000, Read: true, Write: true},
		{Start: 0x7ffff7c00000, End: 0x7ffff7c01000, Read: true, Write: true, Shared: true, Inode: 99, Path: "/dev/zero"},
		{Start: 0x7ffffffde000, End: 0x7ffffffff000, Read: true, Write: true, Path: "[stack]"},
		{Start: 0xffffffffff600000, End: 0xffffffffff601000, Exec: true, Path: "[vsyscall]"},
	}
	if fmt.Sprint(maps) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", maps, want)
	}
	for addr, path := range map[uint64]string{0x555555555fff: want[0].Path, 0x7ffffffde000: "[stack]"} {
		if m := Find(maps, addr); m == nil || m.Path != path {
			t.Errorf("%#x is in %+v", addr, m)
		}
	}
	for _, addr := range []uint64{0, 0x555555557000, 0x7ffff7bfffff, ^uint64(0)} {
		if m := Find(maps, addr); m != nil {
			t.Errorf("%#x is in %+v", addr, m)
		}
	}
	if !maps[1].Anonymous() || !maps[3].Anonymous() || maps[0].Anonymous() {
		t.Error("anonymous")
	}
	for _, bad := range []string{
		"x", "10-20", "20-10 r--p 0 0 0", "10-20 r--p 0 0 x", "10-20 r-p 0 0 0", "g-20 r--p 0 0 0",
		"10-20 r--p 0 00:00 0\n18-30 r--p 0 00:00 0", "10-20 r--p 0 00:00 0\n\n", "11111111111111111-2 r--p 0 0 0",
	} {
		if _, err := ParseMaps([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("555555554000-555555556000 r-xp 00001000 fe:00 1234   /usr/bin/a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		maps, err := ParseMaps(b)
		if err != nil {
			return
		}
		for i := range maps {
			if m := Find(maps, maps[i].Start); m != &maps[i] {
				t.Fatalf("mapping %d is not found", i)
			}
		}
	})
}

func FuzzImage(f *testing.F) {
	for _, name := range []string{"libcounter.so", "libprog"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "binaries", "x86_64-gcc", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:page])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := memory{}
		m.write(0x400000, b)
		maps := []Mapping{{Start: 0x400000, End: 0x400000 + uint64(len(b)+page)&^(page-1), Inode: 1, Path: "/x", Read: true, Exec: true}}
		images := Order(m, Images(m, maps), 0x400100)
		scope := NewScope(m, images)
		_, _ = scope.Lookup("main", "V", "")
	})
}

// A slot of the library that defines an indirect function, which is bound at the
// first call, may lead to its procedure linkage table.
func TestUnboundSlot(t *testing.T) {
	const slot, code, bias = 0x3000, 0x1100, 0x10000
	for _, tc := range []struct {
		machine elf.Machine
		lazy    uint32
		bound   uint32
	}{
		{elf.EM_X86_64, uint32(elf.R_X86_64_JMP_SLOT), uint32(elf.R_X86_64_GLOB_DAT)},
		{elf.EM_AARCH64, uint32(elf.R_AARCH64_JUMP_SLOT), uint32(elf.R_AARCH64_GLOB_DAT)},
	} {
		own := &Image{Machine: tc.machine, Bias: bias, Segments: []elfpatch.Segment{
			{Type: elf.PT_LOAD, Flags: elf.PF_X, VAddr: 0x1000, MemSize: 0x1000}, {Type: elf.PT_LOAD, VAddr: 0x3000, MemSize: 0x1000},
		}}
		other := &Image{Machine: tc.machine, Bias: 2 * bias, Segments: own.Segments}
		m := memory{}
		m.words(bias+slot, bias+code)
		m.words(2*bias+slot, bias+code)
		s := NewScope(m, []*Image{own, other})
		sym := elfpatch.DynSymbol{Symbol: elfpatch.Symbol{Name: "f", Type: elf.STT_GNU_IFUNC, Bind: elf.STB_GLOBAL, Section: 1, Value: 0x1200}}
		s.tables[own] = &table{symbols: []elfpatch.DynSymbol{{}, sym}}
		use := sym
		use.Section = elfpatch.Undefined
		s.tables[other] = &table{symbols: []elfpatch.DynSymbol{{}, use}}
		relocs := func(typ uint32) []elfpatch.Rela { return []elfpatch.Rela{{Offset: slot, Type: typ, Symbol: 1}} }
		for _, try := range []struct {
			im   *Image
			typ  uint32
			want bool
		}{{own, tc.lazy, false}, {own, tc.bound, true}, {other, tc.lazy, true}} {
			s.tables[own].relocs, s.tables[other].relocs = nil, nil
			s.tables[try.im].relocs = relocs(try.typ)
			if addr, err := s.Lookup("f", "", ""); (err == nil) != try.want || try.want && addr != bias+code {
				t.Errorf("%v, own %v, type %d: %#x, %v", tc.machine, try.im == own, try.typ, addr, err)
			}
		}
	}
}
