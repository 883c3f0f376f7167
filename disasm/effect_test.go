package disasm

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// unhex reads "f3 0f 1e fa".
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func TestX86Flow(t *testing.T) {
	for _, c := range []struct {
		code  string
		flow  Flow
		field Field // PC-relative
		off   int64
		asm   string
	}{
		{"90", Next, Field{}, 0, "nop"},
		{"48 89 e5", Next, Field{}, 0, "mov %rsp,%rbp"},
		{"eb fe", Jump, Field{1, 1}, 0, "jmp ."},
		{"e9 00 01 00 00", Jump, Field{1, 4}, 0x105, "jmp .+0x105"},
		{"66 e9 00 01 00 00", Jump, Field{2, 4}, 0x106, "data16 jmp: prefix 66 changes nothing on Intel"},
		{"f2 e9 fb ff ff ff", Jump, Field{2, 4}, 1, "bnd jmp"},
		{"74 7f", CondJump, Field{1, 1}, 0x81, "je"},
		{"2e 75 80", CondJump, Field{2, 1}, -0x7d, "jne,pn"},
		{"0f 84 00 00 00 80", CondJump, Field{2, 4}, -0x7ffffffa, "je"},
		{"66 0f 8f 04 00 00 00", CondJump, Field{3, 4}, 11, "data16 jg"},
		{"e0 00", CondJump, Field{1, 1}, 2, "loopne"},
		{"e1 00", CondJump, Field{1, 1}, 2, "loope"},
		{"e2 00", CondJump, Field{1, 1}, 2, "loop"},
		{"e3 00", CondJump, Field{1, 1}, 2, "jrcxz"},
		{"67 e3 00", CondJump, Field{2, 1}, 3, "jecxz"},
		{"c7 f8 10 00 00 00", CondJump, Field{2, 4}, 0x16, "xbegin"},
		{"66 c7 f8 fe ff", CondJump, Field{3, 2}, 3, "xbeginw"},
		{"e8 00 00 00 00", Call, Field{1, 4}, 5, "call"},
		{"66 e8 00 00 00 00", Call, Field{2, 4}, 6, "data16 call"},
		{"67 e8 00 00 00 00", Call, Field{2, 4}, 6, "addr32 call, of relaxed GOT calls"},
		{"66 66 48 e8 00 00 00 00", Call, Field{4, 4}, 8, "call __tls_get_addr with padding"},
		{"ff d0", IndirectCall, Field{}, 0, "call *%rax"},
		{"41 ff d3", IndirectCall, Field{}, 0, "call *%r11"},
		{"ff 15 00 00 00 00", IndirectCall, Field{2, 4}, 6, "call *0(%rip)"},
		{"ff 18", IndirectCall, Field{}, 0, "lcall *(%rax)"},
		{"ff e0", IndirectJump, Field{}, 0, "jmp *%rax"},
		{"3e ff e0", IndirectJump, Field{}, 0, "notrack jmp *%rax"},
		{"f2 ff 25 10 00 00 00", IndirectJump, Field{3, 4}, 0x17, "bnd jmp *0x10(%rip)"},
		{"ff 28", IndirectJump, Field{}, 0, "ljmp *(%rax)"},
		{"ff 30", Next, Field{}, 0, "push (%rax)"},
		{"c3", Return, Field{}, 0, "ret"},
		{"f3 c3", Return, Field{}, 0, "repz ret"},
		{"c2 08 00", Return, Field{}, 0, "ret $8"},
		{"cb", Return, Field{}, 0, "lret"},
		{"ca 08 00", Return, Field{}, 0, "lret $8"},
		{"48 cf", Return, Field{}, 0, "iretq"},
		{"48 0f 07", Return, Field{}, 0, "sysretq"},
		{"0f 35", Return, Field{}, 0, "sysexit"},
		{"0f aa", Return, Field{}, 0, "rsm"},
		{"f3 0f 01 ec", Return, Field{}, 0, "uiret"},
		{"f2 0f 01 ca", Return, Field{}, 0, "erets"},
		{"cc", Trap, Field{}, 0, "int3"},
		{"f1", Trap, Field{}, 0, "int1"},
		{"f4", Trap, Field{}, 0, "hlt"},
		{"0f 0b", Trap, Field{}, 0, "ud2"},
		{"0f b9 c0", Trap, Field{}, 0, "ud1 %eax,%eax"},
		{"67 0f b9 40 02", Trap, Field{}, 0, "ud1 2(%eax),%eax, of clang's sanitizers"},
		{"0f ff c0", Trap, Field{}, 0, "ud0 %eax,%eax"},
		{"0f 05", Syscall, Field{}, 0, "syscall"},
		{"0f 34", Syscall, Field{}, 0, "sysenter"},
		{"cd 80", Syscall, Field{}, 0, "int $0x80"},
		{"0f 01 c1", Syscall, Field{}, 0, "vmcall"},
		{"0f 01 d9", Syscall, Field{}, 0, "vmmcall"},
		{"0f 01 ca", Next, Field{}, 0, "clac"},
		{"c5 f8 77", Next, Field{}, 0, "vzeroupper: not the ja of map 0"},
		{"c5 fa e6 c0", Next, Field{}, 0, "vcvtdq2pd"},
	} {
		in, err := Decode(elf.EM_X86_64, unhex(t, c.code))
		if err != nil {
			t.Errorf("%s (%s): %v", c.code, c.asm, err)
			continue
		}
		if in.Len != len(unhex(t, c.code)) || in.Flow != c.flow || in.PCRel != c.field || in.PCOff != c.off {
			t.Errorf("%s (%s): length %d flow %d field %v offset %#x; want flow %d field %v offset %#x",
				c.code, c.asm, in.Len, in.Flow, in.PCRel, in.PCOff, c.flow, c.field, c.off)
		}
		mem := in.X86.HasModRM && in.X86.ModRM&0xc7 == 5
		if in.Mem != mem {
			t.Errorf("%s (%s): Mem %v", c.code, c.asm, in.Mem)
		}
	}
}

