package diff

import "debug/elf"

// Compilers name static data by its section and an offset. What an index is
// later added to (table[i - 1000]), or what a loop ends at, may lie outside of
// what it means: such a reference is stray. What it means is then told by
// nothing, so all of the section has to stay together: constants are copied
// with their neighbours, and writable variables must not have moved.

// isStray reports a reference that may mean another piece of the section than
// the one that it leads to.
func (s *side) isStray(p *piece, r *ref) bool {
	if r.to == nil || r.to.kind == function || r.to.special != nil || r.to.sec == 0 || r.derived || r.anchor || p.table ||
		s.secs[r.to.sec].kind != dataSect || len(s.secs[r.to.sec].pieces) == 1 {
		return false
	}
	if sym := &s.f.Symbols[r.sym]; !r.implicit && sym.Type != elf.STT_SECTION && !isLabel(sym.Name) {
		return false
	}
	if r.add < 0 || uint64(r.add) > r.to.size {
		return true
	}
	return p.kind == function && s.f.Machine == elf.EM_X86_64 && s.hasOrphans(r.to.sec) && !s.accesses(p, r)
}

// hasOrphans reports whether a section has data that nothing is seen to refer
// to, though only this object can: something else must mean it.
func (s *side) hasOrphans(sec int) bool {
	for _, p := range s.secs[sec].pieces {
		if s.isOrphan(p) {
			return true
		}
	}
	return false
}

func (s *side) isOrphan(p *piece) bool {
	return p.kind != function && p.size > 0 && s.isStatic(p) && len(s.usersOf(p)) == 0
}

// staysTogether reports whether the target has a section as the patched object
// has it, and the patch has no copy of any of it.
func (k *cutter) staysTogether(sec int) bool {
	all := k.c.patched.secs[sec].pieces
	for _, q := range all {
		if k.isOwn(q) || q.twin == nil || q.twin.sec != all[0].twin.sec {
			return false
		}
	}
	return k.c.sameLayout(all[0].twin.sec, sec)
}

// gatherStray makes the whole section of a constant one cluster, if a function
// may refer to any of it.
func (k *cutter) gatherStray(p *piece, r *ref) {
	if !k.c.patched.isStray(p, r) || r.to.live || r.to.bss || k.staysTogether(r.to.sec) {
		return
	}
	size := k.c.patched.f.Sections[r.to.sec].Size
	if c := k.clusters[r.to.sec]; c == nil {
		k.clusters[r.to.sec] = &cluster{hi: size}
	} else if c.lo == 0 && c.hi == size {
		return
	} else {
		c.lo, c.hi = 0, size
	}
	for _, q := range k.c.patched.secs[r.to.sec].pieces {
		k.include(q)
	}
}

// isLost reports a stray reference to variables that moved apart.
func (k *cutter) isLost(p *piece, r *ref) bool {
	return k.c.patched.isStray(p, r) && (r.to.live || r.to.bss) && !k.staysTogether(r.to.sec)
}

// isPadding reports whether a stretch of a section only aligns what follows.
func (s *side) isPadding(i int, from, to uint64) bool {
	return from >= to || to%4 == 0 && to-from < 64 && s.empty(i, from, to)
}
