package elfpatch

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"sort"
)

// maxFileAlign bounds the alignment of contents in the file. The format asks
// for aligned addresses, not offsets; a cache line suits readers that map the
// file, and keeps a hostile alignment from making a huge file of a small one.
const maxFileAlign = 64

// extent is a range of bytes of the parsed file.
type extent struct{ from, to uint64 }

// extents are sorted and do not touch.
type extents []extent

func newExtents(all []extent) extents {
	slices.SortFunc(all, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
	var out extents
	for _, e := range all {
		if n := len(out); n > 0 && e.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, e.to)
		} else {
			out = append(out, e)
		}
	}
	return out
}

// contain tells whether one of the extents holds all of [from, to).
func (e extents) contain(from, to uint64) bool {
	i := sort.Search(len(e), func(i int) bool { return e[i].to >= to })
	return i < len(e) && e[i].from <= from
}

func (e extents) end() uint64 {
	if len(e) == 0 {
		return 0
	}
	return e[len(e)-1].to
}

// layOut gives every section its offset and places the tables of headers.
func (w *writer) layOut() error {
	pos := uint64(headerSize)
	if len(w.f.Segments) > 0 {
		if w.f.raw == nil {
			return fmt.Errorf("write: segments can only be written to a file that was read")
		}
		w.keepSegments()
		w.phoff = w.f.phoff
		pos = max(pos, w.keep.end(), w.phoff+uint64(len(w.f.Segments))*programHeaderSize)
	}
	for i := 1; i < len(w.secs); i++ {
		s := &w.secs[i]
		stays, err := w.stays(s)
		if err != nil {
			return err
		}
		if stays {
			continue
		}
		size := s.Size
		if !s.hasData() {
			size = 0
		}
		if size > 0 {
			pos = alignUp(pos, min(max(s.Align, 1), maxFileAlign))
		}
		s.Offset = pos
		pos += size
	}
	if len(w.secs) > 0 {
		w.shoff = alignUp(pos, 8)
	}
	return nil
}

func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// keepSegments collects what has to stay at its place: sections with an
// address, and what segments cover, unless they tell about another file.
func (w *writer) keepSegments() {
	var all []extent
	for _, s := range w.f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && s.hasData() && s.Size > 0 {
			all = append(all, extent{s.Offset, s.Offset + s.Size})
		}
	}
	for _, p := range w.f.Segments {
		if p.FileSize > 0 && p.Type != elf.PT_NULL && !w.f.debugOnly {
			all = append(all, extent{p.Offset, p.Offset + p.FileSize})
		}
	}
	size := uint64(len(w.f.raw))
	for i := range all {
		all[i].from, all[i].to = min(all[i].from, size), min(all[i].to, size)
	}
	w.keep = newExtents(all)
}

// stays tells whether a section keeps its offset because segments hold it.
func (w *writer) stays(s *Section) (bool, error) {
	if len(w.f.Segments) == 0 {
		return false, nil
	}
	alloc := s.Flags&elf.SHF_ALLOC != 0
	if alloc && (!s.hasData() || s.Size == 0) {
		return true, nil // its offset is only a number, but readers find its segment by it
	}
	was, parsed := w.f.parsedExtent(s.Index)
	same := parsed && was == (extent{s.Offset, s.Offset + s.Size})
	if alloc && !same {
		return false, fmt.Errorf("write: section %s has an address: its offset and size cannot change", s.Name)
	}
	if alloc && s.Index == w.symtab {
		return false, fmt.Errorf("write: the symbol table %s is part of a segment", s.Name)
	}
	table := s.Index == w.symtab || s.Index == w.shndx || s.Index == w.shstrtab ||
		w.symtab != 0 && s.Index == int(w.secs[w.symtab].Link)
	if alloc {
		return true, nil
	}
	return same && !table && s.hasData() && s.Size > 0 && w.keep.contain(was.from, was.to), nil
}

// parsedExtent returns where the contents of a section were in the file that
// was parsed.
func (f *File) parsedExtent(i int) (extent, bool) {
	at := f.shoff + uint64(i)*sectionHeaderSize
	if f.shoff == 0 || i >= f.parsed {
		return extent{}, false
	}
	off, size := le.Uint64(f.raw[at+24:]), le.Uint64(f.raw[at+32:])
	return extent{off, off + size}, true
}

