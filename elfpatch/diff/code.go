package diff

import (
	"cmp"
	"debug/elf"
	"slices"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// maxInsn is the length of the longest instruction.
const maxInsn = 16

// insn is one instruction of a function as it is compared.
type insn struct {
	off    uint32
	len    uint8
	pad    bool  // alignment, not part of what the function does
	number int32 // position among those that are not pad
}

// insns decodes a function; the result is kept until forget.
func (s *side) insns(p *piece) []insn {
	if p.index != nil {
		return p.index
	}
	code := s.data(p)
	list := make([]insn, 0, len(code)/4+1)
	entry := true // nothing has been executed yet: NOPs here are for patching
	run := -1     // first of a run of NOPs
	n := int32(0)
	for off := 0; off < len(code); {
		in, err := s.decode(p, off)
		if err != nil {
			in = disasm.Inst{Len: min(undecodable(s.f.Machine), len(code)-off)}
		}
		nop := in.Nop && !entry && s.freeOfRefs(p, off, off+in.Len)
		if nop && run < 0 {
			run = len(list)
		} else if !nop && run >= 0 {
			n -= padRun(list[run:], p.off+uint64(off))
			run = -1
		}
		entry = entry && (in.Nop || in.Pad)
		list = append(list, insn{off: uint32(off), len: uint8(in.Len), number: n})
		n++
		off += in.Len
	}
	p.index = list
	return list
}

// padRun marks NOPs that end at an aligned address as alignment.
func padRun(run []insn, end uint64) int32 {
	if end%8 != 0 {
		return 0
	}
	first := run[0].number
	for i := range run {
		run[i].pad = true
		run[i].number = first
	}
	return int32(len(run))
}

func (s *side) freeOfRefs(p *piece, from, to int) bool {
	k := p.refAt(uint64(from))
	return k == len(p.refs) || p.refs[k].off >= uint64(to)
}

// refAt is the first reference at or after an offset.
func (p *piece) refAt(off uint64) int {
	k, _ := slices.BinarySearchFunc(p.refs, off, func(r ref, off uint64) int { return cmp.Compare(r.off, off) })
	return k
}

// forget drops the decoded instructions of a function.
func (p *piece) forget() { p.index = nil }

// place is an offset in a function as it is compared: the number of the
// instruction there, and the distance from its start.
func (s *side) place(p *piece, off int64) (int32, int64) {
	if off <= 0 || uint64(off) >= p.size {
		if off > 0 {
			return -1, off - int64(p.size)
		}
		return 0, off
	}
	list := s.insns(p)
	k, ok := slices.BinarySearchFunc(list, uint32(off), func(in insn, off uint32) int { return cmp.Compare(in.off, off) })
	if !ok {
		k--
	}
	if list[k].pad {
		return list[k].number, 0
	}
	return list[k].number, off - int64(list[k].off)
}

// shape is an instruction without what it refers to: its bytes, with the
// fields of references and of branches zeroed.
type shape struct {
	key    [maxInsn]byte
	n      int
	target int32 // branch within the function: number of the instruction, else -1
	past   int64 // distance from that instruction
}

func (s *side) shape(p *piece, in insn, refs []ref) shape {
	code := s.data(p)[in.off : in.off+uint32(in.len)]
	out := shape{target: -1}
	d, err := s.decode(p, int(in.off))
	if err != nil {
		out.n = copy(out.key[:], code)
		s.blank(&out, in, refs)
		return out
	}
	implicit := d.PCRel.Size > 0
	for i := range refs {
		implicit = implicit && refs[i].off != uint64(in.off)+uint64(d.PCRel.Off)
	}
	if implicit && !d.Mem && !d.Page {
		out.target, out.past = s.place(p, int64(in.off)+d.PCOff)
	}
	if s.f.Machine == elf.EM_X86_64 {
		if n, ok := x86Long(&out.key, code, d); ok {
			out.n = n
			return out
		}
	}
	out.n = copy(out.key[:], code)
	s.blank(&out, in, refs)
	if out.target >= 0 || implicit && !d.Mem {
		blankField(&out, int(d.PCRel.Off), elfpatch.FieldMask(s.f.Machine, implicitType(s.f.Machine, code, d)))
	}
	return out
}

// blank zeroes the fields that references fill.
func (s *side) blank(out *shape, in insn, refs []ref) {
	for i := range refs {
		blankField(out, int(refs[i].off)-int(in.off), fieldMask(s.f.Machine, refs[i].typ))
	}
}

func blankField(out *shape, at int, mask []byte) {
	for i, m := range mask {
		if k := at + i; k >= 0 && k < out.n {
			out.key[k] &^= m
		}
	}
}

func implicitType(m elf.Machine, b []byte, in disasm.Inst) uint32 {
	if m == elf.EM_X86_64 {
		return x86Implicit(in)
	}
	return arm64Implicit(b)
}

// refClass puts together the relocation types that mean the same for an
// instruction: what the assembler resolved by itself and what it left to the
// linker.
func refClass(m elf.Machine, typ uint32) uint32 {
	if m == elf.EM_X86_64 && (typ == x86PLT32 || typ == x86PC8) {
		return x86PC32
	}
	return typ
}

// isFiller reports bytes that only fill the space between functions.
func isFiller(m elf.Machine, b []byte) bool {
	for len(b) > 0 {
		if m == elf.EM_X86_64 && (b[0] == 0 || b[0] == 0xcc) {
			b = b[1:]
			continue
		}
		if m == elf.EM_AARCH64 && len(b) >= 4 && isZero(b[:4]) {
			b = b[4:]
			continue
		}
		in, err := disasm.Decode(m, b)
		if err != nil || !in.Nop {
			return false
		}
		b = b[in.Len:]
	}
	return true
}
