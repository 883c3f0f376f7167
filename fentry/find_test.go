package fentry

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/trampoline"
)

const (
	x86   = elf.EM_X86_64
	arm64 = elf.EM_AARCH64
	base  = 0x401000 // of the text of linked files made here
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// maker makes files with one text, in which functions are written one after
// the other.
type maker struct {
	t    testing.TB
	file *elfpatch.File
	text *elfpatch.Section
}

func newMaker(t testing.TB, m elf.Machine, typ elf.Type) *maker {
	f := elfpatch.New(typ, m)
	s := elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16}
	if typ != elf.ET_REL {
		s.Addr = base
	}
	return &maker{t, f, f.AddSection(s)}
}

// fn appends a function; without a name, bytes that belong to none.
func (k *maker) fn(name, code string) *maker {
	b := unhex(k.t, code)
	if name != "" {
		k.symbol(name, len(k.text.Data), len(b))
	}
	k.text.Data = append(k.text.Data, b...)
	k.text.Size = uint64(len(k.text.Data))
	return k
}

func (k *maker) symbol(name string, off, size int) int {
	return k.file.AddSymbol(elfpatch.Symbol{
		Name: name, Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: k.text.Index,
		Value: k.text.Addr + uint64(off), Size: uint64(size),
	})
}

func (k *maker) section(name string, flags elf.SectionFlag, data []byte) *elfpatch.Section {
	return k.file.AddSection(elfpatch.Section{Name: name, Type: elf.SHT_PROGBITS, Flags: flags, Align: 8, Data: data, Size: uint64(len(data))})
}

// undefined adds a symbol of another file.
func (k *maker) undefined(name string) uint32 {
	return uint32(k.file.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_GLOBAL}))
}

// table adds a section of addresses of the text.
func (k *maker) table(name string, offsets ...uint64) {
	s := k.section(name, elf.SHF_ALLOC, make([]byte, 8*len(offsets)))
	if k.file.Type != elf.ET_REL {
		for i, off := range offsets {
			binary.LittleEndian.PutUint64(s.Data[8*i:], k.text.Addr+off)
		}
		return
	}
	sym := k.file.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Section: k.text.Index})
	typ := uint32(elf.R_X86_64_64)
	if k.file.Machine == arm64 {
		typ = uint32(elf.R_AARCH64_ABS64)
	}
	var list []elfpatch.Rela
	for i, off := range offsets {
		list = append(list, elfpatch.Rela{Offset: uint64(8 * i), Type: typ, Symbol: uint32(sym), Addend: int64(off)})
	}
	k.relocate(s, list...)
}

func (k *maker) relocate(s *elfpatch.Section, list ...elfpatch.Rela) {
	k.t.Helper()
	if err := k.file.SetRelocations(s, list); err != nil {
		k.t.Fatal(err)
	}
}

// guard adds the property note of arm64 that asks for landing pads.
func (k *maker) guard() {
	s := k.section(".note.gnu.property", elf.SHF_ALLOC, unhex(k.t, "04000000 10000000 05000000 474e5500 000000c0 04000000 01000000 00000000"))
	s.Type = elf.SHT_NOTE
}

