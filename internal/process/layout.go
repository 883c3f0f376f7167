package process

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
)

// The parts of a patch's memory, in the order of their addresses. None is ever
// writable and executable.
const (
	partRead  = iota // the record, then constants
	partExec         // code
	partWrite        // variables and slots
	parts
)

const maxPayload = 1 << 30 // bytes of one part, .bss included

// layout is a payload whose sections have places relative to the start of the
// patch's memory.
type layout struct {
	obj    *elfpatch.File
	place  []uint64 // by section: offset from the start; only where placed
	placed []bool
	sizes  [parts]uint64 // whole pages
	spare  [parts]uint64 // offsets of what is kept free at the end of each part
	relocs []relocation
}

// relocation is one field to fill in.
type relocation struct {
	section int
	elfpatch.Rela
}

// layOut places the allocated sections of a payload behind a record of the
// given size, and keeps bytes free behind them.
func layOut(obj *elfpatch.File, record uint64, spare [parts]uint64) (*layout, error) {
	l := &layout{obj: obj, place: make([]uint64, len(obj.Sections)), placed: make([]bool, len(obj.Sections))}
	used := [parts]uint64{partRead: record}
	part := make([]int, len(obj.Sections))
	for i, s := range obj.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		p, err := partOf(s)
		if err != nil {
			return nil, err
		}
		align := max(s.Align, 1)
		if align&(align-1) != 0 || align > pageSize {
			return nil, fmt.Errorf("payload section %s: alignment %d", s.Name, s.Align)
		}
		at := alignUp(used[p], align)
		if s.Size > maxPayload || at > maxPayload {
			return nil, fmt.Errorf("payload section %s: %#x bytes are too many", s.Name, s.Size)
		}
		l.place[i], l.placed[i], part[i] = at, true, p
		used[p] = at + s.Size
	}
	base := uint64(0)
	var starts [parts]uint64
	for p := range used {
		if spare[p] > 0 {
			used[p] = alignUp(used[p], spareAlign)
		}
		l.sizes[p] = alignUp(used[p]+spare[p], pageSize)
		starts[p] = base
		l.spare[p] = base + used[p]
		base += l.sizes[p]
	}
	for i := range l.place {
		l.place[i] += starts[part[i]]
	}
	return l, l.collect()
}

// spareAlign is the alignment of what is kept free: that of the largest types.
const spareAlign = 16

func partOf(s *elfpatch.Section) (int, error) {
	const wx = elf.SHF_WRITE | elf.SHF_EXECINSTR
	switch {
	case s.Flags&elf.SHF_TLS != 0:
		return 0, fmt.Errorf("payload section %s: thread-local variables cannot be added to a running process", s.Name)
	case s.Flags&wx == wx:
		return 0, fmt.Errorf("payload section %s: writable and executable", s.Name)
	case s.Flags&elf.SHF_EXECINSTR != 0:
		return partExec, nil
	case s.Flags&elf.SHF_WRITE != 0:
		return partWrite, nil
	}
	return partRead, nil
}

// collect gathers the relocations of all placed sections.
func (l *layout) collect() error {
	for i, s := range l.obj.Sections {
		if !l.placed[i] {
			continue
		}
		list, err := l.obj.Relocations(s)
		if err != nil {
			return fmt.Errorf("payload: %w", err)
		}
		for _, r := range list {
			info, ok := elfpatch.RelocInfo(l.obj.Machine, r.Type)
			switch {
			case !ok:
				return fmt.Errorf("payload section %s+%#x: %s is not supported", s.Name, r.Offset, elfpatch.RelocName(l.obj.Machine, r.Type))
			case r.Offset > uint64(len(s.Data)) || uint64(info.Size) > uint64(len(s.Data))-r.Offset:
				return fmt.Errorf("payload section %s+%#x: relocation outside the section", s.Name, r.Offset)
			case uint64(r.Symbol) >= uint64(max(len(l.obj.Symbols), 1)):
				return fmt.Errorf("payload section %s+%#x: no symbol %d", s.Name, r.Offset, r.Symbol)
			}
			switch info.Kind {
			case elfpatch.KindNone:
				continue
			case elfpatch.KindData, elfpatch.KindBranch, elfpatch.KindTLS, elfpatch.KindSize:
			default: // what needs a slot was given one when the payload was made
				return fmt.Errorf("payload section %s+%#x: %s is not supported", s.Name, r.Offset, info.Name)
			}
			l.relocs = append(l.relocs, relocation{i, r})
		}
	}
	return nil
}

