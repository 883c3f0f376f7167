package diff

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// Kernel objects hold tables about places in code, and variables that belong to
// such places. Both are judged as parts of the function: an entry of a table is
// a piece that the function owns.

// applyRow looks a section up in the tables of kernel lore.
func (s *side) applyRow(i int) {
	sec := s.f.Sections[i]
	row := kernel.Lookup(s.f.Machine, sec.Name)
	if row == nil || sec.Type == elf.SHT_RELA || sec.Type == elf.SHT_GROUP {
		return
	}
	s.secs[i].row = row
	loaded := sec.Flags&elf.SHF_ALLOC != 0 && sec.Type != elf.SHT_NOBITS && uint64(len(sec.Data)) == sec.Size
	switch row.Use {
	case kernel.Entries:
		s.secs[i].kind = ignored
		if loaded {
			s.secs[i].kind = tableSect
		}
	case kernel.Support:
		s.secs[i].kind = ignored
		if loaded {
			s.secs[i].kind = supportSect
		}
	case kernel.Unwind, kernel.Sites, kernel.Dropped, kernel.Request, kernel.Exports:
		s.secs[i].kind = ignored
	}
}

// cutTables makes a piece of each entry of the tables.
func (s *side) cutTables() {
	for i, sec := range s.f.Sections {
		if s.secs[i].kind != tableSect {
			continue
		}
		var offs []uint64
		for _, r := range s.secs[i].rels {
			if info, ok := elfpatch.RelocInfo(s.f.Machine, r.Type); !ok || info.Size > 0 {
				offs = append(offs, r.Offset)
			}
		}
		l, err := kernel.Split(s.secs[i].row, sec.Size, sec.EntSize, offs)
		if err != nil {
			s.tables = append(s.tables, err)
			s.secs[i].kind = ignored
			continue
		}
		s.secs[i].layout = l
		for off := uint64(0); off < sec.Size; off += l.Size {
			s.add(&piece{sec: i, off: off, size: min(l.Size, sec.Size-off), kind: entry})
		}
	}
}

// noteReplacements finds replacements of alternatives that stand in sections of
// functions: on arm64 they are behind the function (.subsection 1).
func (s *side) noteReplacements() {
	for i, sec := range s.f.Sections {
		if s.secs[i].kind != tableSect {
			continue
		}
		field, ok := s.secs[i].layout.Field(kernel.FieldReplacement)
		if !ok {
			continue
		}
		for _, r := range s.secs[i].rels {
			if r.Offset%s.secs[i].layout.Size != uint64(field.Off) || r.Offset >= sec.Size {
				continue
			}
			if to := s.explicit(r, 0); to.sec > 0 && s.secs[to.sec].kind == codeSect && to.add >= 0 {
				s.secs[to.sec].replaced = append(s.secs[to.sec].replaced, uint64(to.add))
			}
		}
	}
	for i := range s.secs {
		slices.Sort(s.secs[i].replaced)
		s.secs[i].replaced = slices.Compact(s.secs[i].replaced)
	}
}

// fillReplacements makes a piece of each replacement between two functions and
// returns where the last one ends; what is before the first is filled as usual.
func (s *side) fillReplacements(i int, from, to uint64) uint64 {
	all := s.secs[i].replaced
	k, _ := slices.BinarySearch(all, from)
	for first := true; k < len(all) && all[k] < to; k++ {
		if at := all[k]; first && from < at && !isFiller(s.f.Machine, s.f.Sections[i].Data[from:at]) {
			s.add(&piece{sec: i, off: from, size: at - from, kind: function})
		}
		first = false
		from = to
		if k+1 < len(all) {
			from = min(to, all[k+1])
		}
		s.add(&piece{sec: i, off: all[k], size: from - all[k], kind: function, replacement: true})
	}
	return from
}

