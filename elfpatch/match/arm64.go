package match

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/elfpatch"
)

// What is peculiar about arm64: an address takes two instructions, adrp for the
// page and a second one for the low 12 bits, each with its own relocation, so
// that the halves of a symbol's address are put together afterwards. A branch
// reaches 128 MiB; beyond that the linker leads it through a veneer, which may
// use x16 and x17 ("Procedure Call Standard for the Arm 64-bit Architecture",
// section 6.1.1). Rewrites: the TLS relaxations of "ELF for the Arm 64-bit
// Architecture", sections 5.7.10 and 5.7.11; adrp with ldr from the GOT, and
// adrp with add, as lld relaxes them (section 5.7.6, "GOT relaxation"); and the
// workarounds of GNU ld and lld for erratum 843419, which replace adrp by adr,
// or move the last load out of line.

const (
	aAdrPage     = uint32(elf.R_AARCH64_ADR_PREL_PG_HI21)
	aAdrPageNC   = uint32(elf.R_AARCH64_ADR_PREL_PG_HI21_NC)
	aAddLo12     = uint32(elf.R_AARCH64_ADD_ABS_LO12_NC)
	aGOTPage     = uint32(elf.R_AARCH64_ADR_GOT_PAGE)
	aGOTLo12     = uint32(elf.R_AARCH64_LD64_GOT_LO12_NC)
	aCall26      = uint32(elf.R_AARCH64_CALL26)
	aJump26      = uint32(elf.R_AARCH64_JUMP26)
	aGOTPage15   = uint32(elf.R_AARCH64_LD64_GOTPAGE_LO15)
	aIEPage      = uint32(elf.R_AARCH64_TLSIE_ADR_GOTTPREL_PAGE21)
	aIELo12      = uint32(elf.R_AARCH64_TLSIE_LD64_GOTTPREL_LO12_NC)
	aDescPage    = uint32(elf.R_AARCH64_TLSDESC_ADR_PAGE21)
	aDescLdr     = uint32(elf.R_AARCH64_TLSDESC_LD64_LO12_NC)
	aDescAdd     = uint32(elf.R_AARCH64_TLSDESC_ADD_LO12_NC)
	aDescCall    = uint32(elf.R_AARCH64_TLSDESC_CALL)
	insnNop      = uint32(0xd503201f)
	insnAdrp     = uint32(0x90000000) // under mask 0x9f000000
	insnAdr      = uint32(0x10000000)
	insnAddImm   = uint32(0x91000000) // 64-bit, no shift, under mask 0xffc00000
	insnLdrImm   = uint32(0xf9400000) // 64-bit, unsigned offset, under mask 0xffc00000
	insnMovz16   = uint32(0xd2a00000) // movz x, #imm, lsl #16, under mask 0xffe00000
	insnMovk     = uint32(0xf2800000) // movk x, #imm, under mask 0xffe00000
	insnB        = uint32(0x14000000) // under mask 0xfc000000
	insnBr16     = uint32(0xd61f0200)
	insnBr17     = uint32(0xd61f0220)
	adrMask      = uint32(0x9f000000)
	immMask      = uint32(0xffc00000)
	wideMask     = uint32(0xffe00000)
	branchMask   = uint32(0xfc000000)
	scratch      = 16
	instSize     = 4
	maxVeneerHop = 2
)

func (w *window) useARM64(info elfpatch.Reloc) (Use, uint64, bool) {
	use, ok := useOfKind(info.Kind)
	return use, info.Holds, ok
}

