package diff

import (
	"cmp"
	"debug/elf"
	"errors"
	"slices"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// Mapping symbols say where instructions and where data begin in the code of arm64
// (ELF for the Arm 64-bit Architecture, "Mapping symbols"): hashes of types, tables,
// literals. Read as instructions those would refer to something.

// mark is where instructions or data begin in a section.
type mark struct {
	off  uint64
	data bool
}

// isMapping reports the arm64 mapping symbols ($x, $d, "$x.1", …).
func isMapping(m elf.Machine, name string) bool {
	return m == elf.EM_AARCH64 && (strings.HasPrefix(name, "$x") || strings.HasPrefix(name, "$d"))
}

// isData reports a mapping symbol of data.
func isData(s elfpatch.Symbol) bool { return strings.HasPrefix(s.Name, "$d") }

// readMarks gives each section of code in which data is its marks, by offset; of those
// at one place the last one counts.
func (s *side) readMarks() {
	for i := range s.f.Symbols {
		sym := &s.f.Symbols[i]
		if isMapping(s.f.Machine, sym.Name) && sym.Section > 0 && sym.Section < len(s.secs) && s.secs[sym.Section].kind == codeSect {
			s.secs[sym.Section].marks = append(s.secs[sym.Section].marks, mark{sym.Value, isData(*sym)})
		}
	}
	for i := range s.secs {
		all := s.secs[i].marks
		if !slices.ContainsFunc(all, func(m mark) bool { return m.data }) {
			s.secs[i].marks = nil
			continue
		}
		slices.SortStableFunc(all, func(a, b mark) int { return cmp.Compare(a.off, b.off) })
		last := all[:0]
		for k, m := range all {
			if k+1 == len(all) || all[k+1].off != m.off {
				last = append(last, m)
			}
		}
		s.secs[i].marks = last
	}
}

// marksFrom returns the marks of a section from an offset on.
func (s *side) marksFrom(sec int, off uint64) []mark {
	all := s.secs[sec].marks
	k, _ := slices.BinarySearchFunc(all, off, func(m mark, off uint64) int { return cmp.Compare(m.off, off) })
	return all[k:]
}

// isDataAt reports whether what stands at an offset of a section is marked as data.
func (s *side) isDataAt(sec int, off uint64) bool {
	all := s.secs[sec].marks
	if len(all) == 0 {
		return false
	}
	before := len(all) - len(s.marksFrom(sec, off+1))
	return before > 0 && all[before-1].data
}

var errData = errors.New("data")

// decode reads the instruction at an offset of a piece of code. Data is none.
func (s *side) decode(p *piece, off int) (disasm.Inst, error) {
	if s.isDataAt(p.sec, p.off+uint64(off)) {
		return disasm.Inst{}, errData
	}
	return disasm.Decode(s.f.Machine, s.data(p)[off:])
}
