package elfpatch

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math/bits"
)

var le = binary.LittleEndian

// Sizes of the ELF64 structures in a file.
const (
	headerSize        = 64
	sectionHeaderSize = 64
	programHeaderSize = 56
	symbolSize        = 24
	relaSize          = 24
	relSize           = 16
)

func malformed(where, format string, args ...any) error {
	return &FormatError{Where: where, Text: fmt.Sprintf(format, args...)}
}

// Parse reads an ELF file. The file keeps b and hands out slices of it, so b
// must not change while the File is in use; it is never written to. Every
// error is a *FormatError. Parse reads the headers, the section names and the
// symbol table, and takes memory in proportion to those.
func Parse(b []byte) (*File, error) {
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	f := &File{
		Type: h.typ, Machine: h.machine, Flags: h.flags, Entry: h.entry,
		OSABI: b[elf.EI_OSABI], ABIVersion: b[elf.EI_ABIVERSION],
		raw: b, phoff: h.phoff, shoff: h.shoff, parsed: int(h.shnum),
	}
	first, err := h.extend(b)
	if err != nil {
		return nil, err
	}
	if err := f.parseSections(&h, first); err != nil {
		return nil, err
	}
	if err := f.parseSegments(&h); err != nil {
		return nil, err
	}
	if err := f.nameSections(&h); err != nil {
		return nil, err
	}
	if err := f.parseSymbols(); err != nil {
		return nil, err
	}
	f.indexRelocations()
	return f, nil
}

// header is the file header, with the extended counts resolved by extend.
type header struct {
	typ          elf.Type
	machine      elf.Machine
	flags        uint32
	entry        uint64
	phoff, shoff uint64
	phnum, shnum uint64
	shstrndx     uint64
}

func parseHeader(b []byte) (h header, err error) {
	const where = "file header"
	switch {
	case len(b) < headerSize:
		return h, malformed(where, "%d bytes, an ELF64 file has at least %d", len(b), headerSize)
	case string(b[:4]) != elf.ELFMAG:
		return h, malformed(where, "not an ELF file")
	case b[elf.EI_CLASS] != byte(elf.ELFCLASS64) || b[elf.EI_DATA] != byte(elf.ELFDATA2LSB):
		return h, malformed(where, "not a 64-bit little-endian file")
	case b[elf.EI_VERSION] != byte(elf.EV_CURRENT) || le.Uint32(b[20:]) != uint32(elf.EV_CURRENT):
		return h, malformed(where, "version %d.%d is unknown", b[elf.EI_VERSION], le.Uint32(b[20:]))
	case le.Uint16(b[52:]) != headerSize:
		return h, malformed(where, "its size is given as %d", le.Uint16(b[52:]))
	}
	h = header{
		typ: elf.Type(le.Uint16(b[16:])), machine: elf.Machine(le.Uint16(b[18:])),
		entry: le.Uint64(b[24:]), phoff: le.Uint64(b[32:]), shoff: le.Uint64(b[40:]),
		flags: le.Uint32(b[48:]), phnum: uint64(le.Uint16(b[56:])),
		shnum: uint64(le.Uint16(b[60:])), shstrndx: uint64(le.Uint16(b[62:])),
	}
	if h.machine != elf.EM_X86_64 && h.machine != elf.EM_AARCH64 {
		return h, malformed(where, "machine %v is neither x86-64 nor arm64", h.machine)
	}
	if h.typ != elf.ET_REL && h.typ != elf.ET_EXEC && h.typ != elf.ET_DYN {
		return h, malformed(where, "type %v is neither object, executable nor shared library", h.typ)
	}
	if h.phnum != 0 && le.Uint16(b[54:]) != programHeaderSize {
		return h, malformed(where, "program headers of %d bytes", le.Uint16(b[54:]))
	}
	if h.shoff != 0 && le.Uint16(b[58:]) != sectionHeaderSize {
		return h, malformed(where, "section headers of %d bytes", le.Uint16(b[58:]))
	}
	return h, nil
}

// extend reads the section header 0, where counts that do not fit the file
// header are kept, and bounds both tables. It returns the bytes of the
// section header table.
func (h *header) extend(b []byte) ([]byte, error) {
	size := uint64(len(b))
	if h.shoff == 0 {
		if h.shnum != 0 {
			return nil, malformed("file header", "%d section headers at no offset", h.shnum)
		}
		if h.phnum == 0xffff {
			return nil, malformed("file header", "too many program headers and no section header to count them")
		}
		h.shstrndx = 0
	} else if h.shoff < headerSize || h.shoff > size || size-h.shoff < sectionHeaderSize {
		return nil, malformed("section headers", "offset %#x leaves no room for them between the file header and the end at %#x", h.shoff, size)
	} else {
		null := b[h.shoff:]
		if h.shnum == 0 {
			h.shnum = le.Uint64(null[32:])
		}
		if h.shstrndx == uint64(elf.SHN_XINDEX) {
			h.shstrndx = uint64(le.Uint32(null[40:]))
		}
		if h.phnum == 0xffff {
			h.phnum = uint64(le.Uint32(null[44:]))
		}
		if h.shnum > (size-h.shoff)/sectionHeaderSize {
			return nil, malformed("section headers", "%d of them exceed the file of %#x bytes", h.shnum, size)
		}
	}
	if h.phnum != 0 && (h.phoff < headerSize || h.phoff > size || h.phnum > (size-h.phoff)/programHeaderSize) {
		return nil, malformed("program headers", "%d of them at %#x, the file header ends at 0x40 and the file at %#x", h.phnum, h.phoff, size)
	}
	if h.phoff < h.shoff+h.shnum*sectionHeaderSize && h.shoff < h.phoff+h.phnum*programHeaderSize && h.phnum != 0 {
		return nil, malformed("program headers", "they overlap the section headers")
	}
	if h.shnum == 0 {
		return nil, nil
	}
	return b[h.shoff : h.shoff+h.shnum*sectionHeaderSize], nil
}

