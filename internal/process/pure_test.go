//go:build !arm64

package process

import (
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/resolve"
)

func TestCandidates(t *testing.T) {
	maps, err := resolve.ParseMaps([]byte(`555555554000-555555560000 r-xp 00000000 fe:00 1   /bin/x
555555560000-555555561000 rw-p 0000b000 fe:00 1   /bin/x
555555600000-555555621000 rw-p 00000000 00:00 0   [heap]
7ffff7c00000-7ffff7d00000 r-xp 00000000 fe:00 2   /lib/a
7ffff7d05000-7ffff7e00000 r-xp 00000000 fe:00 3   /lib/b
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]
`))
	if err != nil {
		t.Fatal(err)
	}
	const size = 0x3000
	around := func(points ...uint64) window {
		w := window{lowest, userTop - size}
		for _, p := range points {
			w.around(p, size, siteReach)
		}
		return w
	}
	for _, tc := range []struct {
		name  string
		w     window
		near  uint64
		first uint64
	}{
		{"program: below it", around(0x555555555000), 0x555555555000, 0x555555554000 - pageSize - size},
		{"library: the gap has exactly room", around(0x7ffff7cff000), 0x7ffff7cff000, 0x7ffff7d01000},
		{"library: not above, where the stack grows", around(0x7ffff7dff000), 0x7ffff7dff000, 0x7ffff7d01000},
	} {
		got := candidates(maps, tc.w, size, tc.near)
		if len(got) == 0 || got[0] != tc.first {
			t.Errorf("%s: %#x, want %#x first", tc.name, got, tc.first)
		}
		for _, a := range got {
			if a%pageSize != 0 || a < tc.w.low || a > tc.w.high {
				t.Errorf("%s: %#x is outside %#x to %#x", tc.name, a, tc.w.low, tc.w.high)
			}
			for i := range maps {
				if a < maps[i].End+pageSize && maps[i].Start < a+size+pageSize {
					t.Errorf("%s: %#x touches %+v", tc.name, a, maps[i])
				}
			}
			if a >= 0x555555600000 && a < 0x555555621000+heapReserve || a > 0x7ffff7e00000 && a < 0x7ffffffff000 {
				t.Errorf("%s: %#x is where heap or stack grow", tc.name, a)
			}
		}
	}
	if got := candidates(maps, around(0x555555555000, 0x7ffff7cff000), size, 0x555555555000); len(got) != 0 {
		t.Errorf("%#x is near both", got)
	}
	low := window{lowest, abs32Top - size}
	if got := candidates(maps, low, size, 0x401000); len(got) != 1 || got[0] != 0x401000 {
		t.Errorf("below 2 GiB: %#x", got)
	}
}

func object(t *testing.T) *elfpatch.File {
	t.Helper()
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	add := func(name string, typ elf.SectionType, flags elf.SectionFlag, align uint64, data []byte) *elfpatch.Section {
		return f.AddSection(elfpatch.Section{Name: name, Type: typ, Flags: elf.SHF_ALLOC | flags, Align: align, Data: data, Size: uint64(len(data))})
	}
	code := add(".text", elf.SHT_PROGBITS, elf.SHF_EXECINSTR, 16, []byte{0xe8, 0, 0, 0, 0, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3})
	add(".rodata", elf.SHT_PROGBITS, 0, 32, []byte("constant"))
	data := add(".data", elf.SHT_PROGBITS, elf.SHF_WRITE, 8, make([]byte, 8))
	bss := f.AddSection(elfpatch.Section{Name: ".bss", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 64, Size: 100})
	f.AddSymbol(elfpatch.Symbol{Name: "new", Bind: elf.STB_GLOBAL, Section: code.Index, Size: 13})
	f.AddSymbol(elfpatch.Symbol{Name: "outside", Bind: elf.STB_GLOBAL})
	f.AddSymbol(elfpatch.Symbol{Name: "room", Bind: elf.STB_GLOBAL, Section: bss.Index, Value: 4})
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(f.SetRelocations(code, []elfpatch.Rela{
		{Offset: 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: 2, Addend: -4},
		{Offset: 8, Type: uint32(elf.R_X86_64_PC32), Symbol: 3, Addend: -4},
	}))
	check(f.SetRelocations(data, []elfpatch.Rela{{Offset: 0, Type: uint32(elf.R_X86_64_64), Symbol: 2, Addend: 1}}))
	return f
}