func (w *window) insns(off int) (old, cur uint32, ok bool) {
	if off < 0 || off+instSize > len(w.old) || off&3 != 0 {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint32(w.old[off:]), binary.LittleEndian.Uint32(w.new[off:]), true
}

func (w *window) rewrittenARM64(i int) (*span, *miss) {
	r := w.rels[i]
	off := int(r.Offset)
	old, cur, ok := w.insns(off)
	if !ok {
		return nil, nil
	}
	rd := old & 31
	sp := &span{lo: off, hi: off + instSize, n: 1}
	show := func(use Use, value, mask uint64) (*span, *miss) {
		sp.refs = []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: use, value: value & mask, mask: mask}}
		return sp, nil
	}
	place := w.addr + r.Offset
	switch r.Type {
	case aGOTPage15: // counts from the page of the GOT, which an adrp showed
		if w.gotPage != 0 && old&immMask == insnLdrImm && (old^cur)&^(0xfff<<10) == 0 {
			return show(Slot, w.gotPage+uint64(cur>>10&0xfff)<<3, whole)
		}
	case aCall26, aJump26:
		if cur == insnNop && w.obj.weakUndefined(int(r.Symbol)) {
			sp.kind = WeakCall
			return sp, nil // calls of an undefined weak symbol do nothing
		}
		if cur&^uint32(0x3ffffff) != old&^uint32(0x3ffffff) {
			return nil, nil
		}
		to := branch26(cur, place)
		end := w.img.followVeneers(to)
		if end != to {
			sp.kind = Veneer
		}
		return show(Branch, end, whole)
	case aAdrPage, aAdrPageNC:
		switch {
		case isPageAdr(cur, rd, place): // erratum 843419
			sp.kind = Erratum
			return show(Address, adr21(cur, place), page)
		case cur == insnNop: // adrp; add  ->  nop; adr
			sp.kind = AddressRelax
			return sp, nil
		}
	case aAddLo12:
		sp.kind = AddressRelax
		if cur&adrMask == insnAdr && cur&31 == rd {
			return show(Address, adr21(cur, place), whole)
		}
	case aGOTPage:
		sp.kind = GOTRelaxation
		switch {
		case isPageAdr(cur, rd, place):
			sp.kind = Erratum
			return show(Slot, adr21(cur, place), page)
		case cur == insnNop:
			return sp, nil
		case cur&adrMask == insnAdrp && cur&31 == rd && w.gotBecameAdd(i):
			return show(Address, adrp(cur, place), page)
		}
	case aGOTLo12:
		sp.kind = GOTRelaxation
		switch {
		case cur&immMask == insnAddImm && cur&31 == rd && cur>>5&31 == old>>5&31: // ldr  ->  add
			return show(Address, uint64(cur>>10&0xfff), low12)
		case cur&adrMask == insnAdr && cur&31 == rd:
			return show(Address, adr21(cur, place), whole)
		}
	}
	if sp, m := w.movedLoad(i, old, cur); sp != nil || m != nil {
		return sp, m
	}
	return w.relaxedTLS(i, old, cur)
}

// isPageAdr reports an adr that yields the start of a page, like the adrp that
// it replaced.
func isPageAdr(insn, rd uint32, place uint64) bool {
	return insn&adrMask == insnAdr && insn&31 == rd && adr21(insn, place)&^page == 0
}

// gotBecameAdd reports whether the load that belongs to the adrp of relocation
// i is an add in the target: then the adrp shows the page of the symbol and not
// of its GOT entry.
func (w *window) gotBecameAdd(i int) bool {
	for _, r := range w.rels[i+1:] {
		if r.Type != aGOTLo12 || r.Symbol != w.rels[i].Symbol {
			continue
		}
		_, cur, ok := w.insns(int(r.Offset))
		return ok && cur&immMask == insnAddImm
	}
	return false
}

// relaxedTLS recognises thread-local accesses that became cheaper.
func (w *window) relaxedTLS(i int, old, cur uint32) (*span, *miss) {
	r := w.rels[i]
	off := int(r.Offset)
	sp := &span{lo: off, hi: off + instSize, n: 1, kind: TLSRelaxation}
	show := func(use Use, value, mask uint64) (*span, *miss) {
		sp.refs = []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: use, value: value & mask, mask: mask}}
		return sp, nil
	}
	rd := old & 31
	switch r.Type {
	case aIEPage, aDescPage:
		// adrp x0, :gottprel:v  ->  movz x0, #:tprel_g1:v
		if cur&wideMask == insnMovz16 && cur&31 == rd {
			return show(TPOffset, uint64(cur>>5&0xffff)<<16, ^uint64(0xffff))
		}
		// adrp x0, :tlsdesc:v  ->  adrp x0, :gottprel:v
		if r.Type == aDescPage && cur&adrMask == insnAdrp && cur&31 == rd && w.descBecameIE(i) {
			return show(TPSlot, adrp(cur, w.addr+r.Offset), page)
		}
	case aIELo12, aDescLdr:
		to := rd
		if r.Type == aDescLdr {
			to = old >> 5 & 31 // the result goes to x0, not to the register of the call
		}
		// ldr x0, [x0, :gottprel_lo12:v]  ->  movk x0, #:tprel_g0_nc:v
		if cur&wideMask == insnMovk && cur&31 == to {
			return show(TPOffset, uint64(cur>>5&0xffff), 0xffff)
		}
		if r.Type == aDescLdr && cur&immMask == insnLdrImm && cur&31 == to && cur>>5&31 == to && w.descBecameIE(i) {
			return show(TPSlot, uint64(cur>>10&0xfff)<<3, low12)
		}
	case aDescAdd, aDescCall:
		if cur == insnNop && old != insnNop {
			return sp, nil
		}
	}
	return nil, nil
}