// find returns the functions by name.
func (k *maker) find() map[string]Func {
	k.t.Helper()
	list, err := Find(k.file, Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	by := map[string]Func{}
	for _, f := range list {
		by[f.Name] = f
	}
	return by
}

func (k *maker) expect(name, want string) {
	k.t.Helper()
	f, ok := k.find()[name]
	if !ok {
		k.t.Fatalf("no function %s", name)
	}
	if got := line(&f); got != want {
		k.t.Errorf("got  %s\nwant %s", got, want)
	}
	checkFunc(k.t, k.file, &f)
}

// checkFunc checks what holds for every function: what is said to be
// patchable can be planned, and the bytes are those of the file.
func checkFunc(t testing.TB, f *elfpatch.File, fn *Func) {
	t.Helper()
	if len(fn.Expected) != fn.Room || fn.Room < 0 || fn.Room > MaxRoom || fn.Front < 0 || fn.Padding < 0 || len(fn.FrontBytes) > fn.Front {
		t.Errorf("%s: room %d, %d expected bytes, front %d, padding %d", fn.Name, fn.Room, len(fn.Expected), fn.Front, fn.Padding)
	}
	if (fn.Verdict == Yes) != (fn.Strategy != "") {
		t.Errorf("%s: verdict %s, strategy %q", fn.Name, fn.Verdict, fn.Strategy)
	}
	if fn.Verdict != Yes {
		if fn.Reason == "" {
			t.Errorf("%s: %s without a reason", fn.Name, fn.Verdict)
		}
		return
	}
	if fn.Strategy == ftraceStrategy {
		if fn.Ftrace == nil || fn.Room < 4 || fn.Kind == None || fn.Kind == Prologue {
			t.Errorf("%s: site of kind %s, room %d, ftrace %v", fn.Name, fn.Kind, fn.Room, fn.Ftrace)
		}
		return
	}
	plan, err := trampoline.Make(f.Machine, fn.TrampolineSite(), trampoline.Strategy(fn.Strategy))
	if err != nil {
		t.Errorf("%s: %v", fn.Name, err)
		return
	}
	section := elfpatch.Section{}
	if fn.SectionIndex > 0 {
		section = *f.Sections[fn.SectionIndex]
	}
	start := section.Addr
	if f.Type == elf.ET_REL {
		start = 0
	}
	for _, w := range plan.Writes {
		if fn.SectionIndex == 0 {
			continue
		}
		off := w.Addr - start
		if off > uint64(len(section.Data)) || !bytes.HasPrefix(section.Data[off:], w.Expected) {
			t.Errorf("%s: % x is not at %#x", fn.Name, w.Expected, w.Addr)
		}
	}
}

const (
	ret20 = "31c0 31c0 31c0 31c0 31c0 31c0 31c0 31c0 31c0 31c0 c3" // 10 times xor %eax,%eax; ret
	nop16 = "662e0f1f840000000000 660f1f440000"
)

func TestX86Prologues(t *testing.T) {
	tests := []struct {
		name string
		make func(k *maker)
		want string // of the function f
	}{
		{"plain", func(k *maker) { k.fn("f", ret20) },
			".text+0x401000 size 21 pad 0 front 0 | site +0 room 20 | 31c031c031c031c031c031c031c031c031c031c0 | prologue near patchable | f"},
		{"after endbr64", func(k *maker) { k.fn("f", "f30f1efa 31c0 31c0 31c0 c3") },
			".text+0x401000 size 11 pad 0 front 0 | site +4 room 7 landing endbr64 | 31c031c031c0c3 | prologue near patchable | f"},
		{"five bytes fit", func(k *maker) { k.fn("f", "b801000000").fn("g", "c3") },
			".text+0x401000 size 5 pad 0 front 0 | site +0 room 5 | b801000000 | prologue near patchable | f"},
		{"four do not", func(k *maker) { k.fn("f", "31c0 31c0").fn("g", "c3") },
			".text+0x401000 size 4 pad 0 front 0 | site +0 room 4 | 31c031c0 | prologue  too-short | f: 4 bytes up to g, a jump needs 5; 0 bytes of filler before the function, a jump in it needs 5"},
		{"padding counts", func(k *maker) { k.fn("f", "31c0 c3").fn("", "6690").fn("g", "c3") },
			".text+0x401000 size 3 pad 2 front 0 | site +0 room 5 | 31c0c36690 | prologue near patchable | f"},
		{"int3 is padding", func(k *maker) { k.fn("f", "31c0 c3").fn("", "cccc").fn("g", "c3") },
			".text+0x401000 size 3 pad 2 front 0 | site +0 room 5 | 31c0c3cccc | prologue near patchable | f"},
		{"other bytes are not", func(k *maker) { k.fn("f", "31c0 c3").fn("", "0000 0000").fn("g", "c3") },
			".text+0x401000 size 3 pad 0 front 0 | site +0 room 3 | 31c0c3 | prologue  too-short | f: 3 bytes up to g, a jump needs 5; 0 bytes of filler before the function, a jump in it needs 5"},
		{"filler before", func(k *maker) { k.fn("e", "c3").fn("", "0f1f440000").fn("f", "31c0 c3").fn("g", "c3") },
			".text+0x401006 size 3 pad 0 front 5 | site +0 room 3 | 31c0c3 | prologue filler patchable | f: 3 bytes up to g, a jump needs 5; a short jump leads into the filler before the function"},
		{"filler before endbr64", func(k *maker) { k.fn("e", "c3").fn("", "0f1f440000").fn("f", "f30f1efa 31c0 c3").fn("g", "c3") },
			".text+0x401006 size 7 pad 0 front 5 | site +4 room 3 landing endbr64 | 31c0c3 | prologue filler patchable | f: 3 bytes up to g, a jump needs 5; a short jump leads into the filler before the function"},
		{"four bytes of filler", func(k *maker) { k.fn("e", "c3").fn("", "0f1f4000").fn("f", "31c0 c3").fn("g", "c3") },
			".text+0x401005 size 3 pad 0 front 4 | site +0 room 3 | 31c0c3 | prologue  too-short | f: 3 bytes up to g, a jump needs 5; 4 bytes of filler before the function, a jump in it needs 5"},
		{"filler that ends something", func(k *maker) { k.fn("e", "c3").fn("", "b8 90909090 ").fn("f", "31c0 c3").fn("g", "c3") },
			".text+0x401006 size 3 pad 0 front 0 | site +0 room 3 | 31c0c3 | prologue  too-short | f: 3 bytes up to g, a jump needs 5; 0 bytes of filler before the function, a jump in it needs 5"},
		{"filler behind what is no code", func(k *maker) { k.fn("e", "c3").fn("", "06 9090909090").fn("f", "31c0 c3").fn("g", "c3") },
			".text+0x401007 size 3 pad 0 front 0 | site +0 room 3 | 31c0c3 | prologue  too-short | f: 3 bytes up to g, a jump needs 5; 0 bytes of filler before the function, a jump in it needs 5"},
		{"one byte with filler", func(k *maker) { k.fn("e", "c3").fn("", "0f1f440000").fn("f", "c3").fn("g", "c3") },
			".text+0x401006 size 1 pad 0 front 5 | site +0 room 1 | c3 | prologue  too-short | f: 1 bytes up to g, a jump needs 5; 5 bytes of filler before the function, a jump in it needs 5"},
		{"loop head", func(k *maker) { k.fn("f", "31c0 83c001 83f809 75f8 c3") }, // jne f+2
			".text+0x401000 size 11 pad 0 front 0 | site +0 room 2 | 31c0 | prologue  branch-into-site | f: a branch at f+0x8 leads to +0x2; 0 bytes of filler before the function, a jump in it needs 5"},
		{"loop head, filler", func(k *maker) { k.fn("", nop16).fn("f", "31c0 83c001 83f809 75f8 c3") },
			".text+0x401010 size 11 pad 0 front 16 | site +0 room 2 | 31c0 | prologue filler patchable | f: a branch at f+0x8 leads to +0x2; a short jump leads into the filler before the function"},
		{"loop head at the entry", func(k *maker) { k.fn("f", "83c001 83f809 75f8 c3") }, // jne f
			".text+0x401000 size 9 pad 0 front 0 | site +0 room 9 | 83c00183f80975f8c3 | prologue near patchable | f"},
		{"loop head behind the jump", func(k *maker) { k.fn("f", "b801000000 83c001 83f809 75f8 c3") }, // jne f+5
			".text+0x401000 size 14 pad 0 front 0 | site +0 room 5 | b801000000 | prologue near patchable | f"},
		{"branch from elsewhere", func(k *maker) { k.fn("f", "31c0 "+ret20).fn("g", "ebe9") }, // jmp f+2
			".text+0x401000 size 23 pad 0 front 0 | site +0 room 2 | 31c0 | prologue  branch-into-site | f: a branch at g+0x0 leads to +0x2; 0 bytes of filler before the function, a jump in it needs 5"},
		{"branch from before all functions", func(k *maker) { k.fn("", "eb02").fn("f", ret20) }, // jmp f+2
			".text+0x401002 size 21 pad 0 front 0 | site +0 room 2 | 31c0 | prologue  branch-into-site | f: a branch at 0x401000 leads to +0x2; 0 bytes of filler before the function, a jump in it needs 5"},
		{"address formed", func(k *maker) { k.fn("f", ret20).fn("g", "488d05e6ffffff c3") }, // lea f+2
			".text+0x401000 size 21 pad 0 front 0 | site +0 room 2 | 31c0 | prologue  branch-into-site | f: an address formed at g+0x0 leads to +0x2; 0 bytes of filler before the function, a jump in it needs 5"},
		{"another function inside", func(k *maker) { k.fn("f", ret20).symbol("inner", 3, 2) },
			".text+0x401000 size 21 pad 0 front 0 | site +0 room 3 | 31c031 | prologue  too-short | f: 3 bytes up to inner, a jump needs 5; 0 bytes of filler before the function, a jump in it needs 5"},
		{"no instructions", func(k *maker) { k.fn("f", "31c0 06 31c0 31c0") },
			".text+0x401000 size 7 pad 0 front 0 | site +0 room 7 | 31c00631c031c0 | none  data-in-text | f: bytes at +0x2 are no instruction"},
		{"no instructions behind ret", func(k *maker) { k.fn("f", "31c0 c3 06 06 06") },
			".text+0x401000 size 6 pad 0 front 0 | site +0 room 6 | 31c0c3060606 | prologue near patchable | f"},
		{"an instruction past the end", func(k *maker) { k.fn("f", "31c0 488d05").fn("g", "e6ffffff") },
			".text+0x401000 size 5 pad 0 front 0 | site +0 room 5 | 31c0488d05 | none  data-in-text | f: bytes at +0x2 are no instruction"},
		{"no size", func(k *maker) { k.fn("", "31c0 c3 0f1f00").fn("g", "c3").symbol("f", 0, 0) },
			".text+0x401000 size 3 pad 3 front 0 | site +0 room 6 | 31c0c30f1f00 | prologue near patchable | f"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newMaker(t, x86, elf.ET_EXEC)
			tt.make(k)
			k.expect("f", tt.want)
		})
	}
}

