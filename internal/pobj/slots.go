package pobj

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/elfpatch"
)

// slotRef is a word: a symbol of the payload and the distance from it.
type slotRef struct {
	sym    int
	addend int64
}

const wordSize = 8

// absType is the relocation that writes an address into a word.
func (l *linker) absType() uint32 {
	if l.m == elf.EM_X86_64 {
		return uint32(elf.R_X86_64_64)
	}
	return uint32(elf.R_AARCH64_ABS64)
}

// tpOffType is the relocation that writes an offset from the thread pointer
// into a word.
func (l *linker) tpOffType() uint32 {
	if l.m == elf.EM_X86_64 {
		return uint32(elf.R_X86_64_TPOFF64)
	}
	return uint32(elf.R_AARCH64_TLS_TPREL64)
}

// slot returns the offset of the word of .livepatch.got that holds a value.
func (l *linker) slot(k slotKey) uint64 {
	if off, ok := l.slots[k]; ok {
		return off
	}
	m := &l.mem[got]
	off := m.grow(wordSize, wordSize, make([]byte, wordSize), []byte{0})
	m.rels = append(m.rels, elfpatch.Rela{Offset: off, Type: k.typ, Symbol: uint32(k.sym), Addend: k.addend})
	l.slots[k] = off
	return off
}

func (l *linker) slotFor(typ uint32, sym int) slotRef {
	return slotRef{l.areaSym[got], int64(l.slot(slotKey{typ, sym, 0}))}
}

var (
	// The rel32 of the jump is at offset 6.
	stubX86 = []byte{
		0xf3, 0x0f, 0x1e, 0xfa, //             endbr64
		0xff, 0x25, 0, 0, 0, 0, //             jmp *slot(%rip)
	}
	stubARM64 = []uint32{
		0xd503245f, // bti c
		0x90000010, // adrp x16, slot
		0xf9400211, // ldr x17, [x16, #:lo12:slot]
		0xd61f0220, // br x17
	}
)

// stub returns the symbol of code in .text that jumps through a word. It uses
// the registers that a PLT entry may use.
func (l *linker) stub(name string, s slotRef) int {
	k := stubKey{s.sym, s.addend}
	if sym, ok := l.stubs[k]; ok {
		return sym
	}
	var code []byte
	var rels []elfpatch.Rela
	add := func(off uint64, typ uint32, addend int64) {
		rels = append(rels, elfpatch.Rela{Offset: off, Type: typ, Symbol: uint32(s.sym), Addend: s.addend + addend})
	}
	if l.m == elf.EM_X86_64 {
		code = stubX86
		add(6, uint32(elf.R_X86_64_PC32), -4)
	} else {
		for _, w := range stubARM64 {
			code = binary.LittleEndian.AppendUint32(code, w)
		}
		add(4, uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), 0)
		add(8, uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC), 0)
	}
	m := &l.mem[text]
	off := m.grow(uint64(len(code)), textAlign, code, l.filler(text))
	for _, r := range rels {
		r.Offset += off
		m.rels = append(m.rels, r)
	}
	sym := l.addSymbol(symbol{elfpatch.Symbol{
		Name: l.unique(name + "@stub"), Type: elf.STT_FUNC, Bind: elf.STB_LOCAL, Value: off, Size: uint64(len(code)),
	}, text})
	l.stubs[k] = sym
	l.plain = append(l.plain, sym)
	return sym
}
