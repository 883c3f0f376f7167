package diff

import (
	"cmp"
	"debug/elf"
	"slices"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// readRefs collects the references made in a section. Offsets are those in the
// section until settleRefs.
func (s *side) readRefs(i int) {
	s.secs[i].raw = make([]ref, 0, len(s.secs[i].rels))
	switch s.secs[i].kind {
	case codeSect:
		for _, p := range s.secs[i].pieces {
			s.readCode(p)
		}
	case supportSect:
		s.readSupport(i)
	case dataSect, pooled, tableSect, handlerSect:
		for _, r := range s.secs[i].rels {
			s.note(i, s.explicit(r, 0))
		}
	}
}

// note keeps a reference and the place it leads to.
func (s *side) note(from int, r ref) {
	s.secs[from].raw = append(s.secs[from].raw, r)
	if r.sec > 0 && (s.secs[r.sec].kind == dataSect || s.secs[r.sec].kind == supportSect) && r.add >= 0 && uint64(r.add) <= s.f.Sections[r.sec].Size {
		s.secs[r.sec].cuts = append(s.secs[r.sec].cuts, uint64(r.add))
	}
}

// explicit makes a reference from a relocation. tail is the distance from its
// field to the end of the instruction, 0 in data: x86-64 counts PC-relative
// operands from there.
//
// Where the relocation names a function or variable itself, add counts from
// that; settleRefs makes it count from the piece. Until then add of others is
// the offset in their section, and so it is with named ones.
func (s *side) explicit(r elfpatch.Rela, tail int64) ref {
	out := ref{off: r.Offset, typ: r.Type, sym: r.Symbol}
	if info, ok := elfpatch.RelocInfo(s.f.Machine, r.Type); ok && info.PCRel && s.f.Machine == elf.EM_X86_64 {
		out.bias = -tail
	}
	out.add = r.Addend - out.bias
	if r.Symbol == 0 {
		return out
	}
	sym := &s.f.Symbols[r.Symbol]
	if sym.Section > 0 && sym.Section < len(s.secs) && s.secs[sym.Section].kind != ignored && sym.Type != elf.STT_GNU_IFUNC {
		out.sec = sym.Section
		out.add += int64(sym.Value)
	}
	return out
}

// readCode collects the references of a function: its relocations, and the
// PC-relative fields that lead out of it or take the address of a place in it.
func (s *side) readCode(p *piece) {
	rels := s.secs[p.sec].rels
	k, _ := slices.BinarySearchFunc(rels, p.off, func(r elfpatch.Rela, off uint64) int { return cmp.Compare(r.Offset, off) })
	rels = rels[k:]
	for off := uint64(0); off < p.size; {
		in, err := s.decode(p, int(off))
		if err != nil {
			p.broken = p.broken || s.f.Machine == elf.EM_X86_64
			in = disasm.Inst{Len: min(undecodable(s.f.Machine), int(p.size-off))}
		}
		end := off + uint64(in.Len)
		relocated := false
		for len(rels) > 0 && rels[0].Offset < p.off+end {
			r := rels[0]
			rels = rels[1:]
			covers := in.PCRel.Size > 0 && s.covers(r, p.off+off+uint64(in.PCRel.Off))
			relocated = relocated || covers
			s.note(p.sec, s.explicit(r, int64(p.off+end-r.Offset)))
		}
		if in.PCRel.Size > 0 && !relocated && !in.Page {
			s.noteImplicit(p, off, in)
		}
		off = end
	}
}

// covers reports whether a relocation fills the field at an offset.
func (s *side) covers(r elfpatch.Rela, field uint64) bool {
	info, ok := elfpatch.RelocInfo(s.f.Machine, r.Type)
	return r.Offset == field && (!ok || info.Size > 0)
}

// noteImplicit keeps a reference that needed no relocation. Branches within a
// function are none.
func (s *side) noteImplicit(p *piece, off uint64, in disasm.Inst) {
	pc := p.off + off
	target := pc + uint64(in.PCOff)
	if !in.Mem && target >= p.off && target < p.off+p.size {
		return
	}
	field := pc + uint64(in.PCRel.Off)
	r := ref{off: field, typ: implicitType(s.f.Machine, s.f.Sections[p.sec].Data[pc:], in), implicit: true, mem: in.Mem, sec: p.sec, add: int64(target)}
	if s.f.Machine == elf.EM_X86_64 {
		r.bias = -int64(pc + uint64(in.Len) - field)
	}
	s.note(p.sec, r)
}

// undecodable is how many bytes to skip where no instruction is.
func undecodable(m elf.Machine) int {
	if m == elf.EM_AARCH64 {
		return 4
	}
	return 1
}

// settleRefs gives every piece its references, and every reference its piece.
func (s *side) settleRefs() {
	for i := range s.secs {
		sec := &s.secs[i]
		k := 0
		for _, p := range sec.pieces {
			for k < len(sec.raw) && sec.raw[k].off < p.off {
				k++
			}
			from := k
			for k < len(sec.raw) && sec.raw[k].off < p.off+p.size {
				k++
			}
			p.refs = sec.raw[from:k:k]
			p.table = s.isTable(p)
			for n := range p.refs {
				r := &p.refs[n]
				r.off -= p.off
				if p.table {
					// An entry is a label less the start of the table; what the
					// relocation adds is the distance between the two.
					r.add -= int64(r.off)
					r.bias = int64(r.off)
				}
				s.settle(r)
			}
		}
		sec.raw, sec.cuts = nil, nil
	}
}

// isTable reports a table of distances from its own start: PC-relative words
// and nothing else, that lead into code (a jump table), or, counted so, to the
// starts of strings or variables, which they do not counted from their places.
// References must not be settled yet; see table.
func (s *side) isTable(p *piece) bool {
	if p.kind == function || p.kind == entry || p.live || len(p.refs) == 0 || s.secs[p.sec].kind == supportSect {
		return false
	}
	code, starts, places := true, true, true
	for i, r := range p.refs {
		info, ok := elfpatch.RelocInfo(s.f.Machine, r.typ)
		if !ok || !info.PCRel || info.Size != 4 || r.sec <= 0 || r.off-p.off != uint64(4*i) {
			return false
		}
		code = code && s.secs[r.sec].kind == codeSect
		starts = starts && s.isStart(r.sec, r.add-int64(4*i))
		places = places && s.isStart(r.sec, r.add)
	}
	if code {
		return p.kind == literal
	}
	return starts && (!places || strings.Contains(p.name, "reltable") || strings.HasSuffix(p.name, ".rel"))
}

// isStart reports whether a piece begins at an offset of a section.
func (s *side) isStart(sec int, off int64) bool {
	p := s.at(sec, uint64(max(off, 0)))
	return p != nil && int64(p.off) == off
}

// settle finds the piece of a reference, whose add is an offset in a section.
func (s *side) settle(r *ref) {
	if r.sym != 0 {
		sym := &s.f.Symbols[r.sym]
		if p := s.bySym[r.sym]; p != nil && sym.Type != elf.STT_GNU_IFUNC && (!isLabel(sym.Name) || p.sec == 0) {
			r.to, r.sec = p, p.sec
			r.anchor = p.kind != function && isPage(s.f.Machine, r.typ)
			if p.sec != 0 {
				r.add -= int64(p.off)
			}
			return
		}
	}
	if r.sec <= 0 {
		return
	}
	p := s.at(r.sec, uint64(max(r.add, 0)))
	if p == nil {
		return
	}
	r.to = p
	r.add -= int64(p.off)
	r.anchor = p.kind != function && isPage(s.f.Machine, r.typ)
}

// adoptParts finds the function that each outlined part (".cold") belongs to:
// the one of that name, else the only one that refers to it.
func (s *side) adoptParts() {
	byName := map[string][]*piece{}
	users := map[*piece]*piece{}
	for _, p := range s.pieces {
		if p.kind != function {
			continue
		}
		byName[p.name] = append(byName[p.name], p)
		for _, r := range p.refs {
			if r.to == nil || r.to == p || r.to.kind != function {
				continue
			}
			if _, ok := parentName(r.to.name); ok {
				if u, ok := users[r.to]; ok && u != p {
					users[r.to] = nil
				} else {
					users[r.to] = p
				}
			}
		}
	}
	for _, p := range s.pieces {
		if p.kind != function {
			continue
		}
		name, ok := parentName(p.name)
		if !ok {
			continue
		}
		parent := users[p]
		if all := byName[name]; parent == nil && len(all) == 1 {
			parent = all[0]
		}
		if parent == nil || parent == p {
			continue
		}
		if _, part := parentName(parent.name); !part {
			p.parent = parent
			parent.parts = append(parent.parts, p)
		}
	}
}
