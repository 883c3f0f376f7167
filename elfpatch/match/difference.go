package match

import (
	"livepatch/disasm"
)

// Difference is the first place where the target parts from a function, with
// the instructions around it on both sides.
type Difference struct {
	Offset         uint64 // of the instruction in the object's function
	Addr           uint64 // of the same place in the target
	Object, Target []Line
}

// Line is one instruction.
type Line struct {
	Addr    uint64 // offset in the function, or address in the target
	Bytes   []byte
	Text    string
	Differs bool // this is the one that differs
}

const (
	linesBefore = 4
	linesAfter  = 3
)

// difference shows the place that differs was said for; nil if there is none.
func (p *prover) difference(f *function) *Difference {
	m := f.nearest
	if m == nil {
		return nil
	}
	off := p.instruction(f, m.off)
	code, _ := p.img.textAtMost(m.addr, len(f.code)+maxInsn*linesAfter)
	return &Difference{
		Offset: uint64(off), Addr: m.addr + uint64(off),
		Object: p.lines(f, f.code, 0, off), Target: p.lines(f, code, m.addr, off),
	}
}

// maxInsn is the length of the longest instruction.
const maxInsn = 15

// lines disassembles around an offset of code that begins at base. Up to the
// offset both sides have instructions at the same places.
func (p *prover) lines(f *function, code []byte, base uint64, off int) (out []Line) {
	var starts []int
	_ = disasm.Walk(p.obj.f.Machine, f.code[:off], func(at int, in disasm.Inst) bool {
		starts = append(starts, at)
		return true
	})
	starts = starts[max(0, len(starts)-linesBefore):]
	at := off
	if len(starts) > 0 {
		at = starts[0]
	}
	for n := 0; at < len(code) && n <= linesAfter; {
		size := min(1, len(code)-at)
		if in, err := disasm.Decode(p.obj.f.Machine, code[at:]); err == nil {
			size = in.Len
		}
		b := code[at : at+size]
		pc := base + uint64(at)
		out = append(out, Line{Addr: pc, Bytes: b, Text: disasm.Text(p.obj.f.Machine, b, pc, nil), Differs: at == off})
		if at += size; at > off {
			n++
		}
	}
	return out
}
