package modcheck

import (
	"debug/elf"
	"slices"

	"livepatch/disasm"
	"livepatch/internal/kimage"
)

// references are addresses in code, in ascending order.
type references struct {
	branches []uint64
	operands []uint64 // and numbers that look like addresses
}

// usedBefore lists what the functions that are replaced refer to, by object.
// What they did already is no mistake of the patch.
func (c *checker) usedBefore() map[string]*references {
	if c.before != nil {
		return c.before
	}
	all, done := map[string]*references{}, map[*kimage.Symbol]bool{}
	c.before = all
	if c.patch == nil {
		return all
	}
	for _, p := range c.patch.objects {
		all[p.name] = &references{}
	}
	for _, p := range c.patch.objects {
		for _, f := range p.funcs {
			o, s := c.old(p.name, f)
			if o == nil || done[s] {
				continue
			}
			done[s] = true
			o.addReferences(all[p.name], s)
			for _, i := range o.named(f.name + ".cold") { // the part that seldom runs
				o.addReferences(all[p.name], &o.symbols[i])
			}
		}
	}
	for _, list := range all {
		slices.Sort(list.branches)
		slices.Sort(list.operands)
	}
	return all
}

const maxFunction = 1 << 20 // bytes of a function that is read here

// addReferences adds those in the code of a function.
func (o *image) addReferences(list *references, s *kimage.Symbol) {
	b, ok := o.file.ReadAddr(s.Addr, int(min(s.Size, maxFunction)))
	if !ok {
		return
	}
	var pages [32]uint64 // arm64: what adrp put into registers
	// What comes behind bytes that cannot be read is not listed.
	_ = disasm.Walk(o.file.Machine, b, func(off int, in disasm.Inst) bool {
		to, relative := in.Target(s.Addr + uint64(off))
		code := b[off : off+in.Len]
		switch {
		case o.file.Machine == elf.EM_AARCH64 && in.Page:
			pages[code[0]&31] = to
		case relative && !in.Mem:
			list.branches = append(list.branches, to)
		case relative:
			list.operands = append(list.operands, to)
		case o.file.Machine == elf.EM_AARCH64:
			if add, reg, ok := pageOffset(le.Uint32(code)); ok && pages[reg] != 0 {
				list.operands = append(list.operands, pages[reg]+add)
			}
		default:
			list.operands = append(list.operands, constants(code, in)...)
		}
		return true
	})
}

// holds reports an address of the range in a list.
func holds(list []uint64, from, to uint64) bool {
	i, _ := slices.BinarySearch(list, from)
	return i < len(list) && list[i] < to
}

// constants are the 4-byte displacement and immediate of an instruction of
// x86-64, which the processor extends with their signs.
func constants(b []byte, in disasm.Inst) []uint64 {
	var list []uint64
	for _, f := range []disasm.Field{in.X86.Disp, in.X86.Imm} {
		if f.Size == 4 {
			list = append(list, uint64(int64(int32(le.Uint32(b[f.Off:])))))
		}
	}
	return list
}

// pageOffset reads the second instruction of the pair that begins with adrp:
// ADD (immediate), and loads and stores with an unsigned offset (Arm ARM, C4.1).
func pageOffset(w uint32) (add uint64, reg uint32, ok bool) {
	imm, reg := uint64(w>>10&0xfff), w>>5&31
	switch {
	case w&0xffc00000 == 0x91000000:
		return imm, reg, true
	case w&0x3b000000 == 0x39000000:
		return imm << (w >> 30), reg, true
	}
	return 0, 0, false
}
