package match

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// object is the before object with what compare needs of it at hand.
type object struct {
	f     *elfpatch.File
	rels  map[int][]elfpatch.Rela // by section, sorted by offset
	funcs map[int]*function       // by symbol
	file  string                  // of its STT_FILE symbol, when there is exactly one

	bySection map[int][]int  // named symbols, made by inSection
	sites     map[int][]site // of kernel objects, by section, sorted
	starts    map[spot]int   // functions by where they begin, made by functionAt
}

// function is one function of the object.
type function struct {
	sym    int
	name   string
	sec    *elfpatch.Section
	off    uint64 // in sec
	size   uint64
	code   []byte          // its bytes in sec
	rels   []elfpatch.Rela // those inside it, offsets from its start
	sites  []site          // those inside it, offsets from its start
	atBoot Masked          // places that only the start of a kernel rewrites
	local  bool            // not visible outside the linked file
	wanted bool            // a changed function, not just a witness

	state     state
	addr      uint64
	extent    uint64 // size at addr
	masked    Masked
	refs      []ref // what its fields say
	at        []int // as of its fit
	found     Found
	fits      []fit        // places whose bytes are equal
	data      []*datum     // what its fields lead to
	wrong     string       // what else contradicts the proof
	wrongCode refusal.Code // of it; empty: not-the-running-code
	nearest   *miss        // the best place that is not
	cut       *miss        // where it parts from text that ends too soon
	asked     bool         // places were looked for
	many      bool         // more fit than were kept, or too little evidence
	shared    bool         // the target has several functions of this name
	unused    bool         // addr holds its code, but the target runs another object's function of this name
}

type state uint8

const (
	open   state = iota
	proven       // addr holds its code
	failed       // no place does
)

func newObject(f *elfpatch.File) *object {
	o := &object{f: f, rels: map[int][]elfpatch.Rela{}, funcs: map[int]*function{}}
	files := 0
	for _, s := range f.Symbols {
		if s.Type == elf.STT_FILE && s.Name != "" {
			o.file = s.Name
			files++
		}
	}
	if files != 1 {
		o.file = ""
	}
	return o
}

// relocations returns those of section i, sorted.
func (o *object) relocations(i int) ([]elfpatch.Rela, error) {
	if r, ok := o.rels[i]; ok {
		return r, nil
	}
	r, err := o.f.Relocations(o.f.Sections[i])
	if err != nil {
		return nil, err
	}
	byOffset := func(a, b elfpatch.Rela) int { return cmp.Compare(a.Offset, b.Offset) }
	if !slices.IsSortedFunc(r, byOffset) {
		r = slices.Clone(r)
		slices.SortStableFunc(r, byOffset)
	}
	o.rels[i] = r
	return r, nil
}

// defined returns the section that symbol i stands in, nil when there is none.
func (o *object) defined(i int) *elfpatch.Section {
	if i <= 0 || i >= len(o.f.Symbols) {
		return nil
	}
	if s := o.f.Symbols[i].Section; s > 0 && s < len(o.f.Sections) {
		return o.f.Sections[s]
	}
	return nil
}

// function describes the function of symbol i; nil when it is none.
func (o *object) function(i int) (*function, error) {
	if f, ok := o.funcs[i]; ok {
		return f, nil
	}
	sec := o.defined(i)
	if sec == nil || sec.Flags&elf.SHF_EXECINSTR == 0 || sec.Data == nil {
		return nil, nil
	}
	s := o.f.Symbols[i]
	if s.Type != elf.STT_FUNC && s.Type != elf.STT_NOTYPE {
		return nil, nil
	}
	size := s.Size
	if size == 0 {
		size = o.gap(s.Section, s.Value)
	}
	if s.Value > uint64(len(sec.Data)) || size > uint64(len(sec.Data))-s.Value {
		return nil, &elfpatch.FormatError{Where: "symbol " + s.Name, Text: fmt.Sprintf("extends past section %s", sec.Name)}
	}
	if size == 0 {
		return nil, nil
	}
	rels, err := o.relocations(s.Section)
	if err != nil {
		return nil, err
	}
	f := &function{
		sym: i, name: s.Name, sec: sec, off: s.Value, size: size,
		code: sec.Data[s.Value : s.Value+size], local: isLocal(s),
	}
	lo, _ := slices.BinarySearchFunc(rels, f.off, func(r elfpatch.Rela, off uint64) int { return cmp.Compare(r.Offset, off) })
	for _, r := range rels[lo:] {
		if r.Offset >= f.off+size {
			break
		}
		r.Offset -= f.off
		f.rels = append(f.rels, r)
	}
	o.findSites(f)
	o.funcs[i] = f
	return f, nil
}

// spot is an offset in a section.
type spot struct {
	sec int
	off uint64
}

// functionAt returns the symbol of the function that begins at an offset of a
// section.
func (o *object) functionAt(sec int, off uint64) (int, bool) {
	if o.starts == nil {
		o.starts = map[spot]int{}
		for i, s := range o.f.Symbols {
			if s.Type == elf.STT_FUNC && s.Section > 0 {
				o.starts[spot{s.Section, s.Value}] = i
			}
		}
	}
	i, ok := o.starts[spot{sec, off}]
	return i, ok
}

// gap is the distance from an offset to the next symbol of the section, or to
// its end: the extent of a function that assembly left without a size.
func (o *object) gap(sec int, off uint64) uint64 {
	end := o.f.Sections[sec].Size
	for _, s := range o.f.Symbols {
		if s.Section == sec && s.Value > off && s.Value < end && (s.Type == elf.STT_FUNC || s.Type == elf.STT_NOTYPE) && !isMapping(s.Name) {
			end = s.Value
		}
	}
	return end - min(off, end)
}

// isMapping reports the arm64 mapping symbols ($x, $d, "$x.1", …).
func isMapping(name string) bool {
	return strings.HasPrefix(name, "$x") || strings.HasPrefix(name, "$d")
}

// isLocal reports whether a symbol is invisible outside the linked file, so
// that no other definition can take its place.
func isLocal(s elfpatch.Symbol) bool {
	if s.Bind == elf.STB_LOCAL {
		return true
	}
	v := elf.SymVis(s.Other & 3)
	return v == elf.STV_HIDDEN || v == elf.STV_INTERNAL
}

// pieces reports a section whose contents the linker takes apart and merges
// with those of other objects, so that it has no single address.
func pieces(s *elfpatch.Section) bool { return s.Flags&elf.SHF_MERGE != 0 }
