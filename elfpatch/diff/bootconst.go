package diff

import (
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// The kernel writes some of its variables into instructions of its own image
// when it boots, so that code need not load them (runtime_const_ptr). In a
// module nobody does; there the same code loads the variable, as it does when
// the kernel compiles it for a module. Both machines put the number in place
// with instructions that are at least as long as the load.

// bootPtr begins the names of the tables of such instructions that hold the
// whole variable; its name follows (include/asm-generic/vmlinux.lds.h, 6.12).
const bootPtr = "runtime_ptr_"

// A bootLoad is the load that takes the place of a number written at boot.
type bootLoad struct {
	at       uint64 // in the function
	code     []byte
	rels     []elfpatch.Rela // offsets from at, no symbol yet
	variable string
}

// bootLoadOf makes the load for an entry of a table of boot-time constants;
// false if there is none for it.
func (s *side) bootLoadOf(e *piece) (bootLoad, bool) {
	variable, ok := strings.CutPrefix(s.f.Sections[e.sec].Name, bootPtr)
	field, has := s.secs[e.sec].layout.Field(kernel.FieldCode)
	if !ok || !has || variable == "" {
		return bootLoad{}, false
	}
	r := e.fieldRef(field)
	if r == nil || r.to == nil || r.to.kind != function || r.add < 0 || uint64(r.add) >= r.to.size {
		return bootLoad{}, false
	}
	l := bootLoad{variable: variable}
	if s.f.Machine == elf.EM_AARCH64 {
		ok = l.arm64(s.data(r.to), uint64(r.add))
	} else {
		ok = l.x86(s.data(r.to), uint64(r.add))
	}
	return l, ok
}

// x86 takes the 8 bytes at field, the number of a movabs, and makes
//
//	48 b8+r imm64    movabs $imm, %reg    ->    48 8b 05+8r rel32    mov variable(%rip), %reg
//	                                            0f 1f 00             nopl (%rax)
//
// (arch/x86/include/asm/runtime-const.h, 6.12: the entry names the number.)
func (l *bootLoad) x86(code []byte, field uint64) bool {
	if field < 2 || field+8 > uint64(len(code)) {
		return false
	}
	rex, op := code[field-2], code[field-1]
	if rex != 0x48 && rex != 0x49 || op&0xf8 != 0xb8 {
		return false
	}
	l.at = field - 2
	l.code = []byte{0x48 | (rex&1)<<2, 0x8b, 0x05 | op&7<<3, 0, 0, 0, 0, 0x0f, 0x1f, 0x00}
	l.rels = []elfpatch.Rela{{Offset: 3, Type: uint32(elf.R_X86_64_PC32), Addend: -4}}
	return true
}

// arm64 takes the four instructions at off and makes
//
//	movz xd, …               adrp xd, variable
//	movk xd, …, lsl #16  ->  ldr  xd, [xd, :lo12:variable]
//	movk xd, …, lsl #32      nop
//	movk xd, …, lsl #48      nop
//
// (arch/arm64/include/asm/runtime-const.h, 6.12: the entry names the first.)
func (l *bootLoad) arm64(code []byte, off uint64) bool {
	if off%4 != 0 || off+16 > uint64(len(code)) {
		return false
	}
	var reg uint32
	for i, op := range []uint32{0xd2800000, 0xf2a00000, 0xf2c00000, 0xf2e00000} {
		word := binary.LittleEndian.Uint32(code[off+uint64(4*i):])
		if i == 0 {
			reg = word & 31
		}
		if word&0xffe00000 != op || word&31 != reg {
			return false
		}
	}
	l.at = off
	const nop = 0xd503201f
	for _, word := range []uint32{0x90000000 | reg, 0xf9400000 | reg<<5 | reg, nop, nop} {
		l.code = binary.LittleEndian.AppendUint32(l.code, word)
	}
	l.rels = []elfpatch.Rela{
		{Offset: 0, Type: uint32(elf.R_AARCH64_ADR_PREL_PG_HI21)},
		{Offset: 4, Type: uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC)},
	}
	return true
}

// load puts the loads of a piece in the place of its boot-time constants, and
// returns the relocations with theirs.
func (u *kernelCutter) load(p *piece, list []elfpatch.Rela) []elfpatch.Rela {
	at := u.k.places[p]
	for _, l := range u.loads[p] {
		off := l.at
		if lay := u.k.layouts[p]; lay != nil {
			off = uint64(lay.at(int64(off)))
		}
		copy(at.sec.Data[at.off+off:], l.code)
		symbol := u.variable(l.variable)
		for _, r := range l.rels {
			r.Offset += at.off + off
			r.Symbol = uint32(symbol)
			list = append(list, r)
		}
	}
	return list
}

// variable is the symbol of the cut for a variable of the running kernel: one
// of the object's own, or of another.
func (u *kernelCutter) variable(name string) int {
	i := slices.IndexFunc(u.s.f.Symbols, func(sym elfpatch.Symbol) bool { return sym.Name == name })
	switch {
	case i < 0:
		return u.k.externalSymbol(0, name, &elfpatch.Symbol{Name: name, Type: elf.STT_NOTYPE, Bind: elf.STB_GLOBAL})
	case u.s.bySym[i] == nil:
		return u.k.undefined(&ref{sym: uint32(i)})
	case u.k.isIncluded(u.s.bySym[i]):
		return u.k.included[u.s.bySym[i]]
	}
	return u.k.original(u.s.bySym[i], &ref{sym: uint32(i)})
}