func TestLayout(t *testing.T) {
	l, err := layOut(object(t), 50, [parts]uint64{})
	if err != nil {
		t.Fatal(err)
	}
	if l.sizes != [parts]uint64{pageSize, pageSize, pageSize} {
		t.Errorf("sizes %#x", l.sizes)
	}
	const base, outside = 0x10000000, 0x10400000
	if addr, size, ok := l.symbol("new", base); addr != base+pageSize || size != 13 || !ok {
		t.Errorf("new at %#x", addr)
	}
	if _, _, ok := l.symbol("outside", base); ok {
		t.Error("an import is defined")
	}
	memory, err := l.link(base, map[string]uint64{"outside": outside})
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if got := memory[partRead][64:72]; string(got) != "constant" { // behind 50 bytes, aligned to 32
		t.Errorf("constants %q", got)
	}
	if rel := int32(le.Uint32(memory[partExec][1:])); base+pageSize+5+int64(rel) != outside {
		t.Errorf("call %#x", rel)
	}
	if rel := int32(le.Uint32(memory[partExec][8:])); base+pageSize+12+int64(rel) != base+2*pageSize+64+4 {
		t.Errorf("lea %#x", rel)
	}
	if got := le.Uint64(memory[partWrite]); got != outside+1 {
		t.Errorf("pointer %#x", got)
	}
	if _, err := l.link(base, nil); err == nil || !strings.Contains(err.Error(), ".text+0x1: symbol outside: it is not imported") {
		t.Errorf("no import: %v", err)
	}
	if _, err := l.link(base, map[string]uint64{"outside": base + 1<<32}); err == nil {
		t.Error("a call out of reach is linked")
	}
	w := l.needs([]uint64{0x400000000}, map[string]uint64{"outside": 0x400000000 + 1<<30})
	if w.low != 0x400000000+1<<30-(siteReach-addendRoom) || w.high != 0x400000000+(siteReach-addendRoom)-l.size() {
		t.Errorf("window %#x", w)
	}
}

func TestLayoutRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(f *elfpatch.File)
		want   string
	}{
		{"tls", func(f *elfpatch.File) { f.Section(".data").Flags |= elf.SHF_TLS }, "thread-local"},
		{"w and x", func(f *elfpatch.File) { f.Section(".text").Flags |= elf.SHF_WRITE }, "writable and executable"},
		{"alignment", func(f *elfpatch.File) { f.Section(".data").Align = 3 }, "alignment 3"},
		{"huge alignment", func(f *elfpatch.File) { f.Section(".data").Align = 1 << 20 }, "alignment"},
		{"huge", func(f *elfpatch.File) { f.Section(".bss").Size = 1 << 60 }, "too many"},
		{"type", func(f *elfpatch.File) {
			_ = f.SetRelocations(f.Section(".data"), []elfpatch.Rela{{Type: uint32(elf.R_X86_64_GOTPCRELX)}})
		}, "GOTPCRELX is not supported"},
		{"unknown type", func(f *elfpatch.File) {
			_ = f.SetRelocations(f.Section(".data"), []elfpatch.Rela{{Type: 999}})
		}, "999 is not supported"},
		{"place", func(f *elfpatch.File) {
			_ = f.SetRelocations(f.Section(".data"), []elfpatch.Rela{{Offset: 1, Type: uint32(elf.R_X86_64_64)}})
		}, "outside the section"},
	} {
		f := object(t)
		tc.change(f)
		if _, err := layOut(f, 50, [parts]uint64{}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
