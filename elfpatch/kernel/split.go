package kernel

import (
	"fmt"
	"slices"
)

// Split finds the layout that a table of entries has, from the size of its
// section, the size of an entry that the section claims (0 if none), and the
// offsets of its relocations, which must be in order. A layout fits if every
// relocation fills a reference of it, and every entry has those that it needs.
// That no layout fits, or more than one, is an error: what the entries mean
// would be a guess.
func Split(row *Section, size, entSize uint64, relocations []uint64) (*Layout, error) {
	if len(row.Layouts) == 0 {
		return nil, fmt.Errorf("section %s has no entries", row.Name)
	}
	if size == 0 && len(relocations) == 0 {
		return &row.Layouts[0], nil
	}
	var found *Layout
	for i := range row.Layouts {
		l := &row.Layouts[i]
		if entSize > 1 && entSize != l.Size || !l.fits(size, relocations) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("section %s: entries of %d and of %d bytes fit its %d bytes", row.Name, found.Size, l.Size, size)
		}
		found = l
	}
	if found == nil {
		return nil, fmt.Errorf("section %s: no known form of entries fits its %d bytes and %d relocations", row.Name, size, len(relocations))
	}
	return found, nil
}

// Count is the number of entries in a table of a size.
func (l *Layout) Count(size uint64) int { return int((size + l.Size - 1) / l.Size) }

func (l *Layout) fits(size uint64, relocations []uint64) bool {
	if rest := size % l.Size; rest != 0 && (l.Short == 0 || rest < l.Short) {
		return false
	}
	at := uint64(0)
	for i := 0; at < size; at += l.Size {
		n := 0
		for ; i < len(relocations) && relocations[i] < at+l.Size; i++ {
			k := slices.IndexFunc(l.Fields, func(f Field) bool { return at+uint64(f.Off) == relocations[i] })
			if relocations[i] < at || i > 0 && relocations[i] == relocations[i-1] || k < 0 || !l.Fields[k].Kind.IsRef() {
				return false
			}
			if !l.Fields[k].Optional {
				n++
			}
		}
		if n != l.needed() {
			return false
		}
	}
	return len(relocations) == 0 || relocations[len(relocations)-1] < size
}

// needed is how many relocations each entry must have.
func (l *Layout) needed() int {
	n := 0
	for _, f := range l.Fields {
		if f.Kind.IsRef() && !f.Optional {
			n++
		}
	}
	return n
}
