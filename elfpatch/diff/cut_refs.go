package diff

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// emit adds the relocations of a piece to those of its section.
func (k *cutter) emit(p *piece, rels map[*elfpatch.Section][]elfpatch.Rela) {
	sec, at := k.places[p].sec, k.places[p].off
	if sec == nil {
		return // padding before a part of a function: the patch does without
	}
	for i := range p.refs {
		r := &p.refs[i]
		if r.derived {
			if !k.rebase(p, r, sec.Data[at:]) {
				rels[sec] = append(rels[sec], k.island(p, r, sec)...)
				k.out.Symbols[k.included[p]].Size = sec.Size - at
			}
			continue
		}
		rel, ok := k.relocation(p, r)
		if info, known := elfpatch.RelocInfo(k.c.m, rel.Type); !ok || p.kind == entry && known && info.Size == 0 {
			continue // the latter fills nothing, and is none of the entry's references
		}
		if r.implicit {
			clearField(k.c.m, rel.Type, sec.Data[at+rel.Offset:])
		}
		rel.Offset += at
		rels[sec] = append(rels[sec], rel)
	}
}

func clearField(m elf.Machine, typ uint32, b []byte) {
	for i, mask := range elfpatch.FieldMask(m, typ) {
		if i < len(b) {
			b[i] &^= mask
		}
	}
}

// staysInside reports a field that the assembler filled and that stays right
// wherever the function goes. The address of the function's own entry is none:
// it is that of the original.
func staysInside(p *piece, r *ref) bool {
	return r.implicit && r.to == p && !(r.mem && r.add == 0)
}

// relocation makes the relocation of a reference; false if it needs none.
func (k *cutter) relocation(p *piece, r *ref) (elfpatch.Rela, bool) {
	rel := elfpatch.Rela{Offset: r.off, Type: r.typ, Addend: r.add + r.bias}
	if staysInside(p, r) {
		return rel, false
	}
	if p.kind == entry && k.kern.rekey(p, r, &rel) {
		return rel, true
	}
	if l := k.layouts[p]; l != nil {
		rel.Offset, rel.Type, rel.Addend = l.field(r)
		rel.Addend += r.add
	}
	if l := k.layouts[r.to]; l != nil && k.isIncluded(r.to) {
		rel.Addend += l.at(r.add) - r.add
	}
	if r.spilled && !k.isIncluded(r.to) && r.to.twin != nil && !k.c.sameLayout(r.to.twin.sec, r.to.sec) {
		k.refuse(refusal.Unsupported, p, r, "it may reach other variables from the address of %s, and they moved (compile with -fno-section-anchors)", r.to.name)
	}
	if k.isLost(p, r) {
		k.refuse(refusal.AddressAmbiguous, p, r, "whether it refers to %s or to another variable of its section cannot be told, and they moved (compile with -fdata-sections)", r.to.name)
	} else if q := k.endsAt(p, r); q != nil {
		k.refuse(refusal.Unsupported, p, r, "whether it refers to the end of %s or to %s behind it cannot be told, and they moved apart (compile with -fdata-sections)", q.name, r.to.name)
	}
	switch {
	case r.to != nil && r.anchor:
		switch to, delta := k.baseFor(p, r.to); {
		case to == nil:
		case k.isIncluded(to):
			k.bind(&rel, r, to)
		default:
			rel.Symbol = uint32(k.original(to, r))
			rel.Addend += delta
		}
	case r.to != nil && (k.takesEntry(p, r) || k.isInterposable(r)):
		rel.Symbol = uint32(k.original(r.to, r))
	case r.to != nil && k.isIncluded(r.to):
		k.bind(&rel, r, r.to)
	case r.to != nil:
		rel.Symbol = uint32(k.original(r.to, r))
		if r.to.twin != nil && r.to.twin.sym == 0 {
			rel.Addend += int64(r.to.twin.off)
		}
	case r.sym != 0:
		rel.Symbol = uint32(k.undefined(r))
	}
	if rel.Symbol == 0 && (r.to != nil || r.sym != 0 || r.sec != 0) {
		k.refuse(refusal.Unsupported, p, r, "it refers to %s, which has no name", k.c.patched.refText(r))
	}
	return rel, true
}

