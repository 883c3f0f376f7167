package diff

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// piece is a function, a variable, or a constant.
type piece struct {
	id        int
	sec       int // 0: a common symbol
	off, size uint64
	sym       int    // the symbol that names it, 0 if none does
	syms      []int  // all symbols in it
	name      string // of sym; else where it is
	refs      []ref  // by offset
	twin      *piece // in the other object
	parent    *piece // the function that this outlined part belongs to
	parts     []*piece
	frame     *frame // how it is unwound, nil if nothing tells
	index     []insn
	judged    *pairing         // of the piece and its twin, in the original object
	special   *kernel.NameRule // kernel: it stands for a place in the code, not for state; the patch brings its own
	entries   []*piece         // kernel: entries of tables about this code, by section and place
	about     *piece           // kernel: the code that this entry is about

	kind        pieceKind
	live        bool // writable: the running copy stays in use
	tls         bool
	bss         bool // no contents but zeros
	table       bool // its words are distances from its start
	broken      bool // code: not all bytes are instructions
	replacement bool // kernel: of an alternative, behind a function
	prefix      bool // kernel: the padding before the function that is its parent
	ignored     bool // kernel: the author wants its changes ignored
	site        bool // kernel: ftrace can redirect it
}

type pieceKind uint8

func (s *side) add(p *piece) *piece {
	p.id = len(s.pieces)
	s.pieces = append(s.pieces, p)
	if p.sec > 0 {
		sec := s.f.Sections[p.sec]
		p.live = isLive(sec)
		p.tls = sec.Flags&elf.SHF_TLS != 0
		p.bss = sec.Type == elf.SHT_NOBITS
		s.secs[p.sec].pieces = append(s.secs[p.sec].pieces, p)
	}
	if p.sym != 0 {
		p.name = s.f.Symbols[p.sym].Name
	} else if p.sec > 0 {
		p.name = fmt.Sprintf("%s+%#x", s.f.Sections[p.sec].Name, p.off)
	}
	if s.kernel {
		s.classify(p)
	}
	for _, i := range p.syms {
		s.bySym[i] = p
	}
	return p
}

// cutCode makes a piece of each function of a section. Names inside a function
// are further entries of it. What lies between functions and is no filler
// becomes a piece without a name.
func (s *side) cutCode(i int) {
	sec, names := s.f.Sections[i], s.secs[i].names
	at := uint64(0)
	for k := 0; k < len(names); {
		first := &s.f.Symbols[names[k]]
		if isLabel(first.Name) && first.Type == elf.STT_NOTYPE {
			k++
			continue
		}
		p := &piece{sec: i, off: first.Value, kind: function, sym: names[k]}
		end := min(first.Value+first.Size, sec.Size)
		if end < first.Value {
			end = sec.Size
		}
		if first.Size == 0 {
			end = s.nextName(i, k)
		}
		for ; k < len(names); k++ {
			sym := &s.f.Symbols[names[k]]
			if sym.Value >= end && sym.Value != first.Value {
				break
			}
			p.syms = append(p.syms, names[k])
			if sym.Type == elf.STT_FUNC && sym.Size <= sec.Size-sym.Value {
				end = max(end, sym.Value+sym.Size)
			}
		}
		s.fillGap(i, at, p.off)
		p.size = end - p.off
		s.add(p)
		at = end
	}
	s.fillGap(i, at, sec.Size)
}

// nextName is where the next named place of a section begins.
func (s *side) nextName(i, k int) uint64 {
	v := s.f.Symbols[s.secs[i].names[k]].Value
	for _, n := range s.secs[i].names[k+1:] {
		if sym := &s.f.Symbols[n]; sym.Value > v && !isLabel(sym.Name) {
			return sym.Value
		}
	}
	return s.f.Sections[i].Size
}

func (s *side) fillGap(i int, from, to uint64) {
	if len(s.secs[i].replaced) > 0 {
		from = s.fillReplacements(i, from, to)
	}
	if from < to && !isFiller(s.f.Machine, s.f.Sections[i].Data[from:to]) {
		s.add(&piece{sec: i, off: from, size: to - from, kind: function})
	}
}

