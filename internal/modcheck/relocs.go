package modcheck

import (
	"debug/elf"
	"slices"
	"strconv"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// loadable are the relocation types that the kernel's module loader applies:
// arch/x86/kernel/module.c and arch/arm64/kernel/module.c, 6.12.
var loadable = map[elf.Machine][]uint32{
	elf.EM_X86_64: {0, 1, 2, 4, 10, 11, 24},
	elf.EM_AARCH64: {0, 256, 257, 258, 259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, 270, 271, 272, 273, 274, 275, 276, 277, 278,
		279, 280, 282, 283, 284, 285, 286, 287, 288, 289, 290, 291, 292, 293, 299},
}

// checkRelocations asks of every relocation of a loaded section what the
// loader asks, and what it does not: that it stays inside, writes nothing twice, and
// leads to something that is loaded.
func (c *checker) checkRelocations() {
	before := c.refusals(whatRelocation)
	n := 0
	symtab := uint32(c.symtab())
	for _, r := range c.relas {
		switch {
		case r.sec.Type != elf.SHT_RELA:
		case r.target == nil:
			if !r.klp && r.sec.Flags&elf.SHF_ALLOC == 0 {
				c.refuse(refusal.RelocationInvalid, whatRelocation, r.sec.Name, "the section applies to section %d, there are %d", r.sec.Info, len(c.f.Sections))
			}
		case r.target.Flags&elf.SHF_ALLOC != 0:
			if !r.klp && r.sec.Link != symtab {
				c.refuse(refusal.RelocationInvalid, whatRelocation, r.sec.Name, "the section is linked to section %d, the symbols are in %d", r.sec.Link, symtab)
			}
			n += len(r.entries)
			for i, e := range r.entries {
				c.checkRelocation(r, i, e)
			}
		}
	}
	for _, s := range c.f.Sections {
		if s.Type == elf.SHT_REL && s.Size > 0 && c.section(int(s.Info)) != nil && c.section(int(s.Info)).Flags&elf.SHF_ALLOC != 0 {
			c.refuse(refusal.RelocationInvalid, whatRelocation, s.Name, "the loader takes relocations with addends only")
		}
		c.checkOverlaps(s)
	}
	if c.refusals(whatRelocation) == before {
		c.ok(whatRelocation, "", "%s of loaded sections", count(n, "relocation"))
	}
}

func (c *checker) checkRelocation(r *relaSection, i int, e elfpatch.Rela) {
	where := r.sec.Name + " entry " + strconv.Itoa(i)
	bad := func(format string, args ...any) {
		c.refuse(refusal.RelocationInvalid, whatRelocation, where, format, args...)
	}
	if !slices.Contains(loadable[c.f.Machine], e.Type) {
		bad("the loader does not know type %s", elfpatch.RelocName(c.f.Machine, e.Type))
		return
	}
	info, ok := elfpatch.RelocInfo(c.f.Machine, e.Type)
	if !ok || info.Kind == elfpatch.KindNone {
		return // writes nothing
	}
	size := uint64(info.Size)
	if r.target.Type == elf.SHT_NOBITS || e.Offset > r.target.Size || size > r.target.Size-e.Offset {
		bad("%d bytes at %#x leave %s, which has %#x", size, e.Offset, r.target.Name, r.target.Size)
		return
	}
	if c.f.Machine == elf.EM_X86_64 && !c.zero(place{r.target.Index, e.Offset}, size) {
		bad("%s holds bytes that are not zero where %s writes; the loader refuses that", c.name(place{r.target.Index, e.Offset}), info.Name)
	}
	s, ok := c.symbol(e.Symbol)
	switch {
	case !ok || e.Symbol == 0:
		bad("it refers to symbol %d, there are %d", e.Symbol, len(c.f.Symbols))
	case s.Section == shnLivepatch && !r.klp:
		c.refuse(refusal.KLPFormat, whatRelocation, where, "an ordinary relocation refers to livepatch symbol %s, which has no address then", s.Name)
	case s.Section > 0:
		c.checkTarget(r, where, e, s)
	}
}

// loopSlack is how far an operand may lie before or behind the data that it
// counts from: compilers let loops run from before an array, or to behind it.
const loopSlack = 128

// checkTarget looks at a relocation to a symbol that the module defines.
func (c *checker) checkTarget(r *relaSection, where string, e elfpatch.Rela, s *elfpatch.Symbol) {
	to := c.section(s.Section)
	if to == nil {
		return // refused with the symbol
	}
	bad := func(format string, args ...any) {
		c.refuse(refusal.RelocationInvalid, whatRelocation, where, format, args...)
	}
	if to.Flags&elf.SHF_ALLOC == 0 {
		bad("it refers to %s, which is not loaded", to.Name)
		return
	}
	if c.f.Machine == elf.EM_X86_64 && e.Type == uint32(elf.R_X86_64_32) {
		bad("R_X86_64_32 cannot hold the address of %s; modules are in the last 2 GiB", to.Name)
		return
	}
	off := s.Value + uint64(e.Addend)
	if info, _ := elfpatch.RelocInfo(c.f.Machine, e.Type); info.PCRel && executable(r.target) && c.f.Machine == elf.EM_X86_64 {
		n, ok := c.behind(place{r.target.Index, e.Offset})
		if !ok {
			return // refused with the instruction
		}
		off += n
	}
	slack := uint64(0)
	if executable(r.target) && !executable(to) {
		slack = loopSlack
	}
	if off > to.Size+slack && off+slack >= slack {
		bad("%s refers to %s%+d, which has %#x bytes", c.name(place{r.target.Index, e.Offset}), to.Name, int64(off), to.Size)
	}
}

// checkOverlaps reports fields that two relocations write.
func (c *checker) checkOverlaps(s *elfpatch.Section) {
	if s.Flags&elf.SHF_ALLOC == 0 {
		return
	}
	end := uint64(0)
	for _, r := range c.refs[s.Index] {
		info, ok := elfpatch.RelocInfo(c.f.Machine, r.Type)
		if !ok || info.Size == 0 {
			continue
		}
		if r.Offset < end && !(c.f.Machine == elf.EM_AARCH64 && info.Insn) {
			c.refuse(refusal.RelocationInvalid, whatRelocation, c.name(place{s.Index, r.Offset}), "two relocations write the same bytes")
		}
		end = max(end, r.Offset+uint64(info.Size))
	}
}