func TestX86Fields(t *testing.T) {
	for _, c := range []struct {
		code string
		want X86
		rel  Field
		off  int64
		asm  string
	}{
		{"c7 05 10 00 00 00 05 00 00 00", X86{Opcode: 0xc7, HasModRM: true, ModRM: 5, ModRMOff: 1,
			Disp: Field{2, 4}, Imm: Field{6, 4}}, Field{2, 4}, 0x1a, "movl $5,0x10(%rip): the immediate counts"},
		{"66 c7 05 10 00 00 00 05 00", X86{Opcode: 0xc7, OpcodeOff: 1, HasModRM: true, ModRM: 5, ModRMOff: 2,
			Disp: Field{3, 4}, Imm: Field{7, 2}, OpSize16: true}, Field{3, 4}, 0x19, "movw $5,0x10(%rip)"},
		{"48 b8 01 02 03 04 05 06 07 08", X86{Opcode: 0xb8, OpcodeOff: 1, Imm: Field{2, 8}, REX: 0x48}, Field{}, 0, "movabs"},
		{"66 48 b8 01 02 03 04 05 06 07 08", X86{Opcode: 0xb8, OpcodeOff: 2, Imm: Field{3, 8}, OpSize16: true, REX: 0x48}, Field{}, 0, "movabs with 66"},
		{"48 66 b8 01 02", X86{Opcode: 0xb8, OpcodeOff: 2, Imm: Field{3, 2}, OpSize16: true}, Field{}, 0, "mov $0x201,%ax: the REX is void"},
		{"48 a1 01 02 03 04 05 06 07 08", X86{Opcode: 0xa1, OpcodeOff: 1, Imm: Field{2, 8}, REX: 0x48}, Field{}, 0, "movabs 0x…,%rax"},
		{"67 a1 01 02 03 04", X86{Opcode: 0xa1, OpcodeOff: 1, Imm: Field{2, 4}}, Field{}, 0, "addr32 mov"},
		{"c8 10 00 01", X86{Opcode: 0xc8, Imm: Field{1, 3}}, Field{}, 0, "enter $16,$1"},
		{"f6 05 00 00 00 00 01", X86{Opcode: 0xf6, HasModRM: true, ModRM: 5, ModRMOff: 1,
			Disp: Field{2, 4}, Imm: Field{6, 1}}, Field{2, 4}, 7, "testb $1,0(%rip)"},
		{"f6 1d 00 00 00 00", X86{Opcode: 0xf6, HasModRM: true, ModRM: 0x1d, ModRMOff: 1,
			Disp: Field{2, 4}}, Field{2, 4}, 6, "negb 0(%rip): no immediate"},
		{"8b 04 25 10 00 00 00", X86{Opcode: 0x8b, HasModRM: true, ModRM: 4, ModRMOff: 1,
			Disp: Field{3, 4}}, Field{}, 0, "mov 0x10,%eax: absolute, by SIB"},
		{"8b 44 24 10", X86{Opcode: 0x8b, HasModRM: true, ModRM: 0x44, ModRMOff: 1,
			Disp: Field{3, 1}}, Field{}, 0, "mov 0x10(%rsp),%eax"},
		{"0f 20 05", X86{Map: 1, Opcode: 0x20, OpcodeOff: 1, HasModRM: true, ModRM: 5, ModRMOff: 2}, Field{}, 0, "mov %cr0,%rbp: mod is ignored"},
		{"66 0f 78 c1 02 03", X86{Map: 1, Opcode: 0x78, OpcodeOff: 2, HasModRM: true, ModRM: 0xc1, ModRMOff: 3,
			Imm: Field{4, 2}, OpSize16: true}, Field{}, 0, "extrq $3,$2,%xmm1"},
		{"66 0f 3a 0f 05 10 00 00 00 08", X86{Map: 3, Opcode: 0x0f, OpcodeOff: 3, HasModRM: true, ModRM: 5, ModRMOff: 4,
			Disp: Field{5, 4}, Imm: Field{9, 1}, OpSize16: true}, Field{5, 4}, 0x1a, "palignr $8,0x10(%rip),%xmm0"},
		{"f2 0f 38 f0 c1", X86{Map: 2, Opcode: 0xf0, OpcodeOff: 3, HasModRM: true, ModRM: 0xc1, ModRMOff: 4, Rep: 0xf2}, Field{}, 0, "crc32b"},
		{"c5 fb 10 05 10 00 00 00", X86{Encoding: VEX, Map: 1, Opcode: 0x10, OpcodeOff: 2, HasModRM: true, ModRM: 5, ModRMOff: 3,
			Disp: Field{4, 4}}, Field{4, 4}, 0x18, "vmovsd 0x10(%rip),%xmm0"},
		{"c4 e3 79 0f 05 10 00 00 00 08", X86{Encoding: VEX, Map: 3, Opcode: 0x0f, OpcodeOff: 3, HasModRM: true, ModRM: 5, ModRMOff: 4,
			Disp: Field{5, 4}, Imm: Field{9, 1}}, Field{5, 4}, 0x1a, "vpalignr $8,0x10(%rip),%xmm0,%xmm0"},
		{"62 f1 7c 48 28 05 10 00 00 00", X86{Encoding: EVEX, Map: 1, Opcode: 0x28, OpcodeOff: 4, HasModRM: true, ModRM: 5, ModRMOff: 5,
			Disp: Field{6, 4}}, Field{6, 4}, 0x1a, "vmovaps 0x10(%rip),%zmm0"},
		{"62 f1 7c 48 28 40 01", X86{Encoding: EVEX, Map: 1, Opcode: 0x28, OpcodeOff: 4, HasModRM: true, ModRM: 0x40, ModRMOff: 5,
			Disp: Field{6, 1}}, Field{}, 0, "vmovaps 0x40(%rax),%zmm0: compressed displacement"},
		{"8f ea 78 10 c0 01 02 03 04", X86{Encoding: XOP, Map: 10, Opcode: 0x10, OpcodeOff: 3, HasModRM: true, ModRM: 0xc0, ModRMOff: 4,
			Imm: Field{5, 4}}, Field{}, 0, "bextr $0x04030201,%eax,%eax"},
		{"8f c0", X86{Opcode: 0x8f, HasModRM: true, ModRM: 0xc0, ModRMOff: 1}, Field{}, 0, "pop %rax, not XOP"},
	} {
		in, err := Decode(elf.EM_X86_64, unhex(t, c.code))
		if err != nil {
			t.Errorf("%s (%s): %v", c.code, c.asm, err)
			continue
		}
		if in.X86 != c.want || in.PCRel != c.rel || in.PCOff != c.off || in.Len != len(unhex(t, c.code)) {
			t.Errorf("%s (%s):\n got %+v\nwant %+v field %v offset %#x", c.code, c.asm, in, c.want, c.rel, c.off)
		}
	}
}

