package unwind

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// A Table finds what is told of the functions of a stretch of code.
type Table struct {
	mem        io.ReaderAt
	start, end uint64 // the code
	entries    []entry
	commons    map[uint64]*common
}

// entry is where a function begins, and where it is described.
type entry struct{ start, at uint64 }

const (
	headerSize = 12      // of an index: four bytes, two words
	maxIndex   = 1 << 22 // functions
	maxSection = 1 << 24 // bytes of .eh_frame that are read as a whole
)

// FromIndex reads an index (.eh_frame_hdr) at an address, which is about the code
// from start to end. The descriptions stay where they are, and are read when one
// is asked for.
func FromIndex(mem io.ReaderAt, at, start, end uint64) (*Table, error) {
	var h [headerSize]byte
	if n, err := mem.ReadAt(h[:], int64(at)); n != len(h) {
		return nil, fmt.Errorf("index at %#x: %w", at, err)
	}
	// Version, encodings of the address of .eh_frame, of the count, of the table.
	const sorted = peDataRel | peS4
	if h[0] != 1 || h[1]&peFormat != peS4 || h[2] != peU4 || h[3] != sorted {
		return nil, fmt.Errorf("index at %#x: form %x is not known", at, h[:4])
	}
	n := le.Uint32(h[8:])
	if n > maxIndex {
		return nil, fmt.Errorf("index at %#x: %d functions", at, n)
	}
	if got, err := mem.ReadAt(h[:1], int64(at)+headerSize+8*int64(n)-1); got != 1 {
		return nil, fmt.Errorf("index at %#x: %w", at, err)
	}
	b := make([]byte, 8*n)
	if got, err := mem.ReadAt(b, int64(at)+headerSize); got != len(b) {
		return nil, fmt.Errorf("index at %#x: %w", at, err)
	}
	t := &Table{mem: mem, start: start, end: end, entries: make([]entry, n), commons: map[uint64]*common{}}
	for i := range t.entries {
		offset := func(b []byte) uint64 { return at + uint64(int64(int32(le.Uint32(b)))) }
		t.entries[i] = entry{offset(b[8*i:]), offset(b[8*i+4:])}
	}
	if !slices.IsSortedFunc(t.entries, byStart) {
		return nil, fmt.Errorf("index at %#x: it is not sorted", at)
	}
	return t, nil
}

// FromSection reads a whole .eh_frame of size bytes at an address.
func FromSection(mem io.ReaderAt, at, size, start, end uint64) (*Table, error) {
	if size > maxSection {
		return nil, fmt.Errorf(".eh_frame at %#x: %d bytes", at, size)
	}
	b := make([]byte, size)
	if n, err := mem.ReadAt(b, int64(at)); n != len(b) {
		return nil, fmt.Errorf(".eh_frame at %#x: %w", at, err)
	}
	t := &Table{mem: mem, start: start, end: end, commons: map[uint64]*common{}}
	for off := uint64(0); size-off >= 8; {
		n, id := uint64(le.Uint32(b[off:])), le.Uint32(b[off+4:])
		switch {
		case n == 0:
			off += 4
			continue
		case n < 4 || n > size-off-4:
			return nil, fmt.Errorf(".eh_frame+%#x: entry of %#x bytes", off, n)
		case id != 0:
			d, err := t.describe(at + off)
			if err != nil {
				return nil, err
			}
			t.entries = append(t.entries, entry{d.start, at + off})
		}
		off += 4 + n
	}
	slices.SortFunc(t.entries, byStart)
	return t, nil
}

func byStart(a, b entry) int { return cmp.Compare(a.start, b.start) }

// find returns the description of the function that holds an address.
func (t *Table) find(addr uint64) (*description, error) {
	i, found := slices.BinarySearchFunc(t.entries, addr, func(e entry, addr uint64) int { return cmp.Compare(e.start, addr) })
	if !found {
		i--
	}
	if i < 0 {
		return nil, fmt.Errorf("no function is described there")
	}
	d, err := t.describe(t.entries[i].at)
	switch {
	case err != nil:
		return nil, err
	case d.start != t.entries[i].start || addr-d.start >= d.size:
		return nil, fmt.Errorf("no function is described there")
	}
	return d, nil
}
