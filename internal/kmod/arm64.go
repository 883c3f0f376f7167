package kmod

import (
	"debug/elf"

	"livepatch/elfpatch"
)

// On arm64 branches reach 128 MB. The module loader makes stubs for those that
// do not, in sections that every module brings along as empty places
// (arch/arm64/include/asm/module.lds.h); without them it refuses the module.
// Functions that are called indirectly start with bti c, which older
// processors take for a hint.

var arm64 = machine{
	// arch/arm64/kernel/module.c, 6.12
	loads: arm64Loads(
		elf.R_AARCH64_ABS16, elf.R_AARCH64_PREL16, elf.R_AARCH64_ABS32, elf.R_AARCH64_PREL32, elf.R_AARCH64_ABS64, elf.R_AARCH64_PREL64,
		elf.R_AARCH64_MOVW_UABS_G0, elf.R_AARCH64_MOVW_UABS_G0_NC, elf.R_AARCH64_MOVW_UABS_G1, elf.R_AARCH64_MOVW_UABS_G1_NC,
		elf.R_AARCH64_MOVW_UABS_G2, elf.R_AARCH64_MOVW_UABS_G2_NC, elf.R_AARCH64_MOVW_UABS_G3,
		elf.R_AARCH64_MOVW_SABS_G0, elf.R_AARCH64_MOVW_SABS_G1, elf.R_AARCH64_MOVW_SABS_G2,
		elf.R_AARCH64_LD_PREL_LO19, elf.R_AARCH64_ADR_PREL_LO21, elf.R_AARCH64_ADR_PREL_PG_HI21, elf.R_AARCH64_ADR_PREL_PG_HI21_NC,
		elf.R_AARCH64_ADD_ABS_LO12_NC, elf.R_AARCH64_LDST8_ABS_LO12_NC, elf.R_AARCH64_LDST16_ABS_LO12_NC, elf.R_AARCH64_LDST32_ABS_LO12_NC,
		elf.R_AARCH64_LDST64_ABS_LO12_NC, elf.R_AARCH64_LDST128_ABS_LO12_NC,
		elf.R_AARCH64_TSTBR14, elf.R_AARCH64_CONDBR19, elf.R_AARCH64_JUMP26, elf.R_AARCH64_CALL26),
	pointer:      uint32(elf.R_AARCH64_ABS64),
	distance:     uint32(elf.R_AARCH64_PREL32),
	nops:         arm64NOPs,
	start:        arm64Start,
	end:          arm64End,
	trampoline:   arm64Trampoline,
	leave:        arm64LeaveStub,
	enter:        arm64Enter,
	encode:       arm64Encode,
	branch:       arm64Branch,
	reach:        arm64Reach,
	describeCode: arm64DescribeCode,
}

func arm64Loads(types ...elf.R_AARCH64) map[uint32]int {
	m := map[uint32]int{}
	for _, t := range types {
		info, ok := elfpatch.RelocInfo(elf.EM_AARCH64, uint32(t))
		if !ok {
			panic("BUG: no relocation type " + t.String())
		}
		m[uint32(t)] = info.Size
	}
	return m
}

func arm64NOPs(n int) []byte {
	var b []byte
	for ; n >= 4; n -= 4 {
		b = append(b, 0x1f, 0x20, 0x03, 0xd5) // nop
	}
	return b
}

func arm64Start(e *emitter, patch uint32, to string) code {
	return code{
		bytes: []byte{
			0x5f, 0x24, 0x03, 0xd5, // bti c
			0x00, 0x00, 0x00, 0x90, // adrp x0, patch
			0x00, 0x00, 0x00, 0x91, // add x0, x0, :lo12:patch
			0x00, 0x00, 0x00, 0x14, // b to
		},
		rels: []elfpatch.Rela{
			{Offset: 4, Type: uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), Symbol: patch},
			{Offset: 8, Type: uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), Symbol: patch},
			{Offset: 12, Type: uint32(elf.R_AARCH64_JUMP26), Symbol: e.own(to)},
		},
	}
}

func arm64End(*emitter) code {
	return code{bytes: []byte{
		0x5f, 0x24, 0x03, 0xd5, // bti c
		0xc0, 0x03, 0x5f, 0xd6, // ret
	}}
}

// arm64Trampoline is entered from the function's site: x30 leads into the old
// function, x9 has what x30 was for the function (arch/arm64/kernel/entry-ftrace.S,
// 6.12). x16 and x17 are free where a function begins (AAPCS64).
func arm64Trampoline(e *emitter, replacement uint32, prev int64) code {
	return code{
		bytes: arm64Words(
			0xd503245f, // bti c
			0x90000010, // adrp x16, gate
			0x39400210, // ldrb w16, [x16, :lo12:gate]
			0x34000070, // cbz w16, 1f
			0xaa0903fe, // mov x30, x9: not back into the old function
			0x14000000, // b replacement
			0x90000010, // 1: adrp x16, prev
			0xf9400210, // ldr x16, [x16, :lo12:prev]
			0xd61f0200, // br x16
		),
		rels: []elfpatch.Rela{
			{Offset: 4, Type: uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), Symbol: e.labels[directPatch], Addend: patchGate},
			{Offset: 8, Type: uint32(elf.R_AARCH64_LDST8_ABS_LO12_NC), Symbol: e.labels[directPatch], Addend: patchGate},
			{Offset: 20, Type: uint32(elf.R_AARCH64_JUMP26), Symbol: replacement},
			{Offset: 24, Type: uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), Symbol: e.labels[directFuncs], Addend: prev},
			{Offset: 28, Type: uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC), Symbol: e.labels[directFuncs], Addend: prev},
		},
	}
}

// arm64LeaveStub goes on in the old function as if its site were a NOP.
func arm64LeaveStub(*emitter) code {
	return code{bytes: arm64Words(
		0xd503245f, // bti c
		0xaa1e03f0, // mov x16, x30
		0xaa0903fe, // mov x30, x9
		0xd65f0200, // ret x16
	)}
}

// arm64DescribeCode adds the places for the loader's stubs. Each has one byte,
// as the kernel's linker script makes them, so that no tool drops them.
func arm64DescribeCode(e *emitter) {
	for _, p := range []struct {
		name  string
		flags elf.SectionFlag
	}{
		{".plt", elf.SHF_ALLOC | elf.SHF_EXECINSTR},
		{".init.plt", elf.SHF_ALLOC},
		{".text.ftrace_trampoline", elf.SHF_ALLOC | elf.SHF_EXECINSTR},
		{".init.text.ftrace_trampoline", elf.SHF_ALLOC}, // since 6.12
	} {
		if e.out.Section(p.name) == nil {
			e.out.AddSection(elfpatch.Section{Name: p.name, Type: elf.SHT_PROGBITS, Flags: p.flags, Align: 1, Data: []byte{0}})
		}
	}
}
