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
	nops:         arm64NOPs,
	start:        arm64Start,
	end:          arm64End,
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

func arm64Start(e *emitter, patch uint32) code {
	return code{
		bytes: []byte{
			0x5f, 0x24, 0x03, 0xd5, // bti c
			0x00, 0x00, 0x00, 0x90, // adrp x0, klp_patch
			0x00, 0x00, 0x00, 0x91, // add x0, x0, :lo12:klp_patch
			0x00, 0x00, 0x00, 0x14, // b klp_enable_patch
		},
		rels: []elfpatch.Rela{
			{Offset: 4, Type: uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), Symbol: patch},
			{Offset: 8, Type: uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), Symbol: patch},
			{Offset: 12, Type: uint32(elf.R_AARCH64_JUMP26), Symbol: e.own(enablePatch)},
		},
	}
}

func arm64End(*emitter) code {
	return code{bytes: []byte{
		0x5f, 0x24, 0x03, 0xd5, // bti c
		0xc0, 0x03, 0x5f, 0xd6, // ret
	}}
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