// bind makes a relocation lead to a piece that the patch brings along. In
// kernel objects one by way of a section stays so, because objtool looks for
// that form, and what has no symbol is reached by its section.
func (k *cutter) bind(rel *elfpatch.Rela, r *ref, to *piece) {
	rel.Symbol = uint32(k.included[to])
	if k.kern != nil && (rel.Symbol == 0 || k.kern.bySection(r)) {
		at := k.places[to]
		rel.Symbol = uint32(k.kern.sectionSymbol(at.sec))
		rel.Addend += int64(at.off)
	}
}

// rebase makes an access through an address in a register right for the
// target, where variables may be at other distances from each other; false if
// its immediate cannot.
func (k *cutter) rebase(p *piece, r *ref, code []byte) bool {
	if r.how.base == nil {
		return false
	}
	base, delta := k.baseFor(p, r.how.base)
	switch {
	case base != nil && k.isIncluded(base):
		if r.to == base || k.cluster(r.to) != nil && k.cluster(base) == k.cluster(r.to) {
			return true // as far apart as in the patched object
		}
	case base != nil && !k.isIncluded(r.to) && r.to.twin != nil && r.to.twin.sec == base.twin.sec:
		imm := int64(r.to.twin.off) + r.add - int64(base.twin.off) - delta - r.how.baseAdd
		return imm == r.how.imm || arm64SetImmediate(code[r.off:], r.typ, imm)
	}
	return false
}

// island makes an access by its own address, in code behind the function that
// takes the place of the instruction.
func (k *cutter) island(p *piece, r *ref, sec *elfpatch.Section) []elfpatch.Rela {
	sym, add, at := k.included[r.to], r.add, k.places[p].off+r.off
	if sym == 0 && k.isIncluded(r.to) {
		sym, add = k.kern.sectionSymbol(k.places[r.to].sec), add+int64(k.places[r.to].off)
	} else if sym == 0 {
		if sym = k.original(r.to, r); r.to.twin != nil && r.to.twin.sym == 0 {
			add += int64(r.to.twin.off)
		}
	}
	code, fields := arm64Island(k.c.patched.data(p), r, uint64(len(sec.Data))-at)
	if sym == 0 || code == nil {
		k.refuse(refusal.Unsupported, p, r, "it reaches %s from the address of another variable (compile with -fno-section-anchors)", k.c.patched.refText(r))
		return nil
	}
	binary.LittleEndian.PutUint32(sec.Data[at:], arm64Branch(int64(len(sec.Data))-int64(at)))
	for i := range fields {
		fields[i].Offset += uint64(len(sec.Data))
		fields[i].Symbol, fields[i].Addend = uint32(sym), add
	}
	sec.Data = append(sec.Data, code...)
	sec.Size = uint64(len(sec.Data))
	return fields
}

// baseFor decides what an address that only serves accesses becomes in the
// patch: that of a copy, if it serves accesses to the copy; else that of a
// variable of the target and a distance from it.
func (k *cutter) baseFor(p, to *piece) (*piece, int64) {
	if k.isIncluded(to) {
		copied, shared := false, false
		for i := range p.refs {
			switch r := &p.refs[i]; {
			case r.derived && r.how.base == to && r.to != nil && !k.isIncluded(r.to):
				shared = true
			case r.derived && r.how.base == to, !r.derived && !r.anchor && r.to == to:
				copied = true
			}
		}
		if copied || !shared {
			return to, 0
		}
	} else if to.twin != nil {
		return to, 0
	}
	return k.neighbour(to)
}

// neighbour finds a variable of the same section that the target has, and the
// distance from it to p in the patched object.
func (k *cutter) neighbour(p *piece) (*piece, int64) {
	for _, q := range k.c.patched.secs[p.sec].pieces {
		if q.twin != nil && q.live == p.live && !k.isIncluded(q) {
			return q, int64(p.off) - int64(q.off)
		}
	}
	return nil, 0
}

