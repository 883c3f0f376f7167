package kimage

import (
	"debug/elf"

	"livepatch/elfpatch"
)

// placed is a section of a file that linkedFile makes.
type placed struct {
	name  string
	typ   elf.SectionType
	flags elf.SectionFlag
	addr  uint64
	size  uint64
	align uint64
	data  []byte // up to size bytes; the rest is zeros
}

const (
	ehdrSize = 64
	phdrSize = 56
	shdrSize = 64
	fileUnit = 16 // alignment of what the file holds
)

// linkedFile returns an ET_EXEC file of sections at their addresses, one
// segment for each that is loaded. Sections are in the order given, after the
// null section; the last one holds the names.
func linkedFile(m elf.Machine, sections []placed) (*elfpatch.File, error) {
	names := []byte{0}
	var nameAt []int
	for _, s := range sections {
		nameAt = append(nameAt, len(names))
		names = append(append(names, s.name...), 0)
	}
	nameAt = append(nameAt, len(names))
	names = append(names, ".shstrtab\x00"...)
	all := append(sections[:len(sections):len(sections)], placed{name: ".shstrtab", typ: elf.SHT_STRTAB, size: uint64(len(names)), data: names})

	segments := 0
	for _, s := range sections {
		if s.flags&elf.SHF_ALLOC != 0 {
			segments++
		}
	}
	offset := make([]int, len(all))
	at := ehdrSize + phdrSize*segments
	for i, s := range all {
		at = alignUp(at, fileUnit)
		offset[i] = at
		if s.typ != elf.SHT_NOBITS {
			at += int(s.size)
		}
	}
	at = alignUp(at, fileUnit)
	b := make([]byte, at+shdrSize*(len(all)+1))
	putHeader(b, m, segments, at, len(all)+1)
	ph := b[ehdrSize:]
	for i, s := range all {
		if s.typ != elf.SHT_NOBITS {
			copy(b[offset[i]:offset[i]+int(s.size)], s.data)
		}
		if s.flags&elf.SHF_ALLOC != 0 {
			putSegment(ph, s, offset[i])
			ph = ph[phdrSize:]
		}
		putSection(b[at+shdrSize*(i+1):], s, nameAt[i], offset[i])
	}
	return elfpatch.Parse(b)
}

func putHeader(b []byte, m elf.Machine, segments, sections, count int) {
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	le.PutUint16(b[16:], uint16(elf.ET_EXEC))
	le.PutUint16(b[18:], uint16(m))
	le.PutUint32(b[20:], uint32(elf.EV_CURRENT))
	le.PutUint64(b[32:], ehdrSize)
	le.PutUint64(b[40:], uint64(sections))
	le.PutUint16(b[52:], ehdrSize)
	le.PutUint16(b[54:], phdrSize)
	le.PutUint16(b[56:], uint16(segments))
	le.PutUint16(b[58:], shdrSize)
	// Counts that do not fit are in the null section (gABI, "ELF Header").
	if count < int(elf.SHN_LORESERVE) {
		le.PutUint16(b[60:], uint16(count))
		le.PutUint16(b[62:], uint16(count-1))
	} else {
		le.PutUint16(b[62:], uint16(elf.SHN_XINDEX))
		le.PutUint64(b[sections+32:], uint64(count))
		le.PutUint32(b[sections+40:], uint32(count-1))
	}
	if segments >= 0xffff {
		le.PutUint16(b[56:], 0xffff)
		le.PutUint32(b[sections+44:], uint32(segments))
	}
}

func putSegment(b []byte, s placed, offset int) {
	flags := elf.PF_R
	if s.flags&elf.SHF_WRITE != 0 {
		flags |= elf.PF_W
	}
	if s.flags&elf.SHF_EXECINSTR != 0 {
		flags |= elf.PF_X
	}
	le.PutUint32(b, uint32(elf.PT_LOAD))
	le.PutUint32(b[4:], uint32(flags))
	le.PutUint64(b[8:], uint64(offset))
	le.PutUint64(b[16:], s.addr)
	le.PutUint64(b[24:], s.addr)
	if s.typ != elf.SHT_NOBITS {
		le.PutUint64(b[32:], s.size)
	}
	le.PutUint64(b[40:], s.size)
	le.PutUint64(b[48:], 1)
}

func putSection(b []byte, s placed, name, offset int) {
	le.PutUint32(b, uint32(name))
	le.PutUint32(b[4:], uint32(s.typ))
	le.PutUint64(b[8:], uint64(s.flags))
	le.PutUint64(b[16:], s.addr)
	le.PutUint64(b[24:], uint64(offset))
	le.PutUint64(b[32:], s.size)
	le.PutUint64(b[48:], max(1, s.align))
}