func TestInitText(t *testing.T) {
	k := newMaker(t, x86, elf.ET_REL)
	k.text.Name = ".init.text"
	k.fn("f", ret20).expect("f", ".init.text+0x0 size 21 pad 0 front 0 | site +0 room 20 | 31c031c031c031c031c031c031c031c031c031c0 | prologue  init-text | f: initialisation code: its memory is given back once it has run")
}

func TestX86Fentry(t *testing.T) {
	pc32 := func(k *maker, off uint64, name string, typ elf.R_X86_64) {
		k.relocate(k.text, elfpatch.Rela{Offset: off, Type: uint32(typ), Symbol: k.undefined(name), Addend: -4})
	}
	const tail = " 31c0 c3"
	tests := []struct {
		name string
		make func(k *maker)
		want string
	}{
		{"PC32", func(k *maker) { k.fn("f", "e8 00000000"+tail); pc32(k, 1, "__fentry__", elf.R_X86_64_PC32) },
			".text+0x0 size 8 pad 0 front 0 | site +0 room 8 | e80000000031c0c3 | fentry-call near patchable | f"},
		{"PLT32 after endbr64", func(k *maker) { k.fn("f", "f30f1efa e8 00000000"+tail); pc32(k, 5, "__fentry__", elf.R_X86_64_PLT32) },
			".text+0x0 size 12 pad 0 front 0 | site +4 room 8 landing endbr64 | e80000000031c0c3 | fentry-call near patchable | f"},
		{"GOTPCRELX", func(k *maker) { k.fn("f", "ff15 00000000"+tail); pc32(k, 2, "__fentry__", 41) },
			".text+0x0 size 9 pad 0 front 0 | site +0 room 9 | ff150000000031c0c3 | fentry-call near patchable | f"},
		{"NONE", func(k *maker) { k.fn("f", "0f1f440000"+tail); pc32(k, 1, "__fentry__", elf.R_X86_64_NONE) },
			".text+0x0 size 8 pad 0 front 0 | site +0 room 8 | 0f1f44000031c0c3 | fentry-nop near patchable | f"},
		{"NOP after endbr64", func(k *maker) { k.fn("f", "f30f1efa 0f1f440000"+tail) },
			".text+0x0 size 12 pad 0 front 0 | site +4 room 8 landing endbr64 | 0f1f44000031c0c3 | fentry-nop near patchable | f"},
		{"another call", func(k *maker) { k.fn("f", "e8 00000000"+tail); pc32(k, 1, "helper", elf.R_X86_64_PLT32) },
			".text+0x0 size 8 pad 0 front 0 | site +0 room 8 | e80000000031c0c3 | prologue near patchable | f"},
		{"padding of the kernel", func(k *maker) {
			k.fn("__pfx_f", strings.Repeat("90", 16)).fn("f", "e8 00000000"+tail)
			pc32(k, 17, "__fentry__", elf.R_X86_64_PLT32)
			k.section(".modinfo", elf.SHF_ALLOC, nil)
		}, ".text+0x10 size 8 pad 0 front 16 | site +0 room 5 | e800000000 | fentry-call ftrace patchable | f"},
		{"none in a module", func(k *maker) { k.fn("f", ret20); k.section(".modinfo", elf.SHF_ALLOC, nil) },
			".text+0x0 size 21 pad 0 front 0 | site +0 room 0 |  | none  no-site | f: the file has no table of ftrace sites, or none that could be found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newMaker(t, x86, elf.ET_REL)
			tt.make(k)
			k.expect("f", tt.want)
		})
	}
}

