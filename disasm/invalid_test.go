package disasm

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func TestX86Invalid(t *testing.T) {
	for _, c := range []struct{ code, want, why string }{
		{"06", "undefined", "push %es"},
		{"27", "undefined", "daa"},
		{"60", "undefined", "pusha"},
		{"82 c0 00", "undefined", "alias of 80"},
		{"9a 00 00 00 00 00 00", "undefined", "lcall ptr"},
		{"ce", "undefined", "into"},
		{"d4 0a", "undefined", "aam"},
		{"d5 01 90 90", "undefined", "aad, now REX2 of APX"},
		{"d6", "undefined", "salc"},
		{"ea 00 00 00 00 00 00", "undefined", "ljmp ptr"},
		{"0f 04", "undefined", ""},
		{"0f 0a", "undefined", ""},
		{"0f 24 c0", "undefined", "mov from a test register"},
		{"0f 36", "undefined", ""},
		{"0f 39 00", "undefined", "reserved escape"},
		{"0f 38 0c c0", "undefined", ""},
		{"0f 3a 00 c0 00", "undefined", ""},
		{"0f 0f c0 00", "operand", "3DNow! without an operation"},
		{"0f 20 c8", "operand", "no cr1"},
		{"0f ba c0 01", "operand", "bt group, reg 0"},
		{"0f c7 c0", "operand", "group 9 with a register"},
		{"0f 01 c7", "operand", "vmread group hole"},
		{"8d c0", "operand", "lea of a register"},
		{"8f c8", "the bytes end", "pop with reg 1 would be XOP"},
		{"c6 c8 00", "operand", "mov group, reg 1"},
		{"c6 f9 00", "operand", "only f8 is xabort"},
		{"fe d0", "operand", "inc group, reg 2"},
		{"ff f8", "operand", "group 5, reg 7"},
		{"ff d8", "operand", "lcall of a register"},
		{"ff e8", "operand", "ljmp of a register"},
		{"d9 d1", "operand", "x87 hole"},
		{"f3 0f 14 c0", "operand", "unpcklps has no F3 form"},
		{"66 0f 38 c8 c0", "operand", "sha1nexte has no 66 form"},
		{"f0 90", "prefix", "lock nop"},
		{"f0 8b 00", "prefix", "lock of a load"},
		{"f0 01 c0", "prefix", "lock of a register"},
		{"f0 0f ba 20 01", "prefix", "lock bt"},
		{"66 c5 f8 77", "prefix", "66 before VEX"},
		{"48 c5 f8 77", "prefix", "REX before VEX"},
		{"f3 c5 f8 77", "prefix", "F3 before VEX"},
		{"f0 c5 f8 77", "prefix", "LOCK before VEX"},
		{"c5 f0 77", "prefix", "vzeroupper with vvvv"},
		{"c4 e0 79 18 c0", "undefined", "VEX map 0"},
		{"c4 ff 79 18 c0", "undefined", "VEX map 31"},
		{"c4 e2 f9 18 c0", "prefix", "vbroadcastss has no W1 form"},
		{"c5 f9 77", "operand", "vzeroupper has no 66 form"},
		{"c5 f8 18 00", "undefined", "Knights Corner"},
		{"c4 e2 69 92 00", "operand", "gather without SIB"},
		{"62 f1 7c 40 77 c0", "undefined", "EVEX vzeroupper"},
		{"62 f9 7c 48 28 c0", "prefix", "EVEX reserved bit set"},
		{"62 f1 78 48 28 c0", "prefix", "EVEX reserved bit clear"},
		{"62 f4 7c 48 28 c0", "undefined", "EVEX map 4"},
		{"62 f7 7c 48 28 c0", "undefined", "EVEX map 7"},
		{"62 f1 7c c8 28 c0", "prefix", "zeroing without a mask"},
		{"62 f1 7c 68 28 c0", "prefix", "vector length 3 without rounding"},
		{"62 f1 74 48 28 c0", "prefix", "vmovaps with vvvv"},
		{"8f eb 78 10 c0 00 00 00 00", "undefined", "XOP map 11"},
		{"66 8f ea 78 10 c0 00 00 00 00", "prefix", "66 before XOP"},
		{"66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", "longer than 15", ""},
		{"66 66 66 66 66 66 66 66 66 66 66 e8 00 00 00 00", "longer than 15", ""},
	} {
		wantError(t, elf.EM_X86_64, unhex(t, c.code), c.want, c.why)
	}
}

