package resolve

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"strings"

	"livepatch/elfpatch"
)

// An Image is an ELF file as it is mapped. What is said of it comes from
// memory, so that it holds for files that were replaced or deleted since.
type Image struct {
	Path     string // as in the maps, " (deleted)" included
	Base     uint64 // where its ELF header is mapped
	Bias     uint64 // what is added to link-time addresses
	Type     elf.Type
	Machine  elf.Machine
	BuildID  []byte             // nil if it has none
	Segments []elfpatch.Segment // link-time addresses
	Dynamic  uint64             // address of PT_DYNAMIC in memory, 0 if none
}

// Name is the base name of the file.
func (im *Image) Name() string { return path.Base(strings.TrimSuffix(im.Path, " (deleted)")) }

const (
	headerSize  = 64      // of an ELF64 file header
	phdrSize    = 56      // of an ELF64 program header
	maxPhdrs    = 1 << 10 // of an image; real ones have a dozen
	maxNotes    = 1 << 16 // bytes of one PT_NOTE
	noteBuildID = 3       // NT_GNU_BUILD_ID
)

var le = binary.LittleEndian

// Images finds the ELF images among the mappings, in the order of their
// addresses. A file that is merely mapped to be read is not an image: its
// executable segments are not executable in memory.
func Images(mem io.ReaderAt, maps []Mapping) []*Image {
	var list []*Image
	for i := range maps {
		m := &maps[i]
		if m.Offset != 0 || m.Inode == 0 || !m.Read {
			continue
		}
		// Where segments share a page of the file, as lld lays them out, the
		// page with the header is mapped again for a later segment.
		if n := len(list); n > 0 && list[n-1].Path == m.Path && list[n-1].covers(m.Start) {
			continue
		}
		if im, err := readImage(mem, m); err == nil && im.mapped(maps) {
			list = append(list, im)
		}
	}
	return list
}

// covers reports whether an address in memory lies in a page of the image.
func (im *Image) covers(addr uint64) bool {
	const page = 4096
	for _, s := range im.Segments {
		from, to := im.Bias+s.VAddr, im.Bias+s.VAddr+s.MemSize
		if s.Type == elf.PT_LOAD && addr >= from&^(page-1) && addr < to {
			return true
		}
	}
	return false
}

// readImage reads the headers at the start of a mapping.
func readImage(mem io.ReaderAt, m *Mapping) (*Image, error) {
	h := make([]byte, headerSize)
	if err := read(mem, h, m.Start); err != nil {
		return nil, err
	}
	if string(h[:7]) != "\x7fELF\x02\x01\x01" {
		return nil, fmt.Errorf("no ELF64 header")
	}
	im := &Image{Path: m.Path, Base: m.Start, Type: elf.Type(le.Uint16(h[16:])), Machine: elf.Machine(le.Uint16(h[18:]))}
	phoff, size, n := le.Uint64(h[32:]), le.Uint16(h[54:]), int(le.Uint16(h[56:]))
	if im.Type != elf.ET_EXEC && im.Type != elf.ET_DYN || size != phdrSize || n == 0 || n > maxPhdrs || phoff > m.End-m.Start {
		return nil, fmt.Errorf("no program headers")
	}
	table := make([]byte, n*phdrSize)
	if err := read(mem, table, m.Start+phoff); err != nil {
		return nil, err
	}
	im.Segments = parsePhdrs(table)
	if err := im.locate(); err != nil {
		return nil, err
	}
	im.BuildID = im.readBuildID(mem)
	return im, nil
}

func parsePhdrs(b []byte) []elfpatch.Segment {
	var list []elfpatch.Segment
	for ; len(b) >= phdrSize; b = b[phdrSize:] {
		list = append(list, elfpatch.Segment{
			Type: elf.ProgType(le.Uint32(b)), Flags: elf.ProgFlag(le.Uint32(b[4:])),
			Offset: le.Uint64(b[8:]), VAddr: le.Uint64(b[16:]), PAddr: le.Uint64(b[24:]),
			FileSize: le.Uint64(b[32:]), MemSize: le.Uint64(b[40:]), Align: le.Uint64(b[48:]),
		})
	}
	return list
}

