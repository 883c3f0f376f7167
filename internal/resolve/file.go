package resolve

import (
	"debug/elf"
	"fmt"
	"io"

	"livepatch/elfpatch"
)

// maxImage bounds the bytes of one image that are copied out of the target.
const maxImage = 1 << 30

// File copies what the dynamic linker reads of an image out of memory and
// gives it the form of a file without section headers, so that elfpatch's
// reader of dynamic tables serves for both. Segments of code stay away unless
// a table lies in them. Addresses in the result are link-time addresses.
func (im *Image) File(mem io.ReaderAt) (*elfpatch.File, error) {
	dyn, at, err := im.readDynamic(mem)
	if err != nil {
		return nil, err
	}
	tables := im.unbias(dyn)
	out := make([]byte, headerSize)
	copy(out, "\x7fELF\x02\x01\x01")
	var phdrs []elfpatch.Segment
	for _, s := range im.Segments {
		if s.Type == elf.PT_LOAD && s.FileSize > 0 {
			phdrs = append(phdrs, s)
		}
	}
	n := len(phdrs)
	if at != 0 {
		n++
	}
	out = append(out, make([]byte, n*phdrSize)...)
	for i := range phdrs {
		s := &phdrs[i]
		if s.Flags&elf.PF_X != 0 && !anyIn(tables, s) {
			s.FileSize = 0
		}
		s.Offset = uint64(len(out))
		if s.FileSize > maxImage || uint64(len(out))+s.FileSize > maxImage {
			return nil, fmt.Errorf("read image %s: a segment of %#x bytes is too large", im.Path, s.FileSize)
		}
		if out, err = appendMemory(out, mem, im.Bias+s.VAddr, s.FileSize); err != nil {
			return nil, fmt.Errorf("read image %s: %w", im.Path, err)
		}
	}
	if at != 0 {
		phdrs = append(phdrs, elfpatch.Segment{Type: elf.PT_DYNAMIC, Offset: uint64(len(out)), VAddr: at,
			FileSize: uint64(len(dyn)), MemSize: uint64(len(dyn))})
		out = append(out, dyn...)
	}
	putHeaders(out, im, phdrs)
	return elfpatch.Parse(out)
}

// appendMemory appends n bytes of memory. It takes room as they turn out to be
// there, not as headers promise them.
func appendMemory(out []byte, mem io.ReaderAt, addr, n uint64) ([]byte, error) {
	const chunk = 1 << 20
	for n > 0 {
		part := min(n, chunk)
		at := len(out)
		out = append(out, make([]byte, part)...)
		if err := read(mem, out[at:], addr); err != nil {
			return nil, err
		}
		addr, n = addr+part, n-part
	}
	return out, nil
}

// readDynamic returns the dynamic section and its link-time address, 0 without.
func (im *Image) readDynamic(mem io.ReaderAt) ([]byte, uint64, error) {
	for _, s := range im.Segments {
		if s.Type != elf.PT_DYNAMIC {
			continue
		}
		if s.MemSize > maxDynamic {
			return nil, 0, fmt.Errorf("read image %s: dynamic section of %#x bytes", im.Path, s.MemSize)
		}
		b := make([]byte, s.MemSize)
		if err := read(mem, b, im.Bias+s.VAddr); err != nil {
			return nil, 0, fmt.Errorf("read image %s: dynamic section: %w", im.Path, err)
		}
		return b, s.VAddr, nil
	}
	return nil, 0, nil
}

// unbias turns the addresses in a dynamic section back into link-time
// addresses, for glibc adds the bias to them in place and musl does not. It
// returns the addresses of the tables.
func (im *Image) unbias(dyn []byte) []uint64 {
	var tables []uint64
	for ; len(dyn) >= 16; dyn = dyn[16:] {
		switch elf.DynTag(le.Uint64(dyn)) {
		case elf.DT_NULL:
			return tables
		case elf.DT_HASH, elf.DT_GNU_HASH, elf.DT_STRTAB, elf.DT_SYMTAB, elf.DT_RELA, elf.DT_REL, elf.DT_JMPREL,
			elf.DT_PLTGOT, elf.DT_VERSYM, elf.DT_VERDEF, elf.DT_VERNEED, dtRelr, elf.DT_INIT, elf.DT_FINI,
			elf.DT_INIT_ARRAY, elf.DT_FINI_ARRAY:
			v := le.Uint64(dyn[8:])
			if im.Bias != 0 && !im.Contains(v, 1, 0) && im.Contains(v-im.Bias, 1, 0) {
				v -= im.Bias
				le.PutUint64(dyn[8:], v)
			}
			tables = append(tables, v)
		}
	}
	return tables
}

const dtRelr = elf.DynTag(36)

func anyIn(addrs []uint64, s *elfpatch.Segment) bool {
	for _, a := range addrs {
		if a >= s.VAddr && a-s.VAddr < s.FileSize {
			return true
		}
	}
	return false
}

func putHeaders(out []byte, im *Image, phdrs []elfpatch.Segment) {
	le.PutUint16(out[16:], uint16(im.Type))
	le.PutUint16(out[18:], uint16(im.Machine))
	le.PutUint32(out[20:], uint32(elf.EV_CURRENT))
	le.PutUint64(out[32:], headerSize)
	le.PutUint16(out[52:], headerSize)
	le.PutUint16(out[54:], phdrSize)
	le.PutUint16(out[56:], uint16(len(phdrs)))
	for i, s := range phdrs {
		b := out[headerSize+i*phdrSize:]
		le.PutUint32(b, uint32(s.Type))
		le.PutUint32(b[4:], uint32(s.Flags))
		for j, v := range []uint64{s.Offset, s.VAddr, s.VAddr, s.FileSize, s.MemSize, s.Align} {
			le.PutUint64(b[8+8*j:], v)
		}
	}
}