func TestX86FentryLinked(t *testing.T) {
	k := newMaker(t, x86, elf.ET_EXEC)
	k.fn("__fentry__", "c3").fn("f", "e8 faffffff 31c0 c3").fn("g", "67e8 f1ffffff 31c0 c3").fn("h", "e8 00000000 31c0 c3")
	for name, want := range map[string]Kind{"f": FentryCall, "g": FentryCall, "h": Prologue} {
		if got := k.find()[name].Kind; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestPatchable(t *testing.T) {
	const nop, bti, paciasp, code = "1f2003d5 ", "5f2403d5 ", "3f2303d5 ", "00000091 c0035fd6 "
	tests := []struct {
		name    string
		machine elf.Machine
		typ     elf.Type
		text    []string // pairs of name and code
		table   []uint64
		want    string
	}{
		{"x86 5,0", x86, elf.ET_REL, []string{"f", "9090909090 31c0 c3"}, []uint64{0},
			".text+0x0 size 8 pad 0 front 0 | site +0 room 8 nops 5 | 909090909031c0c3 | patchable near patchable | f"},
		{"x86 2,0 without room in front", x86, elf.ET_REL, []string{"f", "9090 " + ret20}, []uint64{0},
			".text+0x0 size 23 pad 0 front 0 | site +0 room 20 nops 2 | 909031c031c031c031c031c031c031c031c031c0 | patchable near patchable | f"},
		{"x86 16,14", x86, elf.ET_EXEC, []string{"", strings.Repeat("90", 14), "f", "9090 31c0 c3"}, []uint64{0},
			".text+0x40100e size 5 pad 0 front 14 | site +0 room 5 nops 2 slot 0x401000 | 909031c0c3 | patchable filler patchable | f"},
		{"x86 16,14 after endbr64", x86, elf.ET_REL, []string{"", strings.Repeat("90", 14), "f", "f30f1efa 6690 31c0 c3"}, []uint64{0},
			".text+0xe size 9 pad 0 front 14 | site +4 room 5 nops 2 landing endbr64 slot 0x0 | 669031c0c3 | patchable filler patchable | f"},
		{"x86 endbr64, table behind it", x86, elf.ET_REL, []string{"f", "f30f1efa 9090909090 c3"}, []uint64{4},
			".text+0x0 size 10 pad 0 front 0 | site +4 room 6 nops 5 landing endbr64 | 9090909090c3 | patchable near patchable | f"},
		{"x86 all before", x86, elf.ET_REL, []string{"", strings.Repeat("90", 16), "f", ret20}, []uint64{0},
			".text+0x10 size 21 pad 0 front 16 | site +0 room 20 slot 0x8 | 31c031c031c031c031c031c031c031c031c031c0 | prologue near patchable | f"},
		{"x86 not in the table", x86, elf.ET_REL, []string{"f", "9090909090 31c0 c3"}, nil,
			".text+0x0 size 8 pad 0 front 0 | site +0 room 8 | 909090909031c0c3 | prologue near patchable | f"},
		{"arm64 2,0", arm64, elf.ET_REL, []string{"f", nop + nop + code}, []uint64{0},
			".text+0x0 size 16 pad 0 front 0 | site +0 room 16 nops 8 | 1f2003d51f2003d500000091c0035fd6 | patchable near patchable | f"},
		{"arm64 2,0 after bti", arm64, elf.ET_EXEC, []string{"f", bti + nop + nop + code}, []uint64{4},
			".text+0x401000 size 20 pad 0 front 0 | site +4 room 16 nops 8 landing bti c | 1f2003d51f2003d500000091c0035fd6 | patchable near patchable | f"},
		{"arm64 2,0 before paciasp", arm64, elf.ET_REL, []string{"f", nop + nop + paciasp + code}, []uint64{0},
			".text+0x0 size 20 pad 0 front 0 | site +0 room 20 nops 8 | 1f2003d51f2003d53f2303d500000091c0035fd6 | patchable near patchable | f"},
		{"arm64 4,2", arm64, elf.ET_REL, []string{"", nop + nop, "f", bti + nop + nop + code}, []uint64{0},
			".text+0x8 size 20 pad 0 front 8 | site +4 room 16 nops 8 landing bti c slot 0x0 | 1f2003d51f2003d500000091c0035fd6 | patchable near patchable | f"},
		{"arm64 4,2 unaligned", arm64, elf.ET_REL, []string{"g", code + nop, "", nop + nop, "f", bti + nop + nop + code}, []uint64{12},
			".text+0x14 size 20 pad 0 front 8 | site +4 room 16 nops 8 landing bti c | 1f2003d51f2003d500000091c0035fd6 | patchable near patchable | f"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newMaker(t, tt.machine, tt.typ)
			for i := 0; i < len(tt.text); i += 2 {
				k.fn(tt.text[i], tt.text[i+1])
			}
			k.table("__patchable_function_entries", tt.table...)
			k.expect("f", tt.want)
		})
	}
}

// With -ffunction-sections every function has a section and a table of its
// own, all of the same name; with landing pads each site is at +4.
func TestEachFunctionHasItsOwnTable(t *testing.T) {
	f := elfpatch.New(elf.ET_REL, arm64)
	for _, name := range []string{"f1", "f2", "f3"} {
		code := unhex(t, "5f2403d5 1f2003d5 1f2003d5 00000091 c0035fd6")
		s := f.AddSection(elfpatch.Section{
			Name: ".text." + name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 8,
			Data: code, Size: uint64(len(code)),
		})
		f.AddSymbol(elfpatch.Symbol{Name: name, Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: s.Index, Size: s.Size})
		sym := f.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Section: s.Index})
		table := f.AddSection(elfpatch.Section{
			Name: "__patchable_function_entries", Type: elf.SHT_PROGBITS, Align: 8, Data: make([]byte, 8), Size: 8,
			Flags: elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_LINK_ORDER, Link: uint32(s.Index),
		})
		if err := f.SetRelocations(table, []elfpatch.Rela{{Type: uint32(elf.R_AARCH64_ABS64), Symbol: uint32(sym), Addend: 4}}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := Find(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 {
		t.Fatalf("%d functions, want 3", len(list))
	}
	for _, fn := range list {
		if fn.Site != 4 || fn.Kind != Patchable || fn.Nops != 8 {
			t.Errorf("%s", line(&fn))
		}
	}
}

func TestARM64Prologues(t *testing.T) {
	const code = "00000091 00000091 c0035fd6 "
	tests := []struct {
		name    string
		text    []string
		guarded bool
		want    string
	}{
		{"plain", []string{"f", code}, false,
			".text+0x401000 size 12 pad 0 front 0 | site +0 room 12 | 0000009100000091c0035fd6 | prologue near patchable | f"},
		{"one instruction", []string{"f", "c0035fd6", "g", code}, false,
			".text+0x401000 size 4 pad 0 front 0 | site +0 room 4 | c0035fd6 | prologue near patchable | f"},
		{"bti c", []string{"f", "5f2403d5" + code}, true,
			".text+0x401000 size 16 pad 0 front 0 | site +4 room 12 landing bti c | 0000009100000091c0035fd6 | prologue near patchable | f"},
		{"bti jc", []string{"f", "df2403d5" + code}, true,
			".text+0x401000 size 16 pad 0 front 0 | site +4 room 12 landing bti jc | 0000009100000091c0035fd6 | prologue near patchable | f"},
		{"bti alone", []string{"f", "5f2403d5", "g", code}, true,
			".text+0x401000 size 4 pad 0 front 0 | site +4 room 0 landing bti c |  | prologue  too-short | f: 0 bytes up to g, a jump needs 4"},
		{"paciasp", []string{"f", "3f2303d5" + code}, false,
			".text+0x401000 size 16 pad 0 front 0 | site +0 room 16 landing paciasp | 3f2303d50000009100000091c0035fd6 | prologue near patchable | f"},
		{"paciasp, guarded", []string{"f", "3f2303d5" + code}, true,
			".text+0x401000 size 16 pad 0 front 0 | site +0 room 16 landing paciasp lead 5f2403d5 | 3f2303d50000009100000091c0035fd6 | prologue near patchable | f"},
		{"pacibsp, guarded, short", []string{"f", "7f2303d5", "g", code}, true,
			".text+0x401000 size 4 pad 0 front 0 | site +0 room 4 landing pacibsp lead 5f2403d5 | 7f2303d5 | prologue  too-short | f: 4 bytes up to g, a jump needs 8"},
		{"paciasp, guarded, loop head", []string{"f", "3f2303d5" + "000000f1 e1ffff54" + code}, true, // subs; b.ne f+4
			".text+0x401000 size 24 pad 0 front 0 | site +0 room 4 landing paciasp lead 5f2403d5 | 3f2303d5 | prologue  branch-into-site | f: a branch at f+0x8 leads to +0x4"},
		{"not an instruction", []string{"f", "00000002" + code}, false,
			".text+0x401000 size 16 pad 0 front 0 | site +0 room 16 | 000000020000009100000091c0035fd6 | none  data-in-text | f: bytes at +0x0 are no instruction"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newMaker(t, arm64, elf.ET_EXEC)
			for i := 0; i < len(tt.text); i += 2 {
				k.fn(tt.text[i], tt.text[i+1])
			}
			if tt.guarded {
				k.guard()
			}
			k.expect("f", tt.want)
		})
	}
}

func TestMappingSymbols(t *testing.T) {
	k := newMaker(t, arm64, elf.ET_EXEC)
	k.fn("f", "00000091 c0035fd6").fn("table", "00000014 ffffff17").fn("g", "00000091 c0035fd6")
	mark := func(name string, off uint64) {
		k.file.AddSymbol(elfpatch.Symbol{Name: name, Section: k.text.Index, Value: base + off})
	}
	mark("$x", 0)
	mark("$d", 8)
	mark("$x.1", 16)
	k.expect("f", ".text+0x401000 size 8 pad 0 front 0 | site +0 room 8 | 00000091c0035fd6 | prologue near patchable | f")
	k.expect("table", ".text+0x401008 size 8 pad 0 front 0 | site +0 room 8 | 00000014ffffff17 | none  data-in-text | table: mapping symbols call these bytes data")
	k.expect("g", ".text+0x401010 size 8 pad 0 front 0 | site +0 room 8 | 00000091c0035fd6 | prologue near patchable | g")
}

// In an object, branches and addresses are what relocations say.
func TestObjectReferences(t *testing.T) {
	abs := uint32(elf.R_X86_64_64)
	pc := uint32(elf.R_X86_64_PC32)
	tests := []struct {
		name   string
		code   string // behind f
		reloc  elfpatch.Rela
		inData bool
		want   string // reason
	}{
		{"branch", "e9 00000000", elfpatch.Rela{Offset: 22, Type: pc, Addend: 2 - 4}, false, "a branch at g+0x0 leads to +0x2"},
		{"conditional branch", "0f84 00000000", elfpatch.Rela{Offset: 23, Type: pc, Addend: 2 - 4}, false, "a branch at g+0x0 leads to +0x2"},
		{"address before an immediate", "c70500000000 01000000", elfpatch.Rela{Offset: 23, Type: pc, Addend: 2 - 8}, false, "an address formed at g+0x0 leads to +0x2"},
		{"absolute address", "48c7c0 00000000", elfpatch.Rela{Offset: 24, Type: uint32(elf.R_X86_64_32S), Addend: 2}, false, "an address formed at g+0x0 leads to +0x2"},
		{"branch to the entry", "e9 00000000", elfpatch.Rela{Offset: 22, Type: pc, Addend: -4}, false, ""},
		{"the field is no target", "e9 ebffffff", elfpatch.Rela{Offset: 22, Type: pc, Addend: 10 - 4}, false, ""},
		{"pointer", "c3", elfpatch.Rela{Offset: 0, Type: abs, Addend: 2}, true, "a pointer at .data+0x0 leads to +0x2"},
		{"pointer to the entry", "c3", elfpatch.Rela{Offset: 0, Type: abs}, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newMaker(t, x86, elf.ET_REL)
			k.fn("f", ret20).fn("g", tt.code)
			tt.reloc.Symbol = uint32(k.file.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Section: k.text.Index}))
			if tt.inData {
				k.relocate(k.section(".data", elf.SHF_ALLOC|elf.SHF_WRITE, make([]byte, 8)), tt.reloc)
			} else {
				k.relocate(k.text, tt.reloc)
			}
			f := k.find()["f"]
			reason, _, _ := strings.Cut(f.Reason, ";")
			if reason != tt.want || (f.Verdict == Yes) != (tt.want == "") {
				t.Errorf("%s, want %q", line(&f), tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	k := newMaker(t, x86, elf.ET_EXEC)
	k.fn("", ret20)
	for _, s := range []struct {
		name string
		bind elf.SymBind
	}{{"a", elf.STB_LOCAL}, {"__long_name", elf.STB_GLOBAL}, {"weak", elf.STB_WEAK}, {"name", elf.STB_GLOBAL}, {"name2", elf.STB_GLOBAL}, {"name", elf.STB_GLOBAL}} {
		k.file.AddSymbol(elfpatch.Symbol{Name: s.name, Type: elf.STT_FUNC, Bind: s.bind, Section: k.text.Index, Value: base, Size: 21})
	}
	list, err := Find(k.file, Options{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if got := strings.Join(append([]string{list[0].Name}, list[0].Aliases...), " "); got != "name name2 __long_name weak a" {
		t.Errorf("names %s", got)
	}
}

func TestAt(t *testing.T) {
	k := newMaker(t, x86, elf.ET_EXEC)
	k.fn("f", ret20).fn("", "0f1f00").fn("", "31c0 83c001 83f809 75f8 c3").fn("", nop16)
	f, err := At(k.file, base, 0, Options{})
	if err != nil || f.Name != "f" || f.Size != 21 || f.Verdict != Yes {
		t.Errorf("f: %s, %v", line(&f), err)
	}
	// Nobody names this one, so the branch to +2 was not looked for at first.
	f, err = At(k.file, base+24, 11, Options{})
	if err != nil || f.Name != "sub_401018" || f.Verdict != BranchInto || f.Padding != 16 || f.Front != 3 {
		t.Errorf("unknown: %s, %v", line(&f), err)
	}
	f, err = At(k.file, base+24, 0, Options{})
	if err != nil || f.Size != 11 {
		t.Errorf("unknown, of unknown size: %s, %v", line(&f), err)
	}
	for _, bad := range []struct{ addr, size uint64 }{{base - 1, 0}, {base + 51, 0}, {base, 52}, {base, 1 << 63}} {
		if f, err := At(k.file, bad.addr, bad.size, Options{}); err == nil {
			t.Errorf("%#x, size %#x: %s", bad.addr, bad.size, line(&f))
		}
	}
	obj := newMaker(t, x86, elf.ET_REL).fn("f", ret20)
	if f, err := At(obj.file, 0, 0, Options{Section: obj.text.Index}); err != nil || f.Name != "f" {
		t.Errorf("object: %s, %v", line(&f), err)
	}
	if _, err := At(obj.file, 0, 0, Options{Section: 99}); err == nil {
		t.Error("an object without such a section is accepted")
	}
}

func TestRefuses(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T) *elfpatch.File
		want string
	}{
		{"machine", func(t *testing.T) *elfpatch.File { return elfpatch.New(elf.ET_EXEC, elf.EM_RISCV) },
			"file header: EM_RISCV is not supported"},
		{"overlapping texts", func(t *testing.T) *elfpatch.File {
			k := newMaker(t, x86, elf.ET_EXEC).fn("f", ret20)
			k.section(".text2", elf.SHF_ALLOC|elf.SHF_EXECINSTR, unhex(t, ret20)).Addr = base + 20
			return k.file
		}, "section .text2: its addresses overlap those of section .text"},
		{"end of the address space", func(t *testing.T) *elfpatch.File {
			k := newMaker(t, x86, elf.ET_EXEC).fn("f", ret20)
			k.text.Addr = 1<<64 - 20
			return k.file
		}, "section .text: it exceeds the address space"},
		{"table of odd size", func(t *testing.T) *elfpatch.File {
			k := newMaker(t, x86, elf.ET_EXEC).fn("f", ret20)
			k.section("__patchable_function_entries", elf.SHF_ALLOC, make([]byte, 12))
			return k.file
		}, "section __patchable_function_entries: 12 bytes are no whole number of addresses"},
		{"property", func(t *testing.T) *elfpatch.File {
			k := newMaker(t, arm64, elf.ET_EXEC).fn("f", "c0035fd6")
			k.section(".note.gnu.property", elf.SHF_ALLOC, unhex(t, "04000000 08000000 05000000 474e5500 000000c0 04000000")).Type = elf.SHT_NOTE
			return k.file
		}, "GNU property note: property of 0x4 bytes, 0x0 are left"},
		{"unwind data", func(t *testing.T) *elfpatch.File {
			k := newMaker(t, x86, elf.ET_EXEC).fn("f", ret20)
			k.section(".eh_frame", elf.SHF_ALLOC, unhex(t, "ffffff00 00000000"))
			return k.file
		}, ".eh_frame+0x0: entry of 0xffffff bytes, 0x4 are left"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Find(tt.make(t), Options{})
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}
