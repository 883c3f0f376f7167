package diff

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// findSites notes which functions ftrace can redirect.
//
// On x86-64 the entry calls __fentry__, behind an endbr64 where there is one.
// The call is there as such, or as a NOP with a relocation of no effect, or as
// a NOP that __mcount_loc lists (-mrecord-mcount -mnop-mcount). On arm64
// __patchable_function_entries lists the NOPs at the entry, or before it where
// room for an ops pointer is kept (-fpatchable-function-entry=4,2). Both are in
// the kernel's Documentation/trace/ftrace-uses.rst and the Makefiles of arch/.
func (s *side) findSites() {
	if !s.kernel {
		return
	}
	listed := map[*piece]bool{}
	for i, sec := range s.f.Sections {
		x86 := s.f.Machine == elf.EM_X86_64
		if sec.Name != "__mcount_loc" && (x86 || sec.Name != "__patchable_function_entries") || sec.Type == elf.SHT_RELA {
			continue
		}
		rels, err := sortedRelocations(s.f, s.f.Sections[i])
		if err != nil {
			continue
		}
		for _, r := range rels {
			if p := s.entryAt(r); p != nil {
				listed[p] = true
			}
		}
	}
	for _, p := range s.pieces {
		if p.kind != function || p.bss {
			continue
		}
		if rule := kernel.TextOf(s.f.Sections[p.sec].Name); rule != nil && rule.Fate == kernel.TextNever {
			continue
		}
		p.site = listed[p] || s.callsFentry(p)
	}
}

// maxEntry is how far behind the start of a function its site may be: endbr64
// or bti, and NOPs.
const maxEntry = 16

// entryAt is the function at whose entry a place is, nil if at none.
func (s *side) entryAt(r elfpatch.Rela) *piece {
	ref := s.explicit(r, 0)
	if ref.sec <= 0 || s.secs[ref.sec].kind != codeSect || ref.add < 0 {
		return nil
	}
	at := uint64(ref.add)
	for _, off := range []uint64{at, at + 8} { // the second: the place is before the function
		if p := s.at(ref.sec, off); p != nil && p.kind == function && !p.prefix && off >= p.off && off-p.off <= maxEntry && (off == at || p.off == off || p.off == at+4) {
			return p
		}
	}
	return nil
}

// callsFentry reports a function that begins with a call of __fentry__ or of
// the older mcount, or with the NOP of one.
func (s *side) callsFentry(p *piece) bool {
	code := s.data(p)
	for off := 0; off < len(code) && off <= maxEntry; {
		d, err := disasm.Decode(s.f.Machine, code[off:])
		if err != nil {
			return false
		}
		for _, r := range s.refsOf(p, insn{off: uint32(off), len: uint8(d.Len)}) {
			if r.to != nil || r.sym == 0 {
				continue
			}
			switch s.f.Symbols[r.sym].Name {
			case "__fentry__", "mcount", "_mcount":
				return true
			}
		}
		if !d.Nop && !s.isMarker(code[off:off+d.Len]) {
			return false
		}
		off += d.Len
	}
	return false
}

// isMarker reports endbr64, bti and what old ftrace entries of arm64 save the
// return address with.
func (s *side) isMarker(b []byte) bool {
	if len(b) != 4 {
		return false
	}
	w := binary.LittleEndian.Uint32(b)
	if s.f.Machine == elf.EM_X86_64 {
		return w == 0xfa1e0ff3 // endbr64
	}
	switch w {
	case 0xd503245f, 0xd503233f, 0xaa1e03e9, 0xaa1e03e0: // bti c; paciasp; mov x9,x30; mov x0,x30
		return true
	}
	return false
}

// adoptSplit makes a split-off part (".part") without a site of its own a part
// of the function that it was split from: only by way of that can it be
// replaced.
func (s *side) adoptSplit() {
	if !s.kernel {
		return
	}
	byName := map[string][]*piece{}
	for _, p := range s.pieces {
		if p.kind == function && p.parent == nil {
			byName[p.name] = append(byName[p.name], p)
		}
	}
	for _, p := range s.pieces {
		name, ok := splitFrom(p.name)
		if p.kind != function || p.site || p.parent != nil || !ok {
			continue
		}
		all := byName[name]
		if len(all) != 1 || all[0] == p || all[0].parent != nil {
			continue
		}
		for _, part := range append([]*piece{p}, p.parts...) {
			part.parent = all[0]
			all[0].parts = append(all[0].parts, part)
		}
		p.parts = nil
	}
}