// size is the bytes of all parts.
func (l *layout) size() uint64 { return l.sizes[0] + l.sizes[1] + l.sizes[2] }

// symbol returns the address of a defined symbol when the patch is at base.
func (l *layout) symbol(name string, base uint64) (addr, size uint64, ok bool) {
	for i := range l.obj.Symbols {
		if s := &l.obj.Symbols[i]; s.Name == name && s.Section != elfpatch.Undefined {
			addr, ok = l.address(s, base)
			return addr, s.Size, ok
		}
	}
	return 0, 0, false
}

func (l *layout) address(s *elfpatch.Symbol, base uint64) (uint64, bool) {
	switch {
	case s.Section == elfpatch.Absolute:
		return s.Value, true
	case s.Section > 0 && s.Section < len(l.placed) && l.placed[s.Section]:
		return base + l.place[s.Section] + s.Value, true
	}
	return 0, false
}

// link returns the bytes of each part with every relocation applied, for a
// patch at base. The record's place is left zero.
func (l *layout) link(base uint64, imports map[string]uint64) ([parts][]byte, error) {
	memory := make([]byte, l.size())
	for i, s := range l.obj.Sections {
		if l.placed[i] {
			copy(memory[l.place[i]:], s.Data)
		}
	}
	for _, r := range l.relocs {
		value, err := l.value(r, base, imports)
		if err == nil {
			at := l.place[r.section] + r.Offset
			err = elfpatch.ApplyReloc(l.obj.Machine, r.Type, memory[at:], base+at, value, r.Addend)
		}
		if err != nil {
			return [parts][]byte{}, fmt.Errorf("payload section %s+%#x: symbol %s: %w", l.obj.Sections[r.section].Name, r.Offset, l.name(r), err)
		}
	}
	var out [parts][]byte
	for p := range out {
		out[p], memory = memory[:l.sizes[p]:l.sizes[p]], memory[l.sizes[p]:]
	}
	return out, nil
}

func (l *layout) name(r relocation) string {
	if int(r.Symbol) >= len(l.obj.Symbols) {
		return "0"
	}
	s := &l.obj.Symbols[r.Symbol]
	if s.Type == elf.STT_SECTION && s.Section > 0 && s.Section < len(l.obj.Sections) {
		return l.obj.Sections[s.Section].Name
	}
	return s.Name
}

// value is what a relocation's symbol stands for.
func (l *layout) value(r relocation, base uint64, imports map[string]uint64) (uint64, error) {
	if r.Symbol == 0 {
		return 0, nil
	}
	s := &l.obj.Symbols[r.Symbol]
	info, _ := elfpatch.RelocInfo(l.obj.Machine, r.Type)
	if info.Kind == elfpatch.KindSize {
		return s.Size, nil
	}
	if s.Section != elfpatch.Undefined {
		if addr, ok := l.address(s, base); ok {
			return addr, nil
		}
		return 0, fmt.Errorf("it is in no section that is loaded")
	}
	if v, ok := imports[s.Name]; ok {
		return v, nil
	}
	if s.Bind == elf.STB_WEAK {
		return 0, nil
	}
	return 0, fmt.Errorf("it is not imported")
}

func alignUp(v, align uint64) uint64 { return (v + align - 1) &^ (align - 1) }
