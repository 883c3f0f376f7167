package modcheck

import (
	"cmp"
	"slices"
)

// mark is a mapping symbol of arm64.
type mark struct {
	off  uint64
	data bool
}

// dataSpans turns marks into the parts of a section that are data.
func dataSpans(list []mark, size uint64) spans {
	slices.SortStableFunc(list, func(a, b mark) int { return cmp.Compare(a.off, b.off) })
	var out spans
	from, in := uint64(0), false
	for _, m := range list {
		switch {
		case m.off > size:
		case m.data && !in:
			from, in = m.off, true
		case !m.data && in:
			if m.off > from {
				out = append(out, span{from, m.off})
			}
			in = false
		}
	}
	if in && from < size {
		out = append(out, span{from, size})
	}
	return out
}