// descBecameIE reports whether the call of the descriptor sequence of
// relocation i is gone.
func (w *window) descBecameIE(i int) bool {
	for _, r := range w.rels[i:] {
		if r.Type != aDescCall || r.Symbol != w.rels[i].Symbol {
			continue
		}
		_, cur, ok := w.insns(int(r.Offset))
		return ok && cur == insnNop
	}
	return false
}

// movedLoad recognises a load or store that erratum 843419 moved out of line:
// b to a copy of it, after which b leads back.
func (w *window) movedLoad(i int, old, cur uint32) (*span, *miss) {
	mask := elfpatch.FieldMask(w.m, w.rels[i].Type)
	if cur&branchMask != insnB || old&branchMask == insnB || len(mask) != instSize || w.rels[i].Type == aAdrPage {
		return nil, nil
	}
	off := int(w.rels[i].Offset)
	place := w.addr + uint64(off)
	stub := branch26(cur, place)
	code, ok := w.img.text(stub, 2*instSize)
	if !ok {
		return nil, nil
	}
	copied, back := binary.LittleEndian.Uint32(code), binary.LittleEndian.Uint32(code[instSize:])
	free := binary.LittleEndian.Uint32(mask)
	if (copied^old)&^free != 0 || back&branchMask != insnB || branch26(back, stub+instSize) != place+instSize {
		return nil, nil
	}
	r := w.rels[i]
	info, _ := elfpatch.RelocInfo(w.m, r.Type)
	use, shown, ok := w.useARM64(info)
	value, read := elfpatch.LinkedTarget(w.m, r.Type, code[:instSize], stub)
	if !ok || !read || shown != low12 {
		return nil, nil
	}
	return &span{lo: off, hi: off + instSize, n: 1, kind: Erratum,
		refs: []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: use, value: value & shown, mask: shown}}}, nil
}

func signed(v uint32, n int) int64 { return int64(int32(v<<(32-n))) >> (32 - n) }

func branch26(insn uint32, pc uint64) uint64 { return pc + uint64(signed(insn, 26)*4) }

func adrImm(insn uint32) int64 { return signed(insn>>5&0x7ffff<<2|insn>>29&3, 21) }

func adr21(insn uint32, pc uint64) uint64 { return pc + uint64(adrImm(insn)) }

func adrp(insn uint32, pc uint64) uint64 { return pc&page + uint64(adrImm(insn)<<12) }

// followVeneer returns where a veneer at addr leads: adrp x16; add x16, x16; br
// x16. Its address itself when there is none.
func (img *image) followVeneers(addr uint64) uint64 {
	for range maxVeneerHop {
		code, ok := img.text(addr, 3*instSize)
		if !ok {
			return addr
		}
		a, b, c := binary.LittleEndian.Uint32(code), binary.LittleEndian.Uint32(code[4:]), binary.LittleEndian.Uint32(code[8:])
		if a&(adrMask|31) != insnAdrp|scratch || b&(immMask|0x3ff) != insnAddImm|scratch<<5|scratch || c != insnBr16 {
			return addr
		}
		addr = adrp(a, addr) + uint64(b>>10&0xfff)
	}
	return addr
}

// stubARM64 reads a PLT entry: adrp x16; ldr x17, [x16, #lo]; add; br x17.
func stubARM64(code []byte, addr uint64) (uint64, bool) {
	if len(code) >= 4 && binary.LittleEndian.Uint32(code) == 0xd503245f { // bti c
		code, addr = code[4:], addr+4
	}
	if len(code) < 16 {
		return 0, false
	}
	a, b, d := binary.LittleEndian.Uint32(code), binary.LittleEndian.Uint32(code[4:]), binary.LittleEndian.Uint32(code[12:])
	if a&(adrMask|31) != insnAdrp|scratch || b&(immMask|0x3ff) != insnLdrImm|scratch<<5|17 {
		return 0, false
	}
	// With pointer authentication, autia1716 stands before br x17.
	if d != insnBr17 && (len(code) < 20 || binary.LittleEndian.Uint32(code[16:]) != insnBr17) {
		return 0, false
	}
	return adrp(a, addr) + uint64(b>>10&0xfff)<<3, true
}
