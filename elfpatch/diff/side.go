package diff

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// side is one of the two objects, taken apart: every allocated section is cut
// into pieces, and every reference from one piece to another is resolved.
type side struct {
	f      *elfpatch.File
	name   string  // in errors
	kernel bool    // by the rules of kernel objects
	tables []error // of tables whose entries cannot be told apart
	secs   []section
	pieces []*piece
	bySym  []*piece   // the piece a symbol stands in; nil if none
	files  []string   // source file of each symbol, see fileOf
	users  [][]*piece // of each piece, by id; see usersOf

	sectionSyms []int
}

// section is what a side knows about a section of the file.
type section struct {
	kind     sectionKind
	row      *kernel.Section // what the kernel uses it for; nil if nothing of its own
	layout   *kernel.Layout  // of tables
	rels     []elfpatch.Rela // by offset
	names    []int           // symbols that stand in it, by value
	marks    []mark          // of code in which data is
	pieces   []*piece        // by offset, without overlaps
	replaced []uint64        // kernel: where replacements of alternatives begin that stand behind functions
	raw      []ref           // references made from here, by offset, not yet in pieces
	cuts     []uint64        // places that are referred to, for what has no name
}

type sectionKind uint8

const (
	ignored     sectionKind = iota // not loaded, or tables about code that are made anew
	codeSect                       // instructions
	dataSect                       // variables and constants
	pooled                         // SHF_MERGE: each string or constant is a piece
	supportSect                    // kernel: code that only tables lead to; a piece begins wherever something refers to
	tableSect                      // kernel: entries about code, each of them a piece
	handlerSect                    // handlers of functions for exceptions, of each a piece
)

const (
	function pieceKind = iota
	variable           // named data, constants too
	literal            // data without a name: strings, constants, jump tables
	entry              // kernel: of a table about code
)

// ref is one reference that a piece makes.
type ref struct {
	off  uint64      // of the field, from the start of the piece
	typ  uint32      // relocation type; for implicit ones that which fits the field
	sym  uint32      // the symbol named, 0 if implicit
	sec  int         // section of the target; 0 if the symbol is not defined here
	to   *piece      // nil if the symbol is not defined here
	add  int64       // distance of the target from the start of to, or from the symbol
	bias int64       // the relocation's addend is add + bias when its symbol is at the start of to
	how  *derivation // derived: how it came about

	implicit bool // the assembler filled the field
	mem      bool // implicit: an address or data, not a branch
	anchor   bool // arm64: the address only serves other references: half of one, or a section anchor
	spilled  bool // arm64: the address goes where it is not followed, and may serve others there
	derived  bool // arm64: an access through an address in a register
}

// derivation is how a derived reference came about.
type derivation struct {
	imm     int64  // the immediate of the instruction
	base    *piece // what the register points into, at baseAdd; nil if not known
	baseAdd int64
}

func newSide(f *elfpatch.File, name string, rules bool) (*side, error) {
	s := &side{f: f, name: name, kernel: rules, secs: make([]section, len(f.Sections)), bySym: make([]*piece, len(f.Symbols))}
	for i, sec := range f.Sections {
		s.secs[i].kind = kindOf(sec)
		if rules {
			if s.secs[i].kind == handlerSect {
				s.secs[i].kind = ignored
			}
			s.applyRow(i)
		}
		if s.secs[i].kind == ignored {
			continue
		}
		rels, err := sortedRelocations(f, sec)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", name, err)
		}
		s.secs[i].rels = rels
	}
	s.sortNames()
	s.readMarks()
	// From here on each section has its names in order.
	s.cutTables()
	s.noteReplacements()
	for i := range s.secs {
		if s.secs[i].kind == codeSect {
			s.cutCode(i)
		}
	}
	s.addCommons()
	// From here on every function is a piece, so that code can be read.
	for i := range s.secs {
		s.readRefs(i)
	}
	s.readFrames()
	// From here on every place that something refers to is known.
	for i := range s.secs {
		switch s.secs[i].kind {
		case dataSect:
			s.cutData(i)
		case pooled:
			s.cutPool(i)
		case supportSect:
			s.cutSupport(i)
		}
	}
	s.settleRefs()
	for _, p := range s.pieces {
		s.deriveRefs(p)
		if p.sec > 0 && s.secs[p.sec].kind == handlerSect {
			s.settleTypes(p)
		}
	}
	s.markPlaces()
	s.adoptParts()
	s.adoptPrefixes()
	s.findSites()
	s.adoptSplit()
	s.attachEntries()
	return s, nil
}