func (f *File) parseSections(h *header, table []byte) error {
	if h.shnum == 0 {
		return nil
	}
	secs := make([]Section, h.shnum)
	f.Sections = make([]*Section, h.shnum)
	f.Sections[0] = &secs[0]
	for i := 1; i < len(secs); i++ {
		s := &secs[i]
		f.Sections[i] = s
		s.Index = i
		if err := f.parseSection(s, table[i*sectionHeaderSize:]); err != nil {
			return err
		}
	}
	// Without overlaps, whatever later takes memory for contents takes no more
	// than the file's size.
	total := uint64(0)
	for _, s := range f.Sections {
		if err := f.checkTable(s); err != nil {
			return err
		}
		total += uint64(len(s.Data))
	}
	if size := uint64(len(f.raw)); total > size {
		return malformed("section headers", "contents of %#x bytes in a file of %#x: they overlap", total, size)
	}
	return nil
}

func (f *File) parseSection(s *Section, b []byte) error {
	flags := le.Uint64(b[8:])
	s.Type, s.Flags = elf.SectionType(le.Uint32(b[4:])), elf.SectionFlag(flags)
	s.Addr, s.Offset, s.Size = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
	s.Link, s.Info = le.Uint32(b[40:]), le.Uint32(b[44:])
	s.Align, s.EntSize = le.Uint64(b[48:]), le.Uint64(b[56:])
	where := func() string { return fmt.Sprintf("section header %d", s.Index) }
	if flags>>32 != 0 {
		return malformed(where(), "flags %#x are unknown", flags)
	}
	if bits.OnesCount64(s.Align) > 1 {
		return malformed(where(), "alignment %#x is no power of two", s.Align)
	}
	if !s.hasData() || s.Size == 0 {
		return nil
	}
	size := uint64(len(f.raw))
	if s.Offset < headerSize || s.Offset > size || s.Size > size-s.Offset {
		return malformed(where(), "contents at %#x, %#x bytes, exceed the file of %#x bytes", s.Offset, s.Size, size)
	}
	s.Data = f.raw[s.Offset : s.Offset+s.Size : s.Offset+s.Size]
	return nil
}

// hasData tells whether the section has contents in a file.
func (s *Section) hasData() bool { return s.Type != elf.SHT_NOBITS && s.Type != elf.SHT_NULL }

// checkTable refuses tables whose entry size or links cannot be right, so that
// later steps may rely on them.
func (f *File) checkTable(s *Section) error {
	where := func() string { return fmt.Sprintf("section header %d", s.Index) }
	entry := uint64(0)
	linked, ofSymbols := true, false // ofSymbols: sh_info counts or names symbols
	switch s.Type {
	case elf.SHT_SYMTAB, elf.SHT_DYNSYM:
		entry, ofSymbols = symbolSize, true
	case elf.SHT_RELA:
		entry = relaSize
	case elf.SHT_REL, elf.SHT_DYNAMIC:
		entry = 16
	case elf.SHT_GROUP:
		entry, ofSymbols = 4, true
	case elf.SHT_SYMTAB_SHNDX:
		entry = 4
	case elf.SHT_HASH, elf.SHT_GNU_HASH, elf.SHT_GNU_VERSYM, elf.SHT_GNU_VERNEED, elf.SHT_GNU_VERDEF:
	default:
		linked = s.Flags&elf.SHF_LINK_ORDER != 0
	}
	if linked && uint64(s.Link) >= uint64(len(f.Sections)) {
		return malformed(where(), "linked section %d, there are %d", s.Link, len(f.Sections))
	}
	if entry != 0 && s.Size != 0 && s.EntSize != entry {
		return malformed(where(), "entries of %d bytes in a table of %d-byte entries", s.EntSize, entry)
	}
	if entry != 0 && s.Size%entry != 0 {
		return malformed(where(), "%d bytes are no whole number of entries", s.Size)
	}
	if ofSymbols && s.Flags&elf.SHF_INFO_LINK != 0 {
		return malformed(where(), "its info is about symbols, its flags say that it names a section")
	}
	toSection := s.Type == elf.SHT_RELA && s.Flags&elf.SHF_ALLOC == 0 || s.Flags&elf.SHF_INFO_LINK != 0
	if toSection && uint64(s.Info) >= uint64(len(f.Sections)) {
		return malformed(where(), "it applies to section %d, there are %d", s.Info, len(f.Sections))
	}
	return nil
}

func (f *File) nameSections(h *header) error {
	f.shstrndx = int(h.shstrndx)
	if h.shstrndx == 0 {
		return nil
	}
	if h.shstrndx >= h.shnum {
		return malformed("file header", "section names in section %d, there are %d", h.shstrndx, h.shnum)
	}
	tab, err := f.stringTable(f.shstrndx)
	if err != nil {
		return err
	}
	for i, s := range f.Sections[1:] {
		off := le.Uint32(f.raw[h.shoff+uint64(i+1)*sectionHeaderSize:])
		if s.Name, err = tab.at(off); err != nil {
			return malformed(fmt.Sprintf("section header %d", i+1), "its name: %v", err)
		}
	}
	return nil
}
