package build

import (
	"debug/elf"
	"io"

	"livepatch/elfpatch"
	"livepatch/internal/unwind"
)

// laidOut is the memory of a file as it would be loaded at its link-time
// addresses.
type laidOut struct{ *elfpatch.File }

func (f laidOut) ReadAt(b []byte, at int64) (int, error) {
	have, ok := f.ReadAddr(uint64(at), len(b))
	if !ok {
		return 0, io.EOF
	}
	return copy(b, have), nil
}

// rules returns what tells how the callers of the target's functions are found:
// nil if the target has no tables for that.
func rules(f *elfpatch.File) func(addr uint64) (unwind.Rules, error) {
	table, err := frameTable(f)
	if table == nil || err != nil {
		return nil // then moved instructions are not described either
	}
	return table.At
}

// frameTable reads the index of frames of a file, or where its linker made none
// (static programs that are not position-independent) the tables themselves.
func frameTable(f *elfpatch.File) (*unwind.Table, error) {
	for _, s := range f.Segments {
		if s.Type == elf.PT_GNU_EH_FRAME {
			return unwind.FromIndex(laidOut{f}, s.VAddr, 0, ^uint64(0))
		}
	}
	if s := f.Section(".eh_frame"); s != nil {
		return unwind.FromSection(laidOut{f}, s.Addr, s.Size, 0, ^uint64(0))
	}
	return nil, nil
}