func TestX86NopAndPad(t *testing.T) {
	for _, c := range []struct {
		code     string
		nop, pad bool
	}{
		{"90", true, false},
		{"66 90", true, false},
		{"48 90", true, false},
		{"0f 1f 00", true, false},
		{"0f 1f 40 00", true, false},
		{"0f 1f 44 00 00", true, false},
		{"66 0f 1f 44 00 00", true, false},
		{"0f 1f 80 00 00 00 00", true, false},
		{"0f 1f 84 00 00 00 00 00", true, false},
		{"66 0f 1f 84 00 00 00 00 00", true, false},
		{"66 2e 0f 1f 84 00 00 00 00 00", true, false},
		{"66 66 2e 0f 1f 84 00 00 00 00 00", true, false},
		{"66 66 66 66 66 66 2e 0f 1f 84 00 00 00 00 00", true, false},
		{"f3 0f 1e fa", false, true},
		{"f3 0f 1e fb", false, false}, // endbr32 is none in 64-bit mode
		{"0f 1e fa", false, false},
		{"f3 90", false, false}, // pause
		{"41 90", false, false}, // xchg %eax,%r8d
		{"87 c0", false, false}, // xchg %eax,%eax clears the upper half
		{"cc", false, false},
	} {
		in, err := Decode(elf.EM_X86_64, unhex(t, c.code))
		if err != nil || in.Nop != c.nop || in.Pad != c.pad || in.Len != len(unhex(t, c.code)) {
			t.Errorf("%s: length %d nop %v pad %v, %v", c.code, in.Len, in.Nop, in.Pad, err)
		}
	}
}

