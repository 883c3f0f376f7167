package pobj

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
)

// rel is a relocation of a test object against an undefined symbol.
type rel struct {
	off    uint64
	typ    uint32
	sym    string
	addend int64
}

// function makes an object with one function f, given as hexadecimal.
func function(t *testing.T, m elf.Machine, code string, rels ...rel) Part {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(code, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	o := elfpatch.New(elf.ET_REL, m)
	s := o.AddSection(elfpatch.Section{Name: ".text.f", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16, Data: b})
	f := o.AddSymbol(elfpatch.Symbol{Name: "f", Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: s.Index, Size: uint64(len(b))})
	p := Part{Name: "t.o", Object: o, Keep: []int{f}}
	syms := map[string]int{}
	var list []elfpatch.Rela
	for _, r := range rels {
		k, ok := syms[r.sym]
		if !ok && r.sym != "" {
			k = o.AddSymbol(elfpatch.Symbol{Name: r.sym, Bind: elf.STB_GLOBAL})
			syms[r.sym] = k
			p.Externals = append(p.Externals, External{Symbol: k, Name: r.sym})
		}
		list = append(list, elfpatch.Rela{Offset: r.off, Type: r.typ, Symbol: uint32(k), Addend: r.addend})
	}
	if len(list) > 0 {
		if err := o.SetRelocations(s, list); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// know sets what is known about an external.
func (p Part) know(sym string, known match.Resolved) Part {
	for i := range p.Externals {
		if p.Externals[i].Name == sym {
			p.Externals[i].Known = known
			p.Externals[i].Dynamic = known == nil
		}
	}
	return p
}

// dump shows a payload: contents, relocations and imports, one a line.
func dump(t *testing.T, l *Linked) string {
	t.Helper()
	f, err := elfpatch.Parse(l.Object)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		fmt.Fprintf(&out, "%s %x\n", s.Name, s.Data)
		rels, err := f.Relocations(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rels {
			sym := f.Symbols[r.Symbol]
			name := sym.Name
			if sym.Type == elf.STT_SECTION {
				name = f.Sections[sym.Section].Name
			}
			info, _ := elfpatch.RelocInfo(f.Machine, r.Type)
			fmt.Fprintf(&out, "  %#x %s %s%+d\n", r.Offset, strings.TrimPrefix(strings.TrimPrefix(info.Name, "R_X86_64_"), "R_AARCH64_"), name, r.Addend)
		}
	}
	for _, im := range l.Imports {
		fmt.Fprintf(&out, "import %s %s", im.Symbol, im.Kind)
		switch im.Kind {
		case "target":
			fmt.Fprintf(&out, " %#x", im.Address)
		case "tls-offset":
			fmt.Fprintf(&out, " %d", im.Offset)
		default:
			fmt.Fprintf(&out, " %s", im.Name)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

const (
	x86 = elf.EM_X86_64
	arm = elf.EM_AARCH64
)

func places(kv ...any) match.Resolved {
	out := match.Resolved{}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i].(match.Use)] = match.Place{Value: uint64(kv[i+1].(int)), Found: "g+0x1", Uses: 1}
	}
	return out
}

func TestLink(t *testing.T) {
	tpoff := -8
	plt, pc := uint32(elf.R_X86_64_PLT32), uint32(elf.R_X86_64_PC32)
	gotx, tpo := uint32(elf.R_X86_64_REX_GOTPCRELX), uint32(elf.R_X86_64_GOTTPOFF)
	gd, ld, dtp := uint32(elf.R_X86_64_TLSGD), uint32(elf.R_X86_64_TLSLD), uint32(elf.R_X86_64_DTPOFF32)
	call := func(known match.Resolved) Part {
		return function(t, x86, "e800000000", rel{1, plt, "g", -4}).know("g", known)
	}
	load := func(known match.Resolved) Part {
		return function(t, x86, "488b0500000000", rel{3, gotx, "g", -4}).know("g", known)
	}
	general := "66488d3d00000000 666648e800000000"
	generalRels := []rel{{4, gd, "v", -4}, {12, plt, "__tls_get_addr", -4}}
	for name, tc := range map[string]struct {
		m    elf.Machine
		part Part
		want string
	}{
		"call": {x86, call(places(match.Address, 0x1000)),
			".text e800000000\n  0x1 PLT32 g-4\nimport g target 0x1000\n"},
		"call through the target's stub": {x86, call(places(match.Branch, 0x1020)),
			".text e800000000\n  0x1 PLT32 g@plt-4\nimport g@plt target 0x1020\n"},
		"call through the target's word": {x86, call(places(match.CallSlot, 0x4018)),
			".text e800000000" + strings.Repeat("cc", 11) + "f30f1efaff2500000000\n  0x1 PLT32 g@stub-4\n  0x16 PC32 g@got-4\nimport g@got target 0x4018\n"},
		"call of a library": {x86, call(nil),
			".text e800000000" + strings.Repeat("cc", 11) + "f30f1efaff2500000000\n  0x1 PLT32 g@stub-4\n  0x16 PC32 .livepatch.got-4\n" +
				".livepatch.got 0000000000000000\n  0x0 64 g+0\nimport g dynamic g\n"},
		"old branch": {x86, function(t, x86, "e900000000", rel{1, pc, "g", -4}).know("g", nil),
			".text e900000000" + strings.Repeat("cc", 11) + "f30f1efaff2500000000\n  0x1 PC32 g@stub-4\n  0x16 PC32 .livepatch.got-4\n" +
				".livepatch.got 0000000000000000\n  0x0 64 g+0\nimport g dynamic g\n"},
		"pointer by the target's word": {x86, load(places(match.Slot, 0x4020, match.Branch, 0x1020)),
			".text 488b0500000000\n  0x3 PC32 g@got-4\nimport g@got target 0x4020\n"},
		"pointer": {x86, load(places(match.Address, 0x1000)),
			".text 488b0500000000\n  0x3 PC32 .livepatch.got-4\n.livepatch.got 0000000000000000\n  0x0 64 g+0\nimport g target 0x1000\n"},
		"pointer of a library": {x86, load(nil),
			".text 488b0500000000\n  0x3 PC32 .livepatch.got-4\n.livepatch.got 0000000000000000\n  0x0 64 g+0\nimport g dynamic g\n"},
		"lea becomes a load": {x86, function(t, x86, "488d0d00000000", rel{3, pc, "g", -4}).know("g", places(match.Slot, 0x4020)),
			".text 488b0d00000000\n  0x3 PC32 g@got-4\nimport g@got target 0x4020\n"},
		"thread-local by the target's word": {x86, function(t, x86, "488b0500000000", rel{3, tpo, "v", -4}).know("v", places(match.TPSlot, 0x4028)),
			".text 488b0500000000\n  0x3 PC32 v@gottpoff-4\nimport v@gottpoff target 0x4028\n"},
		"thread-local by a word of its own": {x86, function(t, x86, "488b0500000000", rel{3, tpo, "v", -4}).know("v", places(match.TPOffset, tpoff)),
			".text 488b0500000000\n  0x3 PC32 .livepatch.got-4\n.livepatch.got 0000000000000000\n  0x0 TPOFF64 v+0\nimport v tls-offset -8\n"},
		"general dynamic": {x86, function(t, x86, general, generalRels...).know("v", places(match.TLSPair, 0x4030)).know("__tls_get_addr", places(match.Branch, 0x1030)),
			".text 66488d3d00000000666648e800000000\n  0x4 PC32 v@tlsgd-4\n  0xc PLT32 __tls_get_addr@plt-4\nimport v@tlsgd target 0x4030\nimport __tls_get_addr@plt target 0x1030\n"},
		"general dynamic to local exec": {x86, function(t, x86, general, generalRels...).know("v", places(match.TPOffset, tpoff)),
			".text 64488b042500000000488d8000000000\n  0xc TPOFF32 v+0\nimport v tls-offset -8\n"},
		"general dynamic to initial exec": {x86, function(t, x86, general, generalRels...).know("v", places(match.TPSlot, 0x4028)),
			".text 64488b04250000000048030500000000\n  0xc PC32 v@gottpoff-4\nimport v@gottpoff target 0x4028\n"},
		"local dynamic to local exec": {x86, function(t, x86, "488d3d00000000 e800000000 8b8000000000",
			rel{3, ld, "v", -4}, rel{8, plt, "__tls_get_addr", -4}, rel{14, dtp, "v", 0}).know("v", places(match.TPOffset, tpoff)),
			".text 66666664488b0425000000008b8000000000\n  0xe TPOFF32 v+0\nimport v tls-offset -8\n"},
		"local dynamic": {x86, function(t, x86, "488d3d00000000 e800000000 8b8000000000",
			rel{3, ld, "v", -4}, rel{8, plt, "__tls_get_addr", -4}, rel{14, dtp, "v", 0}).
			know("v", places(match.TLSModule, 0x4040, match.DTPOffset, 0x10)).know("__tls_get_addr", places(match.Branch, 0x1030)),
			".text 488d3d00000000e8000000008b8010000000\n  0x3 PC32 v@tlsld-4\n  0x8 PLT32 __tls_get_addr@plt-4\nimport v@tlsld target 0x4040\nimport __tls_get_addr@plt target 0x1030\n"},
		"descriptor to local exec": {x86, function(t, x86, "488d0500000000 ff10",
			rel{3, uint32(elf.R_X86_64_GOTPC32_TLSDESC), "v", -4}, rel{7, uint32(elf.R_X86_64_TLSDESC_CALL), "v", 0}).know("v", places(match.TPOffset, tpoff)),
			".text 48c7c0000000006690\n  0x3 TPOFF32 v+0\nimport v tls-offset -8\n"},
		"arm64 call of a library": {arm, function(t, arm, "00000094", rel{0, uint32(elf.R_AARCH64_CALL26), "g", 0}).know("g", nil),
			".text 00000094" + strings.Repeat("00", 12) + "5f2403d510000090110240f920021fd6\n  0x0 CALL26 g@stub+0\n  0x14 ADR_PREL_PG_HI21 .livepatch.got+0\n  0x18 LDST64_ABS_LO12_NC .livepatch.got+0\n" +
				".livepatch.got 0000000000000000\n  0x0 ABS64 g+0\nimport g dynamic g\n"},
		"arm64 pointer": {arm, function(t, arm, "00000090 000040f9",
			rel{0, uint32(elf.R_AARCH64_ADR_GOT_PAGE), "g", 0}, rel{4, uint32(elf.R_AARCH64_LD64_GOT_LO12_NC), "g", 0}).know("g", places(match.Slot, 0x20020)),
			".text 00000090000040f9\n  0x0 ADR_PREL_PG_HI21 g@got+0\n  0x4 LDST64_ABS_LO12_NC g@got+0\nimport g@got target 0x20020\n"},
		"arm64 descriptor to local exec": {arm, function(t, arm, "00000090 030040f9 00000091 60003fd6",
			rel{0, uint32(elf.R_AARCH64_TLSDESC_ADR_PAGE21), "v", 0}, rel{4, uint32(elf.R_AARCH64_TLSDESC_LD64_LO12_NC), "v", 0},
			rel{8, uint32(elf.R_AARCH64_TLSDESC_ADD_LO12_NC), "v", 0}, rel{12, uint32(elf.R_AARCH64_TLSDESC_CALL), "v", 0}).know("v", places(match.TPOffset, 16)),
			".text 0000a0d2000080f21f2003d51f2003d5\n  0x0 TLSLE_MOVW_TPREL_G1 v+0\n  0x4 TLSLE_MOVW_TPREL_G0_NC v+0\nimport v tls-offset 16\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Link(tc.m, []Part{tc.part}, Dispatch{})
			if err != nil {
				t.Fatal(err)
			}
			if got := dump(t, l); got != tc.want {
				t.Errorf("got\n%swant\n%s", got, tc.want)
			}
			if l.Names[0][tc.part.Keep[0]] != "f" {
				t.Errorf("names %v", l.Names)
			}
		})
	}
}

// Parts with the same names live side by side, and the order alone decides the
// bytes.
func TestParts(t *testing.T) {
	part := func(addr int) Part {
		p := function(t, x86, "8b0500000000 c3", rel{2, uint32(elf.R_X86_64_PC32), "counter", -4}).know("counter", places(match.Address, addr))
		o := p.Object
		ro := o.AddSection(elfpatch.Section{Name: ".rodata.str1.1", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_MERGE | elf.SHF_STRINGS, EntSize: 1, Align: 1, Data: []byte("hi\x00")})
		o.AddSection(elfpatch.Section{Name: ".bss.x", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, Size: 12})
		o.AddSection(elfpatch.Section{Name: ".comment", Type: elf.SHT_PROGBITS, Data: []byte("dropped")})
		d := o.AddSection(elfpatch.Section{Name: ".data.y", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, Data: make([]byte, 16)})
		s := o.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Section: ro.Index})
		c := o.AddSymbol(elfpatch.Symbol{Name: "shared", Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Section: elfpatch.Common, Value: 16, Size: 32})
		if err := o.SetRelocations(d, []elfpatch.Rela{
			{Offset: 0, Type: uint32(elf.R_X86_64_64), Symbol: uint32(s), Addend: 1},
			{Offset: 8, Type: uint32(elf.R_X86_64_64), Symbol: uint32(c), Addend: 4},
		}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	link := func() *Linked {
		l, err := Link(x86, []Part{part(0x4000), part(0x5000)}, Dispatch{})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := link()
	want := ".text 8b0500000000c3" + strings.Repeat("cc", 9) + "8b0500000000c3\n  0x2 PC32 counter-4\n  0x12 PC32 counter#2-4\n" +
		".rodata 686900686900\n" +
		".data " + strings.Repeat("00", 32) + "\n  0x0 64 .rodata.str1.1+1\n  0x8 64 shared+4\n  0x10 64 .rodata.str1.1#2+1\n  0x18 64 shared#2+4\n" +
		".bss \nimport counter target 0x4000\nimport counter#2 target 0x5000\n"
	if got := dump(t, l); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if a, b := l.Names[0], l.Names[1]; a[1] != "f" || b[1] != "f#2" {
		t.Errorf("names %v %v", a, b)
	}
	f, _ := elfpatch.Parse(l.Object)
	// x, then shared at 16; the second x at 48, the second shared at 64.
	if s := f.Section(".bss"); s.Size != 96 || s.Align != 16 {
		t.Errorf(".bss has %d bytes, aligned to %d", s.Size, s.Align)
	}
	if again := link(); !bytes.Equal(l.Object, again.Object) || !slices.Equal(l.Imports, again.Imports) {
		t.Error("two links differ")
	}
}

func TestLinkRefuses(t *testing.T) {
	abs := uint32(elf.R_X86_64_32S)
	section := func(s elfpatch.Section) Part {
		p := function(t, x86, "c3")
		p.Object.AddSection(s)
		return p
	}
	const alloc, write, exec = elf.SHF_ALLOC, elf.SHF_WRITE, elf.SHF_EXECINSTR
	for name, tc := range map[string]struct {
		part Part
		want refusal.Code
		text string
	}{
		"unknown": {function(t, x86, "e800000000", rel{1, uint32(elf.R_X86_64_PLT32), "g", -4}).know("g", places()),
			refusal.AddressUnknown, "t.o: f+0x1: the address of g in the target cannot be found"},
		"pointer without the GOT": {function(t, x86, "48c7c000000000", rel{3, abs, "g", 0}).know("g", nil),
			refusal.Unsupported, "without the GOT"},
		"model": {function(t, x86, "64488b042500000000", rel{5, uint32(elf.R_X86_64_TPOFF32), "v", 0}).know("v", places(match.TLSPair, 0x4000)),
			refusal.TLSModel, "thread-local v"},
		"thread-local section": {section(elfpatch.Section{Name: ".tbss", Type: elf.SHT_NOBITS, Flags: alloc | write | elf.SHF_TLS, Size: 4}),
			refusal.TLSNew, ".tbss"},
		"constructor": {section(elfpatch.Section{Name: ".init_array", Type: elf.SHT_INIT_ARRAY, Flags: alloc | write, Data: make([]byte, 8)}),
			refusal.Unsupported, "would have to run"},
		"writable code": {section(elfpatch.Section{Name: ".wx", Type: elf.SHT_PROGBITS, Flags: alloc | write | exec, Data: make([]byte, 8)}),
			refusal.Unsupported, "writable and executable"},
		"alignment": {section(elfpatch.Section{Name: ".big", Type: elf.SHT_PROGBITS, Flags: alloc, Align: 8192, Data: make([]byte, 8)}),
			refusal.Unsupported, "alignment"},
		"GOT base": {function(t, x86, "488d0500000000", rel{3, uint32(elf.R_X86_64_GOTPC32), "g", -4}).know("g", places(match.Address, 0x1000)),
			refusal.Unsupported, "GOTPC32"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Link(x86, []Part{tc.part}, Dispatch{})
			list, ok := err.(refusal.List)
			if !ok || len(list) != 1 || list[0].Code != tc.want || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v, want %s with %q", err, tc.want, tc.text)
			}
		})
	}
}