func (k *cutter) isIncluded(p *piece) bool {
	_, ok := k.included[p]
	return ok
}

// takesEntry reports a reference to a changed function that is no call or jump
// but takes its address. It stays the address of the original, so that
// pointers compare equal in old and new code.
func (k *cutter) takesEntry(p *piece, r *ref) bool {
	return r.to.kind == function && r.add == 0 && r.to.twin != nil && r.to.twin.sym != 0 && r.to.parent == nil &&
		!p.table && p.kind != entry && !k.c.patched.isBranch(p, r)
}

// isInterposable reports a reference, a call too, to a changed function by a
// name that another module of the program may define as well. The target knows
// which one it means; if it is its own, the entry leads to the replacement.
func (k *cutter) isInterposable(r *ref) bool {
	if k.kern != nil || r.to.kind != function || r.add != 0 || r.implicit || r.to.twin == nil || r.to.twin.sym == 0 {
		return false
	}
	sym := &k.c.patched.f.Symbols[r.sym]
	return sym.Bind != elf.STB_LOCAL && sym.Type != elf.STT_SECTION && elf.SymVis(sym.Other&3) == elf.STV_DEFAULT
}

// endsAt returns the static variable whose end the address of another one may
// stand for, as the end of a loop over an array does: the object names both by
// their section. It is nil where that does not matter because the two are as
// close in the target, and where the instruction accesses memory there.
func (k *cutter) endsAt(p *piece, r *ref) *piece {
	if r.to == nil || r.to.kind == function || r.to.special != nil || p.kind == entry || r.add != 0 || r.anchor || r.derived || r.to.off == 0 || r.to.sec == 0 ||
		k.c.patched.f.Symbols[r.sym].Type != elf.STT_SECTION || !k.c.patched.isStatic(r.to) {
		return nil
	}
	q := k.c.patched.at(r.to.sec, r.to.off-1)
	if q == nil || q.kind != variable || q.off+q.size != r.to.off || !k.c.patched.isStatic(q) || k.cluster(q) != nil && k.cluster(q) == k.cluster(r.to) {
		return nil
	}
	a, b := q.twin, r.to.twin
	if a != nil && b != nil && a.sec == b.sec && a.off+a.size == b.off && !k.isIncluded(q) && !k.isIncluded(r.to) {
		return nil
	}
	uses := false
	for _, user := range append([]*piece{owner(p)}, owner(p).parts...) {
		for i := range user.refs {
			x := &user.refs[i]
			uses = uses || x.to == q && !x.derived && !(user.kind == function && k.c.patched.accesses(user, x))
		}
	}
	if !uses || p.kind == function && k.c.patched.accesses(p, r) {
		return nil
	}
	return q
}

// accesses reports whether the instruction of a reference loads or stores at
// it, so that it cannot be the end of something.
func (s *side) accesses(p *piece, r *ref) bool {
	list := s.insns(p)
	k, _ := slices.BinarySearchFunc(list, uint32(r.off)+1, func(in insn, off uint32) int { return cmp.Compare(in.off, off) })
	if k == 0 {
		return false
	}
	in := list[k-1]
	code := s.data(p)[in.off : in.off+uint32(in.len)]
	if s.f.Machine == elf.EM_X86_64 {
		return x86Accesses(code, int(r.off)-int(in.off))
	}
	return elf.R_AARCH64(r.typ) != elf.R_AARCH64_ADD_ABS_LO12_NC
}

func (k *cutter) refuse(code refusal.Code, p *piece, r *ref, format string, args ...any) {
	where := k.c.opt.Name + ": " + describe(k.c.patched, p, int64(r.off))
	k.refusals = append(k.refusals, refusal.New(code, where, format, args...))
}