// locate computes the load bias from the segment that holds the header.
func (im *Image) locate() error {
	const page = 4096
	found := false
	for _, s := range im.Segments {
		if s.Type == elf.PT_LOAD && s.Offset < page && !found {
			im.Bias, found = im.Base-(s.VAddr-s.Offset), true
		}
	}
	if !found || im.Type == elf.ET_EXEC && im.Bias != 0 {
		return fmt.Errorf("the header is in no segment")
	}
	for _, s := range im.Segments {
		if s.Type == elf.PT_DYNAMIC {
			im.Dynamic = im.Bias + s.VAddr
		}
	}
	return nil
}

// mapped reports whether every executable segment is executable in memory.
func (im *Image) mapped(maps []Mapping) bool {
	for _, s := range im.Segments {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_X == 0 || s.MemSize == 0 {
			continue
		}
		if m := Find(maps, im.Bias+s.VAddr); m == nil || !m.Exec {
			return false
		}
	}
	return true
}

// Contains reports whether a link-time address lies in a loaded segment with
// all of the given flags, and n bytes from there too.
func (im *Image) Contains(addr, n uint64, flags elf.ProgFlag) bool {
	for _, s := range im.Segments {
		if s.Type == elf.PT_LOAD && s.Flags&flags == flags && addr >= s.VAddr && addr-s.VAddr <= s.MemSize && n <= s.MemSize-(addr-s.VAddr) {
			return true
		}
	}
	return false
}

func (im *Image) readBuildID(mem io.ReaderAt) []byte {
	for _, s := range im.Segments {
		if s.Type != elf.PT_NOTE || s.MemSize > maxNotes {
			continue
		}
		b := make([]byte, s.MemSize)
		if read(mem, b, im.Bias+s.VAddr) != nil {
			continue
		}
		if id := findBuildID(b, s.Align); id != nil {
			return id
		}
	}
	return nil
}

// findBuildID walks the notes of a segment (gABI, "Note Section").
func findBuildID(b []byte, align uint64) []byte {
	if align != 8 {
		align = 4
	}
	up := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	for len(b) >= 12 {
		names, desc, typ := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		from := up(12 + names)
		if from > uint64(len(b)) || desc > uint64(len(b))-from {
			return nil
		}
		if typ == noteBuildID && desc > 0 && bytes.Equal(b[12:12+names], []byte("GNU\x00")) {
			return bytes.Clone(b[from : from+desc])
		}
		next := up(from + desc)
		if next > uint64(len(b)) {
			return nil
		}
		b = b[next:]
	}
	return nil
}

// read fills p from addr, entirely or with an error.
func read(mem io.ReaderAt, p []byte, addr uint64) error {
	if addr > 1<<63-1-uint64(len(p)) {
		return fmt.Errorf("read %d bytes at %#x: no such address", len(p), addr)
	}
	if n, err := mem.ReadAt(p, int64(addr)); n != len(p) {
		return fmt.Errorf("read %d bytes at %#x: %w", len(p), addr, err)
	}
	return nil
}

// Digest identifies an image that has no build-id: the SHA-256 of the contents
// of its loaded segments that are not writable, in the order of the program
// headers.
func (im *Image) Digest(mem io.ReaderAt) (sum [32]byte, err error) {
	h := sha256.New()
	for _, s := range im.Segments {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_W != 0 {
			continue
		}
		if _, err := io.Copy(h, io.NewSectionReader(mem, int64(im.Bias+s.VAddr), int64(s.FileSize))); err != nil {
			return sum, fmt.Errorf("read image %s: %w", im.Path, err)
		}
	}
	return [32]byte(h.Sum(nil)), nil
}
