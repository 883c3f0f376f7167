package elfpatch

import (
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// stringTable reads a string table. Names are parts of one string, so that a
// table costs its size once, however many names are taken from it.
type stringTable struct {
	all    string
	ends   []uint32 // places of all zeros, made when the first long name is met
	budget uint64   // bytes of names that may still be taken
}

// longName is where looking for the end of a name gives way to looking it up:
// a table without zeros would otherwise be read to its end for every name.
const longName = 256

// nameBudget bounds the total length of the names taken from one table, as a
// multiple of the file's size. Names may share endings, so that the sum can
// exceed the table; a file in which it exceeds this was made to waste memory.
const nameBudget = 16

var errNames = errors.New("the names of the table overlap too much")

// stringTable opens section i as a string table.
func (f *File) stringTable(i int) (*stringTable, error) {
	if i <= 0 || i >= len(f.Sections) || f.Sections[i].Type != elf.SHT_STRTAB {
		return nil, malformed(fmt.Sprintf("section header %d", i), "it is not the string table it is used as")
	}
	return f.strings(f.Sections[i].Data), nil
}

func (f *File) strings(b []byte) *stringTable {
	return &stringTable{all: string(b), budget: nameBudget * uint64(len(f.raw))}
}

// at returns the name at an offset.
func (t *stringTable) at(off uint32) (string, error) {
	if off == 0 && len(t.all) == 0 {
		return "", nil
	}
	if uint64(off) >= uint64(len(t.all)) {
		return "", fmt.Errorf("offset %#x exceeds the string table of %#x bytes", off, len(t.all))
	}
	rest := t.all[off:]
	n := strings.IndexByte(rest[:min(len(rest), longName)], 0)
	if n < 0 {
		if n = t.end(off); n < 0 {
			return "", fmt.Errorf("the name at offset %#x has no end", off)
		}
	}
	if uint64(n) > t.budget {
		return "", errNames
	}
	t.budget -= uint64(n)
	return rest[:n], nil
}

// end returns the length of the name at off by the places of the zeros.
func (t *stringTable) end(off uint32) int {
	if t.ends == nil {
		t.ends = make([]uint32, 0, strings.Count(t.all, "\x00"))
		for i := 0; ; {
			n := strings.IndexByte(t.all[i:], 0)
			if n < 0 {
				break
			}
			t.ends = append(t.ends, uint32(i+n))
			i += n + 1
		}
	}
	k, _ := slices.BinarySearch(t.ends, off)
	if k == len(t.ends) {
		return -1
	}
	return int(t.ends[k] - off)
}
