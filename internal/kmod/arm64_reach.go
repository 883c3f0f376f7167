package kmod

import (
	"debug/elf"

	"livepatch/elfpatch"
)

// A branch of arm64 reaches 128 MB. Where a function of a patched module is farther away,
// the kernel makes a stub when it applies the branch's relocation, and writes it into the code of the patch
// (module_emit_plt_entry, arch/arm64/kernel/module-plts.c, 7.2). These relocations are
// applied when both modules are there; by then that code is read-only, and the kernel
// would oops. So such branches go to veneers of the patch's own. Relocations of
// the two instructions that make an address reach 4 GB, more than the region of modules has,
// and the kernel writes them so that code may be read-only (WRITE_PLACE, module.c).

// veneerKey is what a veneer is for: branches of one section to one place.
type veneerKey struct {
	sec    *elfpatch.Section
	symbol uint32
	addend int64
}

// arm64Reach leads branches to functions of patched modules by way of veneers.
func arm64Reach(g *merger, rels map[*elfpatch.Section][]elfpatch.Rela) {
	veneers := map[veneerKey]uint32{}
	for _, sec := range g.out.Sections {
		for i, r := range rels[sec] {
			if r.Type != uint32(elf.R_AARCH64_CALL26) && r.Type != uint32(elf.R_AARCH64_JUMP26) || !g.comesLate(r.Symbol) {
				continue
			}
			key := veneerKey{sec, r.Symbol, r.Addend}
			if veneers[key] == 0 {
				veneers[key] = g.arm64Veneer(key, rels)
			}
			rels[sec][i].Symbol, rels[sec][i].Addend = veneers[key], 0
		}
	}
}

// comesLate reports a symbol that is resolved only when a patched module is there.
func (g *merger) comesLate(symbol uint32) bool {
	b := g.names[g.out.Symbols[symbol].Name]
	return g.out.Symbols[symbol].Section == elfpatch.Undefined && b.Kind == KLP && b.For != vmlinux
}

// arm64Veneer adds a veneer to a section and returns its symbol. Branches to it need no
// landing pad, and x16 is free on the way to a function (AAPCS64).
func (g *merger) arm64Veneer(key veneerKey, rels map[*elfpatch.Section][]elfpatch.Rela) uint32 {
	sec := key.sec
	at := (sec.Size + 3) &^ 3
	if at&0xff8 == 0xff8 {
		// Erratum 843419 of Cortex-A53: an adrp at the end of a page would get a stub of
		// the kernel's after all.
		at += 8
	}
	odd := -len(sec.Data) & 3
	sec.Data = append(append(sec.Data, make([]byte, odd)...), arm64NOPs(int(at)-len(sec.Data)-odd)...)
	sec.Data = append(sec.Data, arm64Words(
		0x90000010, // adrp x16, to
		0x91000210, // add x16, x16, :lo12:to
		0xd61f0200, // br x16
	)...)
	sec.Size = uint64(len(sec.Data))
	rels[sec] = append(rels[sec],
		elfpatch.Rela{Offset: at, Type: uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), Symbol: key.symbol, Addend: key.addend},
		elfpatch.Rela{Offset: at + 4, Type: uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), Symbol: key.symbol, Addend: key.addend})
	g.out.AddSymbol(elfpatch.Symbol{Name: "$x", Bind: elf.STB_LOCAL, Section: sec.Index, Value: at})
	return uint32(g.out.AddSymbol(elfpatch.Symbol{
		Name: g.unique(g.out.Symbols[key.symbol].Name + ".reach"), Type: elf.STT_FUNC, Bind: elf.STB_LOCAL, Section: sec.Index, Value: at, Size: sec.Size - at,
	}))
}