func TestARM64Effect(t *testing.T) {
	const (
		rel  = 1 << iota // PC-relative
		mem              // to data or an address
		page             // in pages
		nop
		pad
	)
	for _, c := range []struct {
		word  uint32
		flow  Flow
		flags int
		off   int64
		asm   string
	}{
		{0x14000001, Jump, rel, 4, "b .+4"},
		{0x15ffffff, Jump, rel, 1<<27 - 4, "b .+0x7fffffc, the farthest"},
		{0x16000000, Jump, rel, -1 << 27, "b .-0x8000000, the farthest back"},
		{0x97ffffff, Call, rel, -4, "bl .-4"},
		{0x54000040, CondJump, rel, 8, "b.eq .+8"},
		{0x54800000, CondJump, rel, -1 << 20, "b.eq .-0x100000"},
		{0x54000050, CondJump, rel, 8, "bc.eq .+8"},
		{0x5400004e, Jump, rel, 8, "b.al .+8: always"},
		{0x5400004f, Jump, rel, 8, "b.nv .+8: always too"},
		{0xb4000040, CondJump, rel, 8, "cbz x0, .+8"},
		{0x35ffffe0, CondJump, rel, -4, "cbnz w0, .-4"},
		{0x36000040, CondJump, rel, 8, "tbz w0, #0, .+8"},
		{0xb7fc0000, CondJump, rel, -1 << 15, "tbnz x0, #63, .-0x8000"},
		{0x10000000, Next, rel | mem, 0, "adr x0, ."},
		{0x70ffffe0, Next, rel | mem, -1, "adr x0, .-1"},
		{0x30000000, Next, rel | mem, 1, "adr x0, .+1"},
		{0xb0000000, Next, rel | mem | page, 1 << 12, "adrp x0, .+0x1000"},
		{0x90800000, Next, rel | mem | page, -1 << 32, "adrp x0, .-0x100000000"},
		{0x18000040, Next, rel | mem, 8, "ldr w0, .+8"},
		{0x58ffffe0, Next, rel | mem, -4, "ldr x0, .-4"},
		{0x98000040, Next, rel | mem, 8, "ldrsw x0, .+8"},
		{0xd8000040, Next, rel | mem, 8, "prfm pldl1keep, .+8"},
		{0x1c000040, Next, rel | mem, 8, "ldr s0, .+8"},
		{0x5c000040, Next, rel | mem, 8, "ldr d0, .+8"},
		{0x9c000040, Next, rel | mem, 8, "ldr q0, .+8"},
		{0xd61f0200, IndirectJump, 0, 0, "br x16"},
		{0xd61f0a1f, IndirectJump, 0, 0, "braaz x16"},
		{0xd71f0a11, IndirectJump, 0, 0, "braa x16, x17"},
		{0xd63f0100, IndirectCall, 0, 0, "blr x8"},
		{0xd63f0d1f, IndirectCall, 0, 0, "blrabz x8"},
		{0xd73f0d1f, IndirectCall, 0, 0, "blrab x8, sp"},
		{0xd65f03c0, Return, 0, 0, "ret"},
		{0xd65f0bff, Return, 0, 0, "retaa"},
		{0xd65f0fff, Return, 0, 0, "retab"},
		{0xd69f03e0, Return, 0, 0, "eret"},
		{0xd69f0bff, Return, 0, 0, "eretaa"},
		{0xd6bf03e0, Return, 0, 0, "drps"},
		{0xd4000001, Syscall, 0, 0, "svc #0"},
		{0xd4000002, Syscall, 0, 0, "hvc #0"},
		{0xd4000003, Syscall, 0, 0, "smc #0"},
		{0xd4200000, Trap, 0, 0, "brk #0"},
		{0xd4400000, Trap, 0, 0, "hlt #0"},
		{0xd4a00001, Trap, 0, 0, "dcps1"},
		{0x00000000, Trap, 0, 0, "udf #0"},
		{0x0000ffff, Trap, 0, 0, "udf #65535"},
		{0xd503201f, Next, nop, 0, "nop"},
		{0xd503203f, Next, 0, 0, "yield"},
		{0xd503241f, Next, pad, 0, "bti"},
		{0xd503245f, Next, pad, 0, "bti c"},
		{0xd503249f, Next, pad, 0, "bti j"},
		{0xd50324df, Next, pad, 0, "bti jc"},
		{0xd503233f, Next, pad, 0, "paciasp"},
		{0xd503237f, Next, pad, 0, "pacibsp"},
		{0xd50323bf, Next, 0, 0, "autiasp"},
		{0xd503231f, Next, 0, 0, "paciaz: no landing pad"},
		{0xd5033fdf, Next, 0, 0, "isb"},
		{0xa9bf7bfd, Next, 0, 0, "stp x29, x30, [sp, #-16]!"},
		{0xf9400000, Next, 0, 0, "ldr x0, [x0]"},
		{0x8b000000, Next, 0, 0, "add x0, x0, x0"},
	} {
		b := binary.LittleEndian.AppendUint32(nil, c.word)
		in, err := Decode(elf.EM_AARCH64, b)
		if err != nil {
			t.Errorf("%08x (%s): %v", c.word, c.asm, err)
			continue
		}
		flags := 0
		for bit, set := range map[int]bool{rel: in.PCRel == Field{0, 4}, mem: in.Mem, page: in.Page, nop: in.Nop, pad: in.Pad} {
			if set {
				flags |= bit
			}
		}
		if in.Len != 4 || in.Flow != c.flow || flags != c.flags || in.PCOff != c.off {
			t.Errorf("%08x (%s): flow %d flags %05b offset %#x; want %d %05b %#x", c.word, c.asm, in.Flow, flags, in.PCOff, c.flow, c.flags, c.off)
		}
	}
}

func TestTarget(t *testing.T) {
	adrp, err := Decode(elf.EM_AARCH64, []byte{0x00, 0x00, 0x00, 0xb0}) // adrp x0, .+0x1000
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := adrp.Target(0x400abc); !ok || a != 0x401000 {
		t.Errorf("adrp at 0x400abc: %#x %v, want 0x401000", a, ok)
	}
	jmp, err := Decode(elf.EM_X86_64, []byte{0xeb, 0xfe}) // jmp .
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := jmp.Target(0x400abc); !ok || a != 0x400abc {
		t.Errorf("jmp . at 0x400abc: %#x %v", a, ok)
	}
	if a, ok := (Inst{Len: 1}).Target(1); ok {
		t.Errorf("no field, but target %#x", a)
	}
}