// addCommons makes a piece of each common symbol: a variable that the linker
// will place.
func (s *side) addCommons() {
	for i, sym := range s.f.Symbols {
		if sym.Section == elfpatch.Common {
			s.add(&piece{size: sym.Size, kind: variable, live: true, bss: true, sym: i, syms: []int{i}})
		}
	}
}

// cutData makes a piece of each variable of a section. In what is left between
// them, a piece begins wherever something refers to.
func (s *side) cutData(i int) {
	sec, names := s.f.Sections[i], s.secs[i].names
	cuts := s.secs[i].cuts
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	at := uint64(0)
	for k := 0; k < len(names); {
		first := &s.f.Symbols[names[k]]
		if isLabel(first.Name) || first.Size == 0 && first.Bind == elf.STB_LOCAL && first.Type == elf.STT_NOTYPE {
			k++
			continue
		}
		p := &piece{sec: i, off: first.Value, kind: variable, sym: names[k]}
		end := min(first.Value+first.Size, sec.Size)
		if end < first.Value {
			end = sec.Size
		}
		if first.Size == 0 && first.Type == elf.STT_NOTYPE {
			end = s.nextName(i, k)
		}
		for ; k < len(names); k++ {
			sym := &s.f.Symbols[names[k]]
			if sym.Value >= end && sym.Value != first.Value {
				break
			}
			p.syms = append(p.syms, names[k])
			if sym.Size <= sec.Size-sym.Value {
				end = max(end, sym.Value+sym.Size)
			}
		}
		cuts = s.cutGap(i, at, p.off, cuts)
		p.size = end - p.off
		s.add(p)
		at = end
		for len(cuts) > 0 && cuts[0] < at {
			cuts = cuts[1:]
		}
	}
	s.cutGap(i, at, sec.Size, cuts)
}

// cutGap makes pieces of what lies between two named ones and returns the
// places that are left.
func (s *side) cutGap(i int, from, to uint64, cuts []uint64) []uint64 {
	n := 0
	for n < len(cuts) && cuts[n] < to {
		n++
	}
	rest := cuts[n:]
	if n > 0 && !isLive(s.f.Sections[i]) && !s.isPadding(i, from, cuts[0]) {
		s.add(&piece{sec: i, off: from, size: cuts[0] - from, kind: literal})
	}
	for k, c := range cuts[:n] {
		end := to
		if k+1 < n {
			end = cuts[k+1]
		}
		if c == from && from > 0 && s.empty(i, c, to) {
			continue // the end of what lies before
		}
		s.add(&piece{sec: i, off: c, size: end - c, kind: literal})
	}
	return rest
}

// empty reports whether a stretch of a section is only filler: zeros that no
// relocation changes.
func (s *side) empty(i int, from, to uint64) bool {
	rels := s.secs[i].rels
	k, _ := slices.BinarySearchFunc(rels, from, func(r elfpatch.Rela, off uint64) int { return cmp.Compare(r.Offset, off) })
	if k < len(rels) && rels[k].Offset < to {
		return false
	}
	return s.f.Sections[i].Data == nil || isZero(s.f.Sections[i].Data[from:to])
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// cutPool makes a piece of each string or constant of a section that the
// linker merges.
func (s *side) cutPool(i int) {
	sec := s.f.Sections[i]
	step := sec.EntSize
	for off := uint64(0); off < sec.Size; {
		end := off + step
		if sec.Flags&elf.SHF_STRINGS != 0 {
			for end <= sec.Size && !isZero(sec.Data[end-step:end]) {
				end += step
			}
		}
		end = min(end, sec.Size)
		s.add(&piece{sec: i, off: off, size: end - off, kind: literal})
		off = end
	}
	for _, n := range s.secs[i].names {
		if p := s.at(i, s.f.Symbols[n].Value); p != nil {
			s.bySym[n] = p
		}
	}
}
