package diff

import (
	"livepatch/disasm"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// Code that only tables lead to is cut where something refers to. What a patch
// takes of it stays in the order of the object, so that stretches that go
// together may lie side by side.

const replacementSection = ".altinstr_replacement"

// followReplacement includes all that an alternative is replaced by: others may
// refer to the middle of it.
func (u *kernelCutter) followReplacement(e *piece) {
	l := u.s.secs[e.sec].layout
	field, ok := l.Field(kernel.FieldReplacement)
	length, known := l.Field(kernel.FieldReplLen)
	if !ok || !known {
		return
	}
	r := e.fieldRef(field)
	if r == nil || r.to == nil || !u.s.isSupportCode(r.to) {
		return
	}
	from := uint64(int64(r.to.off) + r.add) // admit has looked at add
	to := from + u.s.fieldValue(e, length)
	if to > u.s.f.Sections[r.to.sec].Size {
		u.refuse(refusal.SpecialSection, u.s.f.Sections[e.sec].Name, "the replacement of entry +%#x ends behind its section", e.off)
		return
	}
	for _, q := range u.s.secs[r.to.sec].pieces {
		if q.off < to && q.off+q.size > from {
			u.k.include(q)
		}
	}
}

// followSupport looks at the instructions of such code: it may go on in the next
// stretch, but must not jump to others in ways that no relocation tells.
func (u *kernelCutter) followSupport(p *piece) {
	if !u.s.isSupportCode(p) {
		return
	}
	last := disasm.Inst{}
	err := disasm.Walk(u.s.f.Machine, u.s.data(p), func(off int, in disasm.Inst) bool {
		last = in
		field := uint64(off) + uint64(in.PCRel.Off)
		if k := p.refAt(field); in.PCRel.Size == 0 || in.Page || k < len(p.refs) && p.refs[k].off == field {
			return true
		}
		if target := int64(off) + in.PCOff; target < 0 || target >= int64(p.size) {
			u.refuse(refusal.Unsupported, where(p, uint64(off)), "a jump leads to other code of the section")
		}
		return true
	})
	name := u.s.f.Sections[p.sec].Name
	if err != nil {
		u.refuse(refusal.Unsupported, where(p, 0), "not all of it are instructions")
		return
	}
	switch last.Flow {
	case disasm.Jump, disasm.IndirectJump, disasm.Return, disasm.Trap:
		return
	}
	if name == replacementSection || p.size == 0 {
		return // it goes on behind the code that it replaces
	}
	if q := u.s.at(p.sec, p.off+p.size); q != nil && q.off == p.off+p.size {
		u.k.include(q)
	}
}