// adoptReplacements makes the replacements behind functions parts of the
// functions that they are for.
func (s *side) adoptReplacements() {
	for i := range s.secs {
		l := s.secs[i].layout
		if l == nil {
			continue
		}
		field, ok := l.Field(kernel.FieldReplacement)
		if !ok {
			continue
		}
		for _, e := range s.secs[i].pieces {
			r := e.fieldRef(field)
			if r == nil || r.to == nil || !r.to.replacement || r.to.parent != nil || e.about == nil {
				continue
			}
			f := owner(e.about)
			if f.kind == function && f != r.to && !f.replacement {
				r.to.parent = f
				f.parts = append(f.parts, r.to)
			}
		}
	}
}

// readSupport collects the references of code that only tables lead to. It is
// read from its start; each stretch of it ends with its last instruction.
func (s *side) readSupport(i int) {
	sec, rels := s.f.Sections[i], s.secs[i].rels
	if sec.Flags&elf.SHF_EXECINSTR == 0 {
		for _, r := range rels {
			s.note(i, s.explicit(r, 0))
		}
		return
	}
	for off := uint64(0); off < sec.Size; {
		in, err := disasm.Decode(s.f.Machine, sec.Data[off:])
		if err != nil {
			in = disasm.Inst{Len: min(undecodable(s.f.Machine), int(sec.Size-off))}
		}
		end := off + uint64(in.Len)
		for len(rels) > 0 && rels[0].Offset < end {
			s.note(i, s.explicit(rels[0], int64(end-rels[0].Offset)))
			rels = rels[1:]
		}
		off = end
	}
}

// cutSupport makes a piece of each stretch of such code that something leads
// to.
func (s *side) cutSupport(i int) {
	cuts := s.secs[i].cuts
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	if len(cuts) > 0 && cuts[len(cuts)-1] == s.f.Sections[i].Size {
		cuts = cuts[:len(cuts)-1]
	}
	at := uint64(0)
	for k, c := range cuts {
		if k == 0 && c > 0 {
			s.add(&piece{sec: i, size: c, kind: literal})
		}
		at = s.f.Sections[i].Size
		if k+1 < len(cuts) {
			at = cuts[k+1]
		}
		s.add(&piece{sec: i, off: c, size: at - c, kind: literal})
	}
	if len(cuts) == 0 && s.f.Sections[i].Size > 0 {
		s.add(&piece{sec: i, size: s.f.Sections[i].Size, kind: literal})
	}
}

// classify tells what a piece is to the kernel.
func (s *side) classify(p *piece) {
	if p.sec == 0 {
		return
	}
	sec, row := s.f.Sections[p.sec], s.secs[p.sec].row
	if s.secs[p.sec].kind == tableSect || s.secs[p.sec].kind == supportSect {
		p.live = false
		return
	}
	if p.kind == function {
		return
	}
	if strings.HasPrefix(sec.Name, ".data..ro_after_init") {
		p.live = sec.Flags&elf.SHF_WRITE != 0 // what starting up put there is state
	}
	p.special = s.specialRule(p, sec, row)
	if p.special != nil {
		p.live = false
	}
}

var (
	descriptorRule = &kernel.NameRule{Name: "descriptor", What: "debug message"}
	onceRule       = &kernel.NameRule{Name: "once", What: "something was done once"}
)

// specialRule finds what makes a piece of data one that stands for a place in
// the code.
func (s *side) specialRule(p *piece, sec *elfpatch.Section, row *kernel.Section) *kernel.NameRule {
	local := s.isStatic(p)
	switch {
	case row != nil && row.Use == kernel.Descriptors:
		return descriptorRule
	case local && kernel.IsOnceSection(sec.Name):
		return onceRule
	}
	if r := kernel.HasPrefix(kernel.SanitizerData, sec.Name); r != nil {
		return r
	}
	if r := kernel.HasPrefix(kernel.UnnamedData, sec.Name); r != nil {
		return r
	}
	if p.sym == 0 {
		return s.labelRule(p, sec)
	}
	if r := kernel.HasPrefix(kernel.SanitizerData, p.name); r != nil {
		return r
	}
	if local && s.symbol(p).Type == elf.STT_OBJECT {
		return kernel.SpecialStatic(p.name)
	}
	return nil
}

