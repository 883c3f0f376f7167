package match

import (
	"bytes"
	"debug/elf"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// An assembler knows the distance of a jump only inside one section. With every
// function in a section of its own (-ffunction-sections) a jump to a neighbour
// takes its long form, 5 or 6 bytes, where the kernel's own build, one section
// for all, has the short one of 2 bytes, or a long one without relocation. The
// code behind it moves, and with it jumps across it may become short. An
// elastic comparison walks both instruction by instruction: jumps may differ in
// length but not in where they lead, all else must be equal.

// elastic is such a comparison under way.
type elastic struct {
	w     *window
	at    []int // by offset in the object: offset in the image of the instruction that begins there, -1 if none
	refs  []ref
	leads []lead
}

// A lead is a jump or reference inside the function: the object's offset and
// the image's address must be the same instruction.
type lead struct {
	from, to int
	addr     uint64
}

// maxStretch is how many more bytes than the object's function the image's may
// have, per 16 bytes of it.
const maxStretch = 16

// stretches reports whether the function may have another length in the image:
// nothing else of the object may be in its section, for sections move as a whole.
func (f *function) stretches(o *object) bool {
	for _, i := range o.inSection(f.sec.Index) {
		if s := o.f.Symbols[i]; s.Value != f.off && s.Type != elf.STT_NOTYPE {
			return false
		}
	}
	return true
}

// elastic compares the window; new may be longer or shorter than old.
func (w *window) elastic() (*fit, *miss) {
	e := &elastic{w: w, at: make([]int, len(w.old)+1)}
	for i := range e.at {
		e.at[i] = -1
	}
	i, j, rel := 0, 0, 0
	for i < len(w.old) {
		e.at[i] = j
		if n, m, ok := e.padding(i, j, rel); ok {
			i, j = i+n, j+m
			e.w.masked[Padding]++
			continue
		}
		a, ok := decodeX86(w.old[i:])
		b, ok2 := decodeX86(w.new[j:])
		if !ok || !ok2 {
			return nil, w.missAt(i, "")
		}
		n := w.relsIn(rel, i, i+a.Len)
		if !e.step(pair{i, j, a, b, rel, n}) {
			return nil, w.missAt(i, "")
		}
		i, j, rel = i+a.Len, j+b.Len, rel+n
	}
	if i != len(w.old) || rel != len(w.rels) {
		return nil, w.missAt(min(i, len(w.old)), "")
	}
	e.at[i] = j
	for _, l := range e.leads {
		if l.to < 0 || l.to > len(w.old) || e.at[l.to] < 0 || w.addr+uint64(e.at[l.to]) != l.addr {
			return nil, w.missAt(l.from, "")
		}
	}
	refs, m := w.join(e.refs)
	if m == nil {
		m = w.agreeAlone(refs)
	}
	return &fit{addr: w.addr, size: uint64(j), refs: refs, masked: w.masked, at: e.at}, m
}

// padding skips no-ops of another length than beside them, which compilers put
// before loops and jump targets for their alignment. Kernels are built without.
func (e *elastic) padding(i, j, rel int) (n, m int, ok bool) {
	const least = 8 // of the alignments that compilers ask for
	if e.w.img.kernel {
		return 0, 0, false
	}
	n, m = noops(e.w.old[i:]), noops(e.w.new[j:])
	if n == m || e.w.relsIn(rel, i, i+n) > 0 || n > 0 && (e.w.f.off+uint64(i+n))%least != 0 || m > 0 && (e.w.addr+uint64(j+m))%least != 0 {
		return 0, 0, false
	}
	return n, m, true
}

// noops is the length of the no-ops at the start of code.
func noops(code []byte) int {
	n := 0
	for {
		k := n
		for k < len(code) && (code[k] == 0x66 || code[k] == 0x2e) {
			k++
		}
		nop := k < len(code) && code[k] == opNop || k+1 < len(code) && code[k] == 0x0f && code[k+1] == 0x1f
		in, ok := decodeX86(code[n:])
		if !nop || !ok {
			return n
		}
		n += in.Len
	}
}

// A pair is an instruction of the object and the one of the image beside it.
type pair struct {
	i, j   int // offsets
	a, b   disasm.Inst
	rel, n int // its relocations
}

// step compares one pair.
func (e *elastic) step(p pair) bool {
	if s, ok := e.site(p); ok {
		return s
	}
	if jumpKind(p.a) != 0 {
		return jumpKind(p.a) == jumpKind(p.b) && e.jump(p)
	}
	if p.a.Len != p.b.Len {
		return false
	}
	if p.n > 0 {
		return e.fields(p)
	}
	old, cur := e.w.old[p.i:p.i+p.a.Len], e.w.new[p.j:p.j+p.b.Len]
	if p.a.PCRel.Size == 0 {
		return bytes.Equal(old, cur)
	}
	if !e.sameBytes(p) {
		e.w.masked[BranchRelaxation]++
	}
	// A reference to a place in the function, which may have moved.
	f := p.a.PCRel
	lo, hi := int(f.Off), int(f.Off+f.Size)
	return f == p.b.PCRel && bytes.Equal(old[:lo], cur[:lo]) && bytes.Equal(old[hi:], cur[hi:]) && e.inside(p)
}

func (e *elastic) sameBytes(p pair) bool {
	return bytes.Equal(e.w.old[p.i:p.i+p.a.Len], e.w.new[p.j:p.j+p.b.Len])
}

// site reports whether the pair is at a site of a table, and if so whether it
// is one of the forms that are let through.
func (e *elastic) site(p pair) (fits, ok bool) {
	for _, s := range e.w.sites {
		if int(s.off) != p.i {
			continue
		}
		old, cur := e.w.old[p.i:p.i+p.a.Len], e.w.new[p.j:p.j+p.b.Len]
		if s.table == mcountTable {
			if p.a.Len != jmpNear || p.b.Len != jmpNear {
				continue
			}
			w := *e.w
			w.old, w.new, w.addr = old, cur, w.addr+uint64(p.j)
			w.rels = w.rels[p.rel : p.rel+p.n]
			if w.isFentry(w.rels) {
				e.w.masked[FentryCall]++
				return true, true
			}
			continue
		}
		if isNop(cur) && (isNop(old) || jumpLen(old) == p.a.Len) {
			e.w.masked[JumpLabel]++
			return true, true
		}
		if isNop(old) && jumpLen(cur) == p.b.Len {
			e.w.masked[JumpLabel]++
			target := jumpTo(cur, e.w.addr+uint64(p.j))
			if to, inside := e.own(int(s.sym), s.addend); inside {
				e.leads = append(e.leads, lead{p.i, to, target})
			} else {
				e.refs = append(e.refs, e.w.jumpRef(s, p.i, target))
			}
			return true, true
		}
	}
	return false, false
}

// own returns the offset in the function of a place that a relocation names.
func (e *elastic) own(sym int, addend int64) (int, bool) {
	f := e.w.f
	if e.w.obj.defined(sym) != f.sec {
		return 0, false
	}
	off := e.w.obj.f.Symbols[sym].Value + uint64(addend) - f.off
	return int(off), off <= f.size
}

// jumpKind tells jumps of which there are a short and a long form: 1 for jmp,
// the opcode 0x70 to 0x7f for jcc, 0 for all other instructions.
func jumpKind(in disasm.Inst) int {
	x := in.X86
	switch {
	case x.Encoding != disasm.Legacy || in.PCRel.Size == 0 || in.Mem:
		return 0
	case x.Map == 0 && (x.Opcode == opJmp || x.Opcode == opJmpShort):
		return 1
	case x.Map == 0 && x.Opcode&0xf0 == 0x70:
		return int(x.Opcode)
	case x.Map == 1 && x.Opcode&0xf0 == 0x80:
		return int(x.Opcode) - 0x10
	}
	return 0
}

// plainJump reports a jump without anything before its opcode, such as the hint
// prefixes of old processors.
func plainJump(in disasm.Inst) bool {
	return in.Len == int(in.PCRel.Off+in.PCRel.Size) && int(in.PCRel.Off) == 1+int(in.X86.Map)
}

// jump compares two jumps of the same kind by where they lead.
func (e *elastic) jump(p pair) bool {
	if !plainJump(p.a) || !plainJump(p.b) {
		return false
	}
	if p.a.Len != p.b.Len || p.n == 0 && !e.sameBytes(p) {
		e.w.masked[BranchRelaxation]++
	}
	if p.n == 0 {
		return e.inside(p)
	}
	r := e.w.rels[p.rel]
	info, ok := elfpatch.RelocInfo(e.w.m, r.Type)
	if p.n != 1 || !ok || !info.PCRel || info.Size != int(p.a.PCRel.Size) || int(r.Offset) != p.i+int(p.a.PCRel.Off) {
		return false
	}
	target, _ := p.b.Target(e.w.addr + uint64(p.j))
	if to, ok := e.own(int(r.Symbol), r.Addend+int64(info.Size)); ok {
		e.leads = append(e.leads, lead{p.i, to, target})
		return true
	}
	if p.a.Len == p.b.Len {
		e.w.masked[e.w.kindOfField(int(r.Symbol))]++
	}
	e.refs = append(e.refs, ref{
		off: p.i + int(p.a.PCRel.Off), sym: int(r.Symbol), addend: r.Addend, use: Branch,
		value: target - uint64(info.Size), mask: whole, fromEnd: true,
	})
	return true
}

// inside compares two references without a relocation: to the function itself,
// or to another one of its section.
func (e *elastic) inside(p pair) bool {
	to, _ := p.a.Target(uint64(p.i))
	addr, _ := p.b.Target(e.w.addr + uint64(p.j))
	if to <= uint64(len(e.w.old)) {
		e.leads = append(e.leads, lead{p.i, int(to), addr})
		return true
	}
	// to counts from the function; beyond it only the start of another one says
	// the same in both files.
	i, ok := e.w.obj.functionAt(e.w.f.sec.Index, e.w.f.off+to)
	if ok {
		e.refs = append(e.refs, ref{off: p.i, sym: i, use: Branch, value: addr, mask: whole})
	}
	return ok
}

// fields compares two instructions of the same length whose fields relocations
// fill.
func (e *elastic) fields(p pair) bool {
	w := *e.w
	w.old, w.new = e.w.old[p.i:p.i+p.a.Len], e.w.new[p.j:p.j+p.b.Len]
	w.addr += uint64(p.j)
	w.sites = nil
	w.rels = make([]elfpatch.Rela, p.n)
	for k := range w.rels {
		w.rels[k] = e.w.rels[p.rel+k]
		w.rels[k].Offset -= uint64(p.i)
	}
	refs, m := w.walk()
	if m != nil {
		return false
	}
	e.w.masked = w.masked // which began as a copy of it
	for _, r := range refs {
		r.off += p.i
		addend := r.addend
		if r.fromEnd {
			// In a PC-relative field the addend makes up for the distance to the end of
			// the instruction.
			addend += int64(p.i+p.a.Len) - int64(r.off)
		}
		if to, ok := e.own(r.sym, addend); ok {
			e.leads = append(e.leads, lead{p.i, to, r.value + uint64(addend-r.addend)})
			continue
		}
		e.refs = append(e.refs, r)
	}
	return true
}
