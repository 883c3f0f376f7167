package types

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"livepatch/elfpatch"
)

// maxDebug bounds a section that is unpacked; the whole kernel has about 400 MB
// of .debug_info.
const maxDebug = 1 << 30

// maxWindow bounds the memory for what zstd repeats: RFC 8878, 3.1.1.1.2, advises
// to take windows of 8 MB, and to make none that are larger.
const maxWindow = 8 << 20

// chdrSize is the size of the header of compressed sections (gABI, 4).
const chdrSize = 24

var le = binary.LittleEndian

// contents returns the bytes of a section of an object as a debugger sees them:
// unpacked, and with the references between sections of debug information filled in.
// nil if there is no such section.
func contents(f *elfpatch.File, name string) ([]byte, error) {
	s := f.Section(name)
	if s == nil || s.Type == elf.SHT_NOBITS {
		return nil, nil
	}
	data, err := s.Data, error(nil)
	if s.Flags&elf.SHF_COMPRESSED != 0 {
		if data, err = unpack(s.Data); err != nil {
			return nil, fmt.Errorf("section %s: %w", name, err)
		}
	}
	if f.Type != elf.ET_REL {
		return data, nil
	}
	rels, err := f.Relocations(s)
	if err != nil {
		return nil, err
	}
	return relocated(f, data, rels)
}

// relocated fills in what refers to debug information, and to code and data as
// if their sections stood behind each other (see bases).
func relocated(f *elfpatch.File, data []byte, rels []elfpatch.Rela) ([]byte, error) {
	copied := false
	base := bases(f)
	for i, r := range rels {
		sym := &f.Symbols[r.Symbol]
		if sym.Section <= 0 {
			continue
		}
		info, ok := elfpatch.RelocInfo(f.Machine, r.Type)
		if !ok || info.Kind != elfpatch.KindData || info.PCRel || info.Insn {
			continue
		}
		if r.Offset > uint64(len(data)) || uint64(len(data))-r.Offset < uint64(info.Size) {
			return nil, fmt.Errorf("relocation %d: offset %#x exceeds %#x", i, r.Offset, len(data))
		}
		if !copied {
			data, copied = slices.Clone(data), true
		}
		if err := elfpatch.ApplyReloc(f.Machine, r.Type, data[r.Offset:], 0, base[sym.Section]+sym.Value, r.Addend); err != nil {
			return nil, fmt.Errorf("relocation %d: %w", i, err)
		}
	}
	return data, nil
}

// bases gives each section of an object that is loaded an address of its own.
// The others begin at 0.
func bases(f *elfpatch.File) []uint64 {
	out := make([]uint64, len(f.Sections))
	next := uint64(1)
	for i, s := range f.Sections {
		if f.Type == elf.ET_REL && s.Flags&elf.SHF_ALLOC != 0 {
			out[i] = next
			next += min(s.Size, maxDebug) + 1
		}
	}
	return out
}

// functionNames are the symbols of functions, by address.
func functionNames(f *elfpatch.File) map[uint64][]string {
	out := map[uint64][]string{}
	base := bases(f)
	for _, s := range f.Symbols {
		if s.Type == elf.STT_FUNC && s.Section > 0 {
			out[base[s.Section]+s.Value] = append(out[base[s.Section]+s.Value], s.Name)
		}
	}
	return out
}

// unpack reads a compressed section. Neither form packs zeros tighter than a
// thousand to one by much, so a size beyond that is a lie that nothing is
// allocated for.
func unpack(b []byte) ([]byte, error) {
	if len(b) < chdrSize {
		return nil, errors.New("its compression header is cut off")
	}
	size := le.Uint64(b[8:])
	if size > maxDebug || size > 1<<12*uint64(len(b)) {
		return nil, fmt.Errorf("%d compressed bytes are said to hold %d", len(b), size)
	}
	var r io.Reader
	switch typ := le.Uint32(b); typ {
	case 1: // ELFCOMPRESS_ZLIB
		z, err := zlib.NewReader(bytes.NewReader(b[chdrSize:]))
		if err != nil {
			return nil, err
		}
		r = z
	case 2: // ELFCOMPRESS_ZSTD
		z, err := zstd.NewReader(bytes.NewReader(b[chdrSize:]), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(maxDebug), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("compression %d is not known", typ)
	}
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, int64(size)+1))
	if err != nil {
		return nil, err
	}
	if uint64(n) != size {
		return nil, fmt.Errorf("it holds %d bytes or more, not %d", n, size)
	}
	return out.Bytes(), nil
}