func sortedRelocations(f *elfpatch.File, sec *elfpatch.Section) ([]elfpatch.Rela, error) {
	rels, err := f.Relocations(sec)
	if err != nil {
		return nil, err
	}
	byOffset := func(a, b elfpatch.Rela) int { return cmp.Compare(a.Offset, b.Offset) }
	if !slices.IsSortedFunc(rels, byOffset) {
		rels = slices.Clone(rels)
		slices.SortStableFunc(rels, byOffset)
	}
	return rels, nil
}

// kindOf tells what a section holds. Unwind tables and the lists of patchable
// entries describe code and are made anew for new code.
func kindOf(s *elfpatch.Section) sectionKind {
	switch {
	case s.Flags&elf.SHF_ALLOC == 0, s.Type == elf.SHT_NOTE, s.Type == elf.SHT_RELA,
		s.Type != elf.SHT_NOBITS && uint64(len(s.Data)) != s.Size, s.Flags&elf.SHF_COMPRESSED != 0,
		s.Name == ".eh_frame", s.Name == "__patchable_function_entries", s.Name == "__mcount_loc",
		strings.HasPrefix(s.Name, ".orc_unwind"), s.Name == ".sframe", strings.HasPrefix(s.Name, ".discard"), s.Type == 0x70000001: // SHT_X86_64_UNWIND
		return ignored
	case strings.HasPrefix(s.Name, ".gcc_except_table"):
		return handlerSect
	case s.Flags&elf.SHF_EXECINSTR != 0 && s.Type == elf.SHT_PROGBITS:
		return codeSect
	case s.Flags&elf.SHF_MERGE != 0 && s.Flags&elf.SHF_WRITE == 0 && s.Type == elf.SHT_PROGBITS && s.EntSize > 0:
		return pooled
	}
	return dataSect
}

// isLive reports a section whose contents the program changes. What only the
// dynamic linker writes is constant.
func isLive(s *elfpatch.Section) bool {
	return s.Flags&elf.SHF_WRITE != 0 && !strings.HasPrefix(s.Name, ".data.rel.ro") && !strings.HasPrefix(s.Name, ".data..ro_after_init")
}

func (s *side) sortNames() {
	for i, sym := range s.f.Symbols {
		if i == 0 || sym.Section <= 0 || sym.Section >= len(s.secs) || s.secs[sym.Section].kind == ignored {
			continue
		}
		if sym.Type == elf.STT_SECTION || sym.Type == elf.STT_FILE || isMapping(s.f.Machine, sym.Name) {
			continue
		}
		if sym.Value > s.f.Sections[sym.Section].Size {
			continue
		}
		s.secs[sym.Section].names = append(s.secs[sym.Section].names, i)
	}
	for i := range s.secs {
		slices.SortStableFunc(s.secs[i].names, func(a, b int) int {
			x, y := &s.f.Symbols[a], &s.f.Symbols[b]
			if c := cmp.Compare(x.Value, y.Value); c != 0 {
				return c
			}
			return cmp.Compare(rank(x), rank(y))
		})
	}
}

// rank orders the names of one place: the best one first.
func rank(s *elfpatch.Symbol) int {
	r := 0
	switch s.Type {
	case elf.STT_FUNC, elf.STT_OBJECT, elf.STT_TLS:
	case elf.STT_GNU_IFUNC:
		r = 4
	default:
		r = 8
	}
	switch s.Bind {
	case elf.STB_GLOBAL:
	case elf.STB_LOCAL:
		r += 2
	default:
		r++
	}
	if s.Size == 0 {
		r += 16
	}
	return r
}

// isLabel reports names that the assembler made up or that the compiler meant
// to vanish.
func isLabel(name string) bool { return name == "" || strings.HasPrefix(name, ".L") }

// at returns the piece that a place of a section belongs to: the one that
// covers it, else the one before it, else the first one; nil if there is none.
func (s *side) at(i int, off uint64) *piece {
	all := s.secs[i].pieces
	k, ok := slices.BinarySearchFunc(all, off, func(p *piece, off uint64) int { return cmp.Compare(p.off, off) })
	switch {
	case ok:
		return all[k]
	case k > 0:
		return all[k-1]
	case len(all) > 0:
		return all[0]
	}
	return nil
}

// data returns the contents of a piece, nil if they are zeros.
func (s *side) data(p *piece) []byte {
	if p.bss {
		return nil
	}
	return s.f.Sections[p.sec].Data[p.off : p.off+p.size]
}

// symbol returns the symbol of a piece.
func (s *side) symbol(p *piece) *elfpatch.Symbol { return &s.f.Symbols[p.sym] }

// isStatic reports whether only this object can name the piece.
func (s *side) isStatic(p *piece) bool { return p.sym == 0 || s.symbol(p).Bind == elf.STB_LOCAL }