func wantError(t *testing.T, m elf.Machine, b []byte, want, why string) {
	t.Helper()
	in, err := Decode(m, b)
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Text, want) {
		t.Errorf("% x (%s): got length %d, error %v; want %q", b, why, in.Len, err, want)
		return
	}
	if in != (Inst{}) {
		t.Errorf("% x: an instruction beside an error: %+v", b, in)
	}
	if e.Truncated != (want == "the bytes end") {
		t.Errorf("% x: Truncated %v", b, e.Truncated)
	}
}

func TestX86Longest(t *testing.T) {
	b := unhex(t, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 90")
	if in, err := Decode(elf.EM_X86_64, b); err != nil || in.Len != maxX86Len {
		t.Errorf("15 bytes: length %d, %v", in.Len, err)
	}
}

// Every instruction of the goldens, cut short, ends too early.
func TestTruncated(t *testing.T) {
	for m, golden := range goldens(t) {
		for _, g := range golden {
			for n := range g.code {
				wantError(t, m, g.code[:n], "the bytes end", g.text)
			}
		}
	}
}

func TestARM64Unallocated(t *testing.T) {
	for _, c := range []struct {
		word uint32
		why  string
	}{
		{0x00010000, "reserved, above udf"},
		{0x02000000, "op0 0001"},
		{0x06000000, "op0 0011"},
		{0xe7ffffff, "op0 0011"},
		{0xdc000000, "literal load of SIMD with opc 3"},
		{0xd4000000, "exception without a level"},
		{0xd4000004, "exception, LL and op2"},
		{0xd4200001, "brk with LL"},
		{0xd61f0001, "br with op4"},
		{0xd60f0000, "br with op2"},
		{0xd61f0400, "br with op3 1"},
		{0xd65f0800, "retaa with a register"},
		{0xd69f0000, "eret with a register"},
		{0xd6bf03e1, "drps with op4"},
		{0xd6ff0000, "opc 7"},
		{0x1200fc00, "and w0, w0, #all ones"},
		{0x12400000, "and w0 with an element of 64 bits"},
		{0x32800000, "movewide opc 1"},
		{0x52c00000, "movz w0, #0, lsl #32"},
		{0x93000000, "sbfm x0 with N clear"},
		{0x13200000, "sbfm w0 by 32"},
		{0x13a00000, "extr w0 with o0 set"},
		{0x0a008000, "and w0, w0, w0, lsl #32"},
		{0x8bc00000, "add with shift 3"},
		{0x8b201400, "add extended by 5"},
		{0x1b200000, "smaddl of w0"},
		{0xd583201f, "system with bit 23"},
	} {
		wantError(t, elf.EM_AARCH64, binary.LittleEndian.AppendUint32(nil, c.word), "unallocated", c.why)
	}
}

func TestUnknownMachine(t *testing.T) {
	if _, err := Decode(elf.EM_386, []byte{0x90}); err == nil || !strings.Contains(err.Error(), "no decoder") {
		t.Errorf("got %v", err)
	}
}

func TestWalk(t *testing.T) {
	b := unhex(t, "90 e8 00 00 00 00 c3 06 90")
	var offs []int
	err := Walk(elf.EM_X86_64, b, func(off int, in Inst) bool {
		offs = append(offs, off)
		return true
	})
	var e *Error
	if !errors.As(err, &e) || e.Off != 7 || len(offs) != 3 || offs[2] != 6 {
		t.Errorf("walked to %v, error %v; want 0 1 6 and an error at 7", offs, err)
	}
	n := 0
	if err := Walk(elf.EM_X86_64, b, func(int, Inst) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("stopped after %d, error %v", n, err)
	}
	if err := Walk(elf.EM_AARCH64, []byte{0x1f, 0x20, 0x03}, func(int, Inst) bool { return true }); err == nil {
		t.Error("a part of a word was walked over")
	}
}
