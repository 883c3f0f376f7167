package match

import (
	"debug/elf"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// laid lays the object's code over the target's at 0x10000 and returns what the
// fields show, or where the two part.
func laid(t *testing.T, m elf.Machine, old string, rels []elfpatch.Rela, now string) string {
	t.Helper()
	o := elfpatch.New(elf.ET_REL, m)
	o.AddSymbol(elfpatch.Symbol{Name: "s", Bind: elf.STB_GLOBAL})
	o.AddSymbol(elfpatch.Symbol{Name: "w", Bind: elf.STB_WEAK})
	o.AddSymbol(elfpatch.Symbol{Name: "_GLOBAL_OFFSET_TABLE_", Bind: elf.STB_GLOBAL})
	const addr = 0x10000
	img := &image{f: elfpatch.New(elf.ET_EXEC, m), named: map[string][]named{}, checked: map[int]map[uint64]string{}}
	img.areas = []area{{addr: 0, size: 1 << 40, exec: true}}
	code := unhex(t, now)
	img.exec = []stretch{{addr, code}}
	before := unhex(t, old)
	w := window{m: m, old: before, new: code[:len(before)], addr: addr, rels: rels, obj: newObject(o), img: img}
	refs, miss := w.compare()
	if miss != nil {
		return strings.TrimSpace(fmt.Sprintf("miss +%#x %s", miss.off, miss.text))
	}
	var out []string
	for _, r := range refs {
		text := fmt.Sprintf("%s %#x", useShort[r.use], r.symbolValue())
		if r.mask != whole {
			text += fmt.Sprintf("/%#x", r.mask)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

var useShort = map[Use]string{
	Address: "addr", Branch: "branch", Slot: "slot", TPOffset: "tpoff", TPSlot: "tpslot",
	DTPOffset: "dtpoff", TLSPair: "pair", TLSModule: "module", TLSDesc: "desc",
}

func rela(off uint64, typ uint32, addend int64) elfpatch.Rela {
	return elfpatch.Rela{Offset: off, Type: typ, Symbol: 1, Addend: addend}
}

// Each rewrite of the linker is recognised, and whatever is nearly one is not.
func TestRewritesX86(t *testing.T) {
	gotx := []elfpatch.Rela{rela(3, rREXGOTPCRELX, -4)}
	gotx2 := []elfpatch.Rela{rela(2, rGOTPCRELX, -4)}
	ie := []elfpatch.Rela{rela(3, rGOTTPOFF, -4)}
	plt := uint32(elf.R_X86_64_PLT32)
	gd := []elfpatch.Rela{rela(4, rTLSGD, -4), rela(12, plt, -4)}
	ld := []elfpatch.Rela{rela(3, rTLSLD, -4), rela(8, plt, -4), rela(14, uint32(elf.R_X86_64_DTPOFF32), 0)}
	desc := []elfpatch.Rela{rela(3, rTLSDescGOT, -4), rela(7, rTLSDescCall, 0)}
	for _, tc := range []struct {
		name, old string
		rels      []elfpatch.Rela
		now, want string
	}{
		{"GOT kept", "488b0500000000", gotx, "488b0500010000", "slot 0x10107"},
		{"mov to lea", "488b0500000000", gotx, "488d0500010000", "addr 0x10107"},
		{"mov to lea, other register", "488b0500000000", gotx, "488d0d00010000", "miss +0x1"},
		{"mov to mov imm", "488b0500000000", gotx, "48c7c078563412", "addr 0x12345678"},
		{"mov to mov imm, r8", "4c8b0500000000", gotx, "49c7c078563412", "addr 0x12345678"},
		{"mov to mov imm, W dropped", "488b0500000000", gotx, "40c7c0785634f2", "addr 0xf2345678"},
		{"mov to mov imm, R kept", "4c8b0500000000", gotx, "4cc7c078563412", "miss +0x1"},
		{"mov to mov imm, wrong register", "488b0500000000", gotx, "48c7c178563412", "miss +0x1"},
		{"test", "48850d00000000", gotx, "48f7c178563412", "addr 0x12345678"},
		{"cmp", "483b0d00000000", gotx, "4881f978563412", "addr 0x12345678"},
		{"cmp to another operation", "483b0d00000000", gotx, "4881e978563412", "miss +0x1"},
		{"call", "ff1500000000", gotx2, "67e800010000", "branch 0x10106"},
		{"call; nop", "ff1500000000", gotx2, "e80001000090", "branch 0x10105"},
		{"nop; call", "ff1500000000", gotx2, "90e800010000", "branch 0x10106"},
		{"call; something", "ff1500000000", gotx2, "e800010000c3", "miss +0x0"},
		{"jmp; nop", "ff2500000000", gotx2, "e90001000090", "branch 0x10105"},
		{"call to jmp", "ff1500000000", gotx2, "e90001000090", "miss +0x0"},
		{"initial exec", "488b0500000000", ie, "488b0500010000", "tpslot 0x10107"},
		{"initial to local exec", "488b0500000000", ie, "48c7c0f8ffffff", "tpoff 0xfffffffffffffff8"},
		{"initial to local exec, r12", "4c8b2500000000", ie, "49c7c4f8ffffff", "tpoff 0xfffffffffffffff8"},
		{"add to lea", "48030500000000", ie, "488d80f8ffffff", "tpoff 0xfffffffffffffff8"},
		{"add to lea, r9", "4c030d00000000", ie, "4d8d89f8ffffff", "tpoff 0xfffffffffffffff8"},
		{"add to add, r12", "4c032500000000", ie, "4981c4f8ffffff", "tpoff 0xfffffffffffffff8"},
		{"add to lea, other register", "48030500000000", ie, "488d89f8ffffff", "miss +0x1"},
		{"general dynamic", "66488d3d00000000666648e800000000", gd, "66488d3d00010000666648e800020000", "pair 0x10108, branch 0x10210"},
		{"general to local exec", "66488d3d00000000666648e800000000", gd, "64488b042500000000488d80f8ffffff", "tpoff 0xfffffffffffffff8"},
		{"general to initial exec", "66488d3d00000000666648e800000000", gd, "64488b04250000000048030500010000", "tpslot 0x10110"},
		{"general to something", "66488d3d00000000666648e800000000", gd, "64488b042500000000488d88f8ffffff", "miss +0x0"},
		{"local dynamic", "488d3d00000000e8000000008b8000000000", ld, "488d3d00010000e8000200008b8010000000", "module 0x10107, branch 0x1020c, dtpoff 0x10"},
		{"local dynamic to local exec", "488d3d00000000e8000000008b8000000000", ld, "66666664488b0425000000008b80f0ffffff", "tpoff 0xfffffffffffffff0"},
		{"descriptor", "488d0500000000ff10", desc, "488d0500010000ff10", "desc 0x10107"},
		{"descriptor to initial exec", "488d0500000000ff10", desc, "488b05000100006690", "tpslot 0x10107"},
		{"descriptor to local exec", "488d0500000000ff10", desc, "48c7c0f8ffffff6690", "tpoff 0xfffffffffffffff8"},
		{"descriptor call lost", "488d0500000000ff10", desc, "48c7c0f8ffffff9090", "miss +0x7"},
		{"old jump", "e900000000", []elfpatch.Rela{rela(1, rPC32, -4)}, "e900010000", "branch 0x10105"},
		{"old conditional jump", "0f8400000000", []elfpatch.Rela{rela(2, rPC32, -4)}, "0f8400010000", "branch 0x10106"},
		{"lea", "488d0500000000", []elfpatch.Rela{rela(3, rPC32, -4)}, "488d0500010000", "addr 0x10107"},
		{"store with immediate", "c70500000000 07000000", []elfpatch.Rela{rela(2, rPC32, -8)}, "c70500010000 07000000", "addr 0x1010a"},
		{"overlap", "0000000000", []elfpatch.Rela{rela(0, rPC32, 0), rela(1, rPC32, 0)}, "0000000000", "miss +0x1 two relocations overlap"},
		{"past the end", "0000", []elfpatch.Rela{rela(0, rPC32, 0)}, "0000", "miss +0x0 the field of R_X86_64_PC32 extends past the function"},
		{"GOT base", "4c8d1d00000000", []elfpatch.Rela{rela(3, uint32(elf.R_X86_64_GOTPC32), -4)}, "4c8d1d00000000", "miss +0x3 code with R_X86_64_GOTPC32 relocations cannot be matched"},
	} {
		if got := laid(t, elf.EM_X86_64, tc.old, tc.rels, tc.now); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestRewritesARM64(t *testing.T) {
	at := func(types ...uint32) (out []elfpatch.Rela) {
		for i, typ := range types {
			out = append(out, rela(uint64(4*i), typ, 0))
		}
		return out
	}
	weak := []elfpatch.Rela{{Offset: 0, Type: aCall26, Symbol: 2}}
	small := []elfpatch.Rela{{Offset: 0, Type: aAdrPage, Symbol: 3}, {Offset: 4, Type: aGOTPage15, Symbol: 1}}
	ldr64 := uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC)
	const (
		adrpX0 = "00000090" // adrp x0, .
		addX0  = "00000091" // add x0, x0, #0
		ldrX0  = "000040f9" // ldr x0, [x0]
		nop    = "1f2003d5"
		blr    = "20003fd6" // blr x1
		ldrX1  = "010040f9" // ldr x1, [x0]
	)
	for _, tc := range []struct {
		name, old string
		rels      []elfpatch.Rela
		now, want string
	}{
		{"adrp, add", adrpX0 + addX0, at(aAdrPage, aAddLo12), "000000b0" + "00400d91", "addr 0x11350"},
		{"adrp, ldr", adrpX0 + ldrX0, at(aAdrPage, ldr64), "000000b0" + "00a841f9", "addr 0x11350"},
		{"adrp only", adrpX0, at(aAdrPage), "000000b0", "addr 0x11000/0xfffffffffffff000"},
		{"other register", adrpX0 + addX0, at(aAdrPage, aAddLo12), "010000b0" + "00400d91", "miss +0x0"},
		{"adr of the page", adrpX0 + addX0, at(aAdrPage, aAddLo12), "00800010" + "00400d91", "addr 0x11350"},
		{"adr elsewhere", adrpX0 + addX0, at(aAdrPage, aAddLo12), "20800010" + "00400d91", "miss +0x3"},
		{"nop, adr", adrpX0 + addX0, at(aAdrPage, aAddLo12), nop + "60080010", "addr 0x10110"},
		{"GOT", adrpX0 + ldrX0, at(aGOTPage, aGOTLo12), "000000b0" + "000840f9", "slot 0x11010"},
		{"GOT to add", adrpX0 + ldrX0, at(aGOTPage, aGOTLo12), "000000b0" + "00400d91", "addr 0x11350"},
		{"GOT to nop, adr", adrpX0 + ldrX0, at(aGOTPage, aGOTLo12), nop + "60080010", "addr 0x10110"},
		{"small GOT", adrpX0 + ldrX0, small, "000000b0" + "000840f9", "addr 0x11000/0xfffffffffffff000, slot 0x11010"},
		{"call", "00000094", at(aCall26), "10000094", "branch 0x10040"},
		{"call to jump", "00000094", at(aCall26), "10000014", "miss +0x3"},
		{"call through a veneer", "00000094", at(aCall26), "01000094" + "100000b0" + "10420d91" + "00021fd6", "branch 0x11350"},
		{"weak call", "00000094", weak, nop, ""},
		{"call gone", "00000094", at(aCall26), nop, "miss +0x3"},
		{"load moved out of line", adrpX0 + ldrX0 + nop, at(aAdrPage, ldr64), "000000b0" + "02000014" + nop + "00a841f9" + "feffff17", "addr 0x11350"},
		{"load moved, other way back", adrpX0 + ldrX0 + nop, at(aAdrPage, ldr64), "000000b0" + "02000014" + nop + "00a841f9" + "ffffff17", "miss +0x4"},
		{"initial exec", adrpX0 + ldrX0, at(aIEPage, aIELo12), "000000b0" + "000840f9", "tpslot 0x11010"},
		{"initial to local exec", adrpX0 + ldrX0, at(aIEPage, aIELo12), "2000a0d2" + "000280f2", "tpoff 0x10010"},
		{"descriptor", adrpX0 + ldrX1 + addX0 + blr, at(aDescPage, aDescLdr, aDescAdd, aDescCall), "000000b0" + "010840f9" + "00400091" + blr, "desc 0x11010"},
		{"descriptor to local exec", adrpX0 + ldrX1 + addX0 + blr, at(aDescPage, aDescLdr, aDescAdd, aDescCall), "2000a0d2" + "000280f2" + nop + nop, "tpoff 0x10010"},
		{"descriptor to initial exec", adrpX0 + ldrX1 + addX0 + blr, at(aDescPage, aDescLdr, aDescAdd, aDescCall), "000000b0" + "000840f9" + nop + nop, "tpslot 0x11010"},
	} {
		if got := laid(t, elf.EM_AARCH64, tc.old, tc.rels, tc.now); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// PLT entries, and functions that look like one.
func TestStubs(t *testing.T) {
	for _, tc := range []struct {
		m    elf.Machine
		code string
		want uint64 // 0: none
	}{
		{elf.EM_X86_64, "ff2500010000", 0x10106},
		{elf.EM_X86_64, "f30f1efaff2500010000", 0x1010a},
		{elf.EM_X86_64, "f30f1efaf2ff2500010000", 0x1010b},
		{elf.EM_X86_64, "ff1500010000", 0},
		{elf.EM_X86_64, "ff25", 0},
		{elf.EM_AARCH64, "100000b0 110a40f9 10420091 20021fd6", 0x11010},
		{elf.EM_AARCH64, "5f2403d5 100000b0 110a40f9 10420091 20021fd6", 0x11010},
		{elf.EM_AARCH64, "100000b0 110a40f9 10420091 9f2103d5 20021fd6", 0x11010},
		{elf.EM_AARCH64, "100000b0 110a40f9 10420091 c0035fd6", 0},
	} {
		read := stubX86
		if tc.m == elf.EM_AARCH64 {
			read = stubARM64
		}
		got, ok := read(unhex(t, tc.code), 0x10000)
		if ok != (tc.want != 0) || ok && got != tc.want {
			t.Errorf("%s: got %#x %v, want %#x", tc.code, got, ok, tc.want)
		}
	}
}