// emit writes headers and contents at the places that layOut gave them.
func (w *writer) emit() []byte {
	size := w.shoff + uint64(len(w.secs))*sectionHeaderSize
	size = max(size, headerSize, w.keep.end(), w.phoff+uint64(len(w.f.Segments))*programHeaderSize)
	out := make([]byte, size)
	for _, e := range w.keep {
		copy(out[e.from:e.to], w.f.raw[e.from:e.to])
	}
	for i := range w.secs {
		if s := &w.secs[i]; s.hasData() {
			copy(out[min(s.Offset, size):], s.Data)
		}
	}
	for i, p := range w.f.Segments {
		p.put(out[w.phoff+uint64(i)*programHeaderSize:])
	}
	for i := range w.secs {
		s := &w.secs[i]
		name := uint32(0)
		if w.shstrtab != 0 {
			name = w.sections.at(s.Name)
		}
		s.put(out[w.shoff+uint64(i)*sectionHeaderSize:], name)
	}
	w.putHeader(out)
	return out
}

func (s *Section) put(b []byte, name uint32) {
	le.PutUint32(b, name)
	le.PutUint32(b[4:], uint32(s.Type))
	le.PutUint64(b[8:], uint64(s.Flags))
	le.PutUint64(b[16:], s.Addr)
	le.PutUint64(b[24:], s.Offset)
	le.PutUint64(b[32:], s.Size)
	le.PutUint32(b[40:], s.Link)
	le.PutUint32(b[44:], s.Info)
	le.PutUint64(b[48:], s.Align)
	le.PutUint64(b[56:], s.EntSize)
}

func (p *Segment) put(b []byte) {
	le.PutUint32(b, uint32(p.Type))
	le.PutUint32(b[4:], uint32(p.Flags))
	le.PutUint64(b[8:], p.Offset)
	le.PutUint64(b[16:], p.VAddr)
	le.PutUint64(b[24:], p.PAddr)
	le.PutUint64(b[32:], p.FileSize)
	le.PutUint64(b[40:], p.MemSize)
	le.PutUint64(b[48:], p.Align)
}

// putHeader writes the file header, and into section header 0 the counts that
// do not fit it.
func (w *writer) putHeader(out []byte) {
	copy(out, elf.ELFMAG)
	out[elf.EI_CLASS], out[elf.EI_DATA], out[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	out[elf.EI_OSABI], out[elf.EI_ABIVERSION] = w.f.OSABI, w.f.ABIVersion
	clear(out[elf.EI_PAD:16])
	le.PutUint16(out[16:], uint16(w.f.Type))
	le.PutUint16(out[18:], uint16(w.f.Machine))
	le.PutUint32(out[20:], uint32(elf.EV_CURRENT))
	le.PutUint64(out[24:], w.f.Entry)
	le.PutUint64(out[32:], w.phoff)
	le.PutUint64(out[40:], w.shoff)
	le.PutUint32(out[48:], w.f.Flags)
	le.PutUint16(out[52:], headerSize)
	le.PutUint16(out[54:], 0)
	if len(w.f.Segments) > 0 {
		le.PutUint16(out[54:], programHeaderSize)
	}
	le.PutUint16(out[58:], sectionHeaderSize)
	phnum, shnum, shstrndx := len(w.f.Segments), len(w.secs), w.shstrtab
	if phnum >= 0xffff {
		le.PutUint32(out[w.shoff+44:], uint32(phnum))
		phnum = 0xffff
	}
	if shnum >= int(elf.SHN_LORESERVE) {
		le.PutUint64(out[w.shoff+32:], uint64(shnum))
		shnum = 0
	}
	if shstrndx >= int(elf.SHN_LORESERVE) {
		le.PutUint32(out[w.shoff+40:], uint32(shstrndx))
		shstrndx = int(elf.SHN_XINDEX)
	}
	le.PutUint16(out[56:], uint16(phnum))
	le.PutUint16(out[60:], uint16(shnum))
	le.PutUint16(out[62:], uint16(shstrndx))
}