// original returns the undefined symbol for something that stays in the target.
func (k *cutter) original(to *piece, r *ref) int {
	a := to.twin
	if a == nil {
		return 0
	}
	sym := a.sym
	if sym == 0 {
		if sym = k.c.orig.sectionSymbol(a.sec); sym == 0 {
			return 0
		}
	} else if r.sym != 0 {
		// Of several names of one place, the one that the code uses.
		name := k.c.patched.f.Symbols[r.sym].Name
		for _, i := range a.syms {
			if s := &k.c.orig.f.Symbols[i]; s.Name == name && s.Value == k.c.orig.symbol(a).Value && s.Type != elf.STT_GNU_IFUNC {
				sym = i
			}
		}
	}
	return k.externalSymbol(sym, "", &k.c.orig.f.Symbols[sym])
}

// undefined returns the undefined symbol for what neither object defines, or
// only by a resolver.
func (k *cutter) undefined(r *ref) int {
	sym := &k.c.patched.f.Symbols[r.sym]
	if sym.Section == elfpatch.Absolute {
		return k.absolute(sym)
	}
	if sym.Type == elf.STT_SECTION {
		return 0
	}
	return k.externalSymbol(k.c.originalNamed(sym.Name), sym.Name, sym)
}

func (k *cutter) absolute(sym *elfpatch.Symbol) int {
	key := extKey{-1, sym.Name}
	if i, ok := k.external[key]; ok {
		return i
	}
	s := *sym
	s.Name, s.Bind = k.unique(sym.Name), elf.STB_LOCAL
	k.external[key] = k.out.AddSymbol(s)
	return k.external[key]
}

func (k *cutter) externalSymbol(orig int, name string, from *elfpatch.Symbol) int {
	if orig != 0 {
		name = ""
	}
	key := extKey{orig, name}
	if i, ok := k.external[key]; ok {
		return i
	}
	s := elfpatch.Symbol{Name: from.Name, Type: from.Type, Bind: elf.STB_GLOBAL, Other: from.Other & 3}
	if from.Bind == elf.STB_WEAK && from.Section == elfpatch.Undefined {
		s.Bind = elf.STB_WEAK
	}
	spelled := s.Name
	if s.Type == elf.STT_SECTION && from.Section > 0 && from.Section < len(k.c.orig.f.Sections) {
		spelled = k.c.orig.f.Sections[from.Section].Name
		s.Name, s.Type = spelled, elf.STT_NOTYPE
	}
	s.Other = 0
	if k.taken[s.Name] {
		s.Name = k.unique(s.Name + "#orig")
	} else {
		k.taken[s.Name] = true
	}
	i := k.out.AddSymbol(s)
	k.external[key] = i
	tls := from.Type == elf.STT_TLS
	if orig != 0 && k.c.orig.f.Symbols[orig].Section > 0 {
		tls = tls || k.c.orig.f.Sections[k.c.orig.f.Symbols[orig].Section].Flags&elf.SHF_TLS != 0
	}
	k.list = append(k.list, External{Symbol: i, Name: spelled, Orig: orig, TLS: tls})
	return i
}

// sectionSymbol is the symbol of a section, 0 if it has none.
func (s *side) sectionSymbol(sec int) int {
	if s.sectionSyms == nil {
		s.sectionSyms = make([]int, len(s.secs))
		for i, sym := range s.f.Symbols {
			if sym.Type == elf.STT_SECTION && sym.Section > 0 && sym.Section < len(s.secs) && s.sectionSyms[sym.Section] == 0 {
				s.sectionSyms[sym.Section] = i
			}
		}
	}
	return s.sectionSyms[sec]
}

// originalNamed is the global or undefined symbol of the original object with
// a name, 0 if there is none.
func (c *comparison) originalNamed(name string) int {
	if c.globals == nil {
		c.globals = map[string]int{}
		for i, sym := range c.orig.f.Symbols {
			if i > 0 && sym.Name != "" && sym.Bind != elf.STB_LOCAL {
				c.globals[sym.Name] = i
			}
		}
	}
	return c.globals[name]
}

// isBranch reports whether a reference of a function is a call or a jump.
func (s *side) isBranch(p *piece, r *ref) bool {
	if p.kind != function && !s.isSupportCode(p) {
		return false
	}
	if r.implicit {
		return !r.mem
	}
	if s.f.Machine == elf.EM_X86_64 {
		return x86IsBranch(s.data(p), r)
	}
	return arm64IsBranch(r.typ)
}
