package elfpatch

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
)

// mostLoads is how many times over segments may load a file: what is shared is
// the page between two of them. It bounds the work of whoever reads them all.
const mostLoads = 4

// loaded is the part of a PT_LOAD segment that the file backs.
type loaded struct{ addr, size, offset uint64 }

func (f *File) parseSegments(h *header) error {
	if h.phnum == 0 {
		return nil
	}
	f.Segments = make([]Segment, h.phnum)
	for i := range f.Segments {
		b := f.raw[h.phoff+uint64(i)*programHeaderSize:]
		f.Segments[i] = Segment{
			Type: elf.ProgType(le.Uint32(b)), Flags: elf.ProgFlag(le.Uint32(b[4:])),
			Offset: le.Uint64(b[8:]), VAddr: le.Uint64(b[16:]), PAddr: le.Uint64(b[24:]),
			FileSize: le.Uint64(b[32:]), MemSize: le.Uint64(b[40:]), Align: le.Uint64(b[48:]),
		}
	}
	if f.debugOnly = f.lacksContents(); f.debugOnly {
		return nil
	}
	size, total := uint64(len(f.raw)), uint64(0)
	for i, p := range f.Segments {
		where := func() string { return fmt.Sprintf("program header %d", i) }
		if p.FileSize == 0 || p.Type == elf.PT_NULL {
			continue
		}
		if p.Offset > size || p.FileSize > size-p.Offset {
			return malformed(where(), "contents at %#x, %#x bytes, exceed the file of %#x bytes", p.Offset, p.FileSize, size)
		}
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.MemSize < p.FileSize || p.VAddr+p.MemSize < p.VAddr {
			return malformed(where(), "%#x bytes of the file in %#x bytes of memory at %#x", p.FileSize, p.MemSize, p.VAddr)
		}
		f.loads = append(f.loads, loaded{p.VAddr, p.FileSize, p.Offset})
		if total += p.FileSize; total/mostLoads > size {
			return malformed(where(), "the segments load more than %d times the file of %#x bytes", mostLoads, size)
		}
	}
	slices.SortFunc(f.loads, func(a, b loaded) int { return cmp.Compare(a.addr, b.addr) })
	for i := 1; i < len(f.loads); i++ {
		if a, b := f.loads[i-1], f.loads[i]; b.addr-a.addr < a.size {
			return malformed("program headers", "the segments at %#x and %#x overlap", a.addr, b.addr)
		}
	}
	return nil
}

// lacksContents recognises a separate debug file: of its sections with an
// address only notes have contents, the others are there by name
// (SHT_NOBITS), while its program headers may still describe the file that
// the contents are in.
func (f *File) lacksContents() bool {
	bare := false
	for _, s := range f.Sections {
		switch {
		case s.Flags&elf.SHF_ALLOC == 0 || s.Size == 0 || s.Type == elf.SHT_NOTE:
		case s.Type != elf.SHT_NOBITS:
			return false
		default:
			bare = true
		}
	}
	return bare
}

// ReadAddr returns the n bytes at a link-time address, as the file that was
// parsed has them: from the part of a PT_LOAD segment that the file backs, or,
// if there are no segments, from a section with that address. It does not
// copy.
func (f *File) ReadAddr(addr uint64, n int) ([]byte, bool) {
	b := f.fromAddr(addr)
	if n < 0 || len(b) < n || b == nil {
		return nil, false
	}
	return b[:n:n], true
}

// fromAddr returns all bytes from an address to the end of the segment's part
// of the file.
func (f *File) fromAddr(addr uint64) []byte {
	if len(f.loads) == 0 {
		return f.fromSections(addr)
	}
	i, found := slices.BinarySearchFunc(f.loads, addr, func(l loaded, a uint64) int { return cmp.Compare(l.addr, a) })
	if !found {
		i--
	}
	if i < 0 || addr-f.loads[i].addr >= f.loads[i].size {
		return nil
	}
	l := f.loads[i]
	end := l.offset + l.size
	return f.raw[l.offset+(addr-l.addr) : end : end]
}

func (f *File) fromSections(addr uint64) []byte {
	if f.Type == elf.ET_REL {
		return nil
	}
	for _, s := range f.Sections {
		if s.hasData() && s.Flags&elf.SHF_ALLOC != 0 && addr >= s.Addr && addr-s.Addr < uint64(len(s.Data)) {
			return s.Data[addr-s.Addr:]
		}
	}
	return nil
}

// segmentData returns the contents of a segment in the file.
func (f *File) segmentData(p Segment) []byte {
	if f.debugOnly || p.FileSize == 0 {
		return nil
	}
	return f.raw[p.Offset : p.Offset+p.FileSize : p.Offset+p.FileSize]
}