// labelRule finds the label of a piece without a symbol of its own: compilers
// give such names to data that they describe code with.
func (s *side) labelRule(p *piece, sec *elfpatch.Section) *kernel.NameRule {
	names := s.secs[p.sec].names
	k, _ := slices.BinarySearchFunc(names, p.off, func(n int, off uint64) int { return cmp.Compare(s.f.Symbols[n].Value, off) })
	for ; k < len(names) && s.f.Symbols[names[k]].Value == p.off; k++ {
		name := s.f.Symbols[names[k]].Name
		if r := kernel.HasPrefix(kernel.SanitizerData, name); r != nil {
			return r
		}
		if r := kernel.HasPrefix(kernel.UnnamedData, name); r != nil && sec.Flags&elf.SHF_WRITE != 0 {
			return r
		}
	}
	return nil
}

// adoptPrefixes makes the padding before a function, where it has a name, and the hash
// of its type parts of the function.
func (s *side) adoptPrefixes() {
	if !s.kernel {
		return
	}
	for _, p := range s.pieces {
		if p.kind != function || p.parent != nil || len(p.parts) > 0 || !s.isPrefix(p) {
			continue
		}
		all := s.secs[p.sec].pieces
		k, ok := slices.BinarySearchFunc(all, p.off+p.size, func(q *piece, off uint64) int { return cmp.Compare(q.off, off) })
		if !ok || all[k].kind != function || all[k] == p { // of no size, at the end of the section
			continue
		}
		f := owner(all[k])
		p.prefix, p.parent = true, f
		f.parts = append(f.parts, p)
	}
}

// isPrefix tells what stands before a function by its name, and on arm64 the hash of
// kCFI, which has none, by the mark that it is data.
func (s *side) isPrefix(p *piece) bool {
	if p.sym != 0 {
		return kernel.HasPrefix(kernel.PrefixSymbols, p.name) != nil
	}
	return s.isDataAt(p.sec, p.off) && len(s.data(p)) == kernel.TypeHashSize
}

// attachEntries gives every piece of code the entries about it, by section and
// place.
func (s *side) attachEntries() {
	for i := range s.secs {
		l := s.secs[i].layout
		if l == nil {
			continue
		}
		field, ok := l.Field(kernel.FieldCode)
		if !ok {
			continue
		}
		for _, e := range s.secs[i].pieces {
			if r := e.fieldRef(field); r != nil && r.to != nil && (r.to.kind == function || s.isSupportCode(r.to)) {
				r.to.entries = append(r.to.entries, e)
				e.about = r.to
			}
		}
	}
	s.adoptReplacements()
	for _, p := range s.pieces {
		if len(p.entries) > 1 {
			slices.SortStableFunc(p.entries, func(a, b *piece) int {
				if c := cmp.Compare(a.sec, b.sec); c != 0 {
					return c
				}
				return cmp.Compare(s.codePlace(a), s.codePlace(b))
			})
		}
	}
}

// codePlace is the offset in the code that an entry is about.
func (s *side) codePlace(e *piece) int64 {
	field, _ := s.secs[e.sec].layout.Field(kernel.FieldCode)
	if r := e.fieldRef(field); r != nil {
		return r.add
	}
	return 0
}

// fieldRef is the reference in a field of an entry, nil if there is none.
func (p *piece) fieldRef(f kernel.Field) *ref {
	k := p.refAt(uint64(f.Off))
	if k < len(p.refs) && p.refs[k].off == uint64(f.Off) {
		return &p.refs[k]
	}
	return nil
}

// fieldValue is the number in a field of an entry.
func (s *side) fieldValue(e *piece, f kernel.Field) uint64 {
	b, v := s.data(e), uint64(0)
	for i := range uint64(f.Size) {
		v |= uint64(byteAt(b, uint64(f.Off)+i)) << (8 * i)
	}
	return v
}

// describeEntry names an entry for readers.
func (s *side) describeEntry(e *piece) string {
	return fmt.Sprintf("%s entry", s.f.Sections[e.sec].Name)
}
