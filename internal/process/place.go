package process

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/resolve"
)

const (
	addendRoom   = 1 << 16   // that a reference may lead from its symbol
	lowest       = 1 << 20   // no memory below is used: it catches null pointers
	heapReserve  = 1 << 30   // above [heap] or the program, for brk to grow into
	stackReserve = 256 << 20 // below [stack], for it to grow into
	abs32Top     = 1 << 31
)

// window is the range of addresses that a patch may start at.
type window struct{ low, high uint64 } // inclusive

// around narrows the window so that code anywhere in a patch of size bytes
// reaches addr and back, by a field that reaches so far.
func (w *window) around(addr, size, reach uint64) {
	reach -= addendRoom
	if addr > reach {
		w.low = max(w.low, addr-reach)
	}
	if high := addr + reach; high > size {
		w.high = min(w.high, high-size)
	} else {
		w.high = 0
	}
}

// needs returns where a patch must lie so that every field can be filled: near
// the sites, near whatever it refers to relative to its own place, and below
// 2 GiB if it holds 32-bit addresses of itself.
func (l *layout) needs(sites []uint64, imports map[string]uint64) window {
	w := window{lowest, userTop - l.size()}
	for _, s := range sites {
		w.around(s, l.size(), siteReach)
	}
	for _, r := range l.relocs {
		info, _ := elfpatch.RelocInfo(l.obj.Machine, r.Type)
		s := &l.obj.Symbols[r.Symbol]
		switch {
		case info.Kind == elfpatch.KindTLS || info.Kind == elfpatch.KindSize:
		case info.Reach() > addendRoom && s.Section == elfpatch.Undefined && r.Symbol != 0:
			if v, ok := imports[s.Name]; ok {
				w.around(v, l.size(), info.Reach())
			}
		case !info.PCRel && !info.Insn && info.Size == 4 && s.Section > 0:
			w.high = min(w.high, abs32Top-l.size())
		}
	}
	return w
}

// candidates returns addresses where size bytes are free within the window,
// nearest to near first. Memory that the heap and the stack may still grow into
// is left alone, and so is a page on either side of every mapping, so that
// overruns keep faulting where they did.
func candidates(maps []resolve.Mapping, w window, size, near uint64) []uint64 {
	var list []uint64
	low, top := uint64(lowest), topOf(maps)
	add := func(start, end uint64) {
		start, end = max(alignUp(start, pageSize), alignUp(w.low, pageSize)), min(end, w.high+size)&^(pageSize-1)
		if start >= end || end-start < size {
			return
		}
		last := end - size
		switch {
		case near <= start:
			list = append(list, start)
		case near >= last:
			list = append(list, last)
		default:
			list = append(list, near&^(pageSize-1))
		}
	}
	for i := range maps {
		m := &maps[i]
		if m.Start >= top {
			break
		}
		guard := uint64(pageSize)
		if m.Path == "[stack]" {
			guard = stackReserve
		}
		if m.Start > low+guard {
			add(low, m.Start-guard)
		}
		low = m.End + pageSize
		if growsUp(maps, i) {
			low = m.End + heapReserve
		}
	}
	if low < top {
		add(low, top)
	}
	dist := func(a uint64) uint64 { return max(a, near) - min(a, near) }
	slices.SortStableFunc(list, func(a, b uint64) int { return cmp.Compare(dist(a), dist(b)) })
	return list
}

// topOf returns where the memory of a process ends: the stack lies near it, and
// kernels of some machines give less than others.
func topOf(maps []resolve.Mapping) uint64 {
	top := uint64(lowest)
	for i := range maps {
		if end := maps[i].End; end <= userTop {
			top = max(top, 1<<bits.Len64(end-1))
		}
	}
	return min(top, userTop)
}

// growsUp reports whether the heap is or may be placed behind a mapping: the
// heap itself, or writable memory (the end of the program) before a wide gap.
func growsUp(maps []resolve.Mapping, i int) bool {
	m := &maps[i]
	if strings.HasPrefix(m.Path, "[heap") {
		return true
	}
	return m.Write && i+1 < len(maps) && maps[i+1].Start-m.End > heapReserve
}
