package diff

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"slices"

	"livepatch/disasm"
)

// A short jump of x86-64 can lead to another function only where the two stand
// side by side. The cut takes them apart, so such jumps get their long form.
// The code behind them moves; every place in the function is then found through
// a layout.

// layout is a function whose code was laid out anew.
type layout struct {
	old  []insn
	now  []int // offset of each instruction, and at last the size
	code []byte
}

// at returns where an offset of the function went.
func (l *layout) at(off int64) int64 {
	k, ok := slices.BinarySearchFunc(l.old, off, func(in insn, off int64) int { return cmp.Compare(int64(in.off), off) })
	switch {
	case ok:
		return int64(l.now[k])
	case off < 0:
		return off
	case k == len(l.old):
		return int64(l.now[k]) + off - int64(l.old[k-1].off) - int64(l.old[k-1].len)
	}
	return int64(l.now[k-1]) + off - int64(l.old[k-1].off)
}

// short is a jump of a function with an 8-bit field.
type short struct {
	insn   int
	target int64 // in the function; leads out of it if out
	out    bool
	long   bool
}

// widen lays a function out with long jumps where short ones lead out of it,
// and wherever that makes others too short; nil if none does. ok is false if
// a jump has no long form.
func (s *side) widen(p *piece) (l *layout, ok bool) {
	if s.f.Machine != elf.EM_X86_64 || p.kind != function ||
		!slices.ContainsFunc(p.refs, func(r ref) bool { return r.implicit && r.typ == x86PC8 && r.to != p }) {
		return nil, true
	}
	l = &layout{old: s.insns(p)}
	jumps := s.shortJumps(p, l.old)
	longer := make([]int, len(l.old)) // how many bytes each instruction grows
	for changed := true; changed; {
		changed = false
		l.place(longer)
		for i := range jumps {
			j := &jumps[i]
			from := int64(l.now[j.insn+1])
			if j.long || !j.out && fitsInt8(l.at(j.target)-from) {
				continue
			}
			grow, ok := growth(s.data(p)[l.old[j.insn].off:])
			if !ok {
				return nil, false
			}
			j.long, longer[j.insn], changed = true, grow, true
		}
	}
	l.emit(s, p, jumps)
	return l, true
}

func fitsInt8(x int64) bool { return x >= -128 && x <= 127 }

// place computes where the instructions go.
func (l *layout) place(longer []int) {
	l.now = make([]int, 0, len(l.old)+1)
	at := 0
	for i, in := range l.old {
		l.now = append(l.now, at)
		at += int(in.len) + longer[i]
	}
	l.now = append(l.now, at)
}

func (s *side) shortJumps(p *piece, list []insn) []short {
	var jumps []short
	code := s.data(p)
	for i, in := range list {
		d, err := disasm.Decode(elf.EM_X86_64, code[in.off:])
		if err != nil || d.Mem || d.PCRel.Size != 1 {
			continue
		}
		target := int64(in.off) + d.PCOff
		jumps = append(jumps, short{insn: i, target: target, out: target < 0 || target >= int64(p.size)})
	}
	return jumps
}

// growth is how much longer the long form of a short jump is; false if there is
// none (loop, jrcxz), or if the jump has prefixes.
func growth(code []byte) (int, bool) {
	switch {
	case code[0] == 0xeb:
		return 3, true
	case code[0]&0xf0 == 0x70:
		return 4, true
	}
	return 0, false
}

// emit writes the code: long jumps with empty fields where they lead out, and
// new distances within the function.
func (l *layout) emit(s *side, p *piece, jumps []short) {
	code := s.data(p)
	byInsn := map[int]*short{}
	for i := range jumps {
		byInsn[jumps[i].insn] = &jumps[i]
	}
	for i, in := range l.old {
		b := code[in.off : in.off+uint32(in.len)]
		end := int64(l.now[i+1])
		if j := byInsn[i]; j != nil {
			rel := int32(0)
			if !j.out {
				rel = int32(l.at(j.target) - end)
			}
			switch {
			case !j.long:
				l.code = append(append(l.code, b[:len(b)-1]...), byte(rel))
			case b[0] == 0xeb:
				l.code = binary.LittleEndian.AppendUint32(append(l.code, 0xe9), uint32(rel))
			default:
				l.code = binary.LittleEndian.AppendUint32(append(l.code, 0x0f, 0x80|b[0]&15), uint32(rel))
			}
			continue
		}
		l.code = append(l.code, b...)
		d, err := disasm.Decode(elf.EM_X86_64, b)
		if err != nil || d.PCRel.Size != 4 {
			continue
		}
		field := uint64(in.off) + uint64(d.PCRel.Off)
		k := p.refAt(field)
		if k < len(p.refs) && p.refs[k].off == field && !staysInside(p, &p.refs[k]) {
			continue // a relocation fills it
		}
		rel := l.at(int64(in.off)+d.PCOff) - end
		binary.LittleEndian.PutUint32(l.code[l.now[i]+int(d.PCRel.Off):], uint32(int32(rel)))
	}
}

// field returns where the field of a reference went, and the type and bias of a
// jump that became long.
func (l *layout) field(r *ref) (off uint64, typ uint32, bias int64) {
	if !r.implicit || r.typ != x86PC8 {
		return uint64(l.at(int64(r.off))), r.typ, r.bias
	}
	k, _ := slices.BinarySearchFunc(l.old, uint32(r.off), func(in insn, off uint32) int { return cmp.Compare(in.off, off) })
	return uint64(l.now[k] - 4), x86PLT32, -4 // k is the instruction behind the field
}
