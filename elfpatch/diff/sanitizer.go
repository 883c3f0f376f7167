package diff

import (
	"debug/elf"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// UBSAN has a description of every place that it checks: file, line and column
// (struct source_location, lib/ubsan.h), then the types that are concerned. It is
// data that can be written, but nobody's state. Where the compiler's labels are
// gone and the data has no section of its own it is told by what it holds.

var (
	placeRule = kernel.HasPrefix(kernel.SanitizerData, "Lubsan_data")
	typeRule  = kernel.HasPrefix(kernel.SanitizerData, "Lubsan_type")
)

const sourceLocation = 16 // bytes

// markPlaces finds such descriptions among the data without a name, and what
// only they refer to.
func (s *side) markPlaces() {
	if !s.kernel || !s.checksPlaces() {
		return
	}
	types := map[*piece]bool{} // whether only places refer to it
	for _, p := range s.pieces {
		place := s.isPlace(p)
		if place {
			p.special, p.live = placeRule, false
		}
		for i := range p.refs {
			if to := p.refs[i].to; to != nil && to != p && s.unnamedData(to) {
				only, known := types[to]
				types[to] = place && p.refs[i].off >= sourceLocation && (only || !known)
			}
		}
	}
	for p, only := range types {
		if only && p.special == nil && len(p.refs) == 0 {
			p.special, p.live = typeRule, false
		}
	}
}

// checksPlaces reports whether the object calls UBSAN.
func (s *side) checksPlaces() bool {
	for i := range s.f.Symbols {
		if sym := &s.f.Symbols[i]; sym.Section == elfpatch.Undefined && strings.HasPrefix(sym.Name, "__ubsan_handle_") {
			return true
		}
	}
	return false
}

// isPlace reports whether a piece begins like a struct source_location.
func (s *side) isPlace(p *piece) bool {
	if !s.unnamedData(p) || p.size < sourceLocation || len(p.refs) == 0 || p.refs[0].off != 0 || s.sourceName(&p.refs[0]) == "" {
		return false
	}
	return len(p.refs) == 1 || p.refs[1].off >= sourceLocation
}

// unnamedData reports a piece of data that can be written and has no name.
func (s *side) unnamedData(p *piece) bool {
	if p.sym != 0 || p.sec == 0 || p.bss || p.kind == function || s.secs[p.sec].kind != dataSect {
		return false
	}
	sec := s.f.Sections[p.sec]
	return sec.Flags&elf.SHF_WRITE != 0 && strings.HasPrefix(sec.Name, ".data")
}
