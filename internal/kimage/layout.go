package kimage

import (
	"debug/elf"
	"errors"
	"fmt"
	"strings"

	"livepatch/elfpatch"
)

// UndefinedSection is the section of a laid-out module in which its undefined
// symbols stand.
const UndefinedSection = ".undefined"

const (
	// Modules are put where kernels put them, so that addresses fit their fields:
	// Documentation/arch/x86/x86_64/mm.rst, "module mapping space"; on arm64 32-bit
	// fields are relative.
	moduleBaseX86   = 0xffffffffc0000000
	moduleBaseARM64 = 0xffff800008000000
	// maxModule bounds what a laid-out module may have; arm64 branches reach 128 MiB.
	maxModule     = 256 << 20
	undefinedSize = 16 // bytes that an undefined symbol gets
	sectionUnit   = 16
	maxAlign      = 1 << 16
)

// layOut makes a linked file of a module: its loaded sections one after
// another, code first, and one without contents for undefined symbols.
func layOut(f *elfpatch.File) (*elfpatch.File, error) {
	at := uint64(moduleBaseX86)
	if f.Machine == elf.EM_AARCH64 {
		at = moduleBaseARM64
	}
	l := layout{f: f, addr: make([]uint64, len(f.Sections)), index: make([]int, len(f.Sections)), base: at}
	if err := l.placeAll(at); err != nil {
		return nil, err
	}
	for i := range l.out {
		if err := l.relocate(&l.out[i], l.from[i]); err != nil {
			return nil, err
		}
	}
	linked, err := linkedFile(f.Machine, l.out)
	if err != nil {
		return nil, err
	}
	linked.Symbols = l.symbols
	return linked, nil
}

// layout is a module being laid out.
type layout struct {
	f       *elfpatch.File
	base    uint64
	addr    []uint64 // by section of f
	index   []int    // its number in the linked file, 0 if it is not loaded
	out     []placed
	from    []*elfpatch.Section // what out was made of, nil for that of undefined symbols
	symbols []elfpatch.Symbol
}

// groups is the order of sections.
var groups = []func(s *elfpatch.Section) bool{
	func(s *elfpatch.Section) bool { return s.Flags&elf.SHF_EXECINSTR != 0 && !isInit(s.Name) },
	func(s *elfpatch.Section) bool { return s.Flags&elf.SHF_EXECINSTR != 0 },
	func(s *elfpatch.Section) bool { return s.Flags&elf.SHF_WRITE == 0 },
	func(*elfpatch.Section) bool { return true },
}

func (l *layout) placeAll(at uint64) error {
	done := make([]bool, len(l.f.Sections))
	for _, in := range groups {
		for i, s := range l.f.Sections {
			if s.Flags&elf.SHF_ALLOC == 0 || done[i] || !in(s) || s.Type == elf.SHT_RELA || s.Type == elf.SHT_REL {
				continue
			}
			done[i] = true
			align := max(s.Align, sectionUnit)
			if align > maxAlign || align&(align-1) != 0 {
				return fmt.Errorf("section %s: its alignment is %d", s.Name, s.Align)
			}
			at = (at + align - 1) &^ (align - 1)
			if s.Size > maxModule || at+s.Size-l.base > maxModule {
				return fmt.Errorf("section %s: the module takes more than %d bytes", s.Name, maxModule)
			}
			l.addr[i], l.index[i] = at, len(l.out)+1
			l.out = append(l.out, placed{name: s.Name, typ: s.Type, flags: s.Flags & (rx | rw), addr: at, size: s.Size, align: align, data: s.Data})
			l.from = append(l.from, s)
			at += s.Size
		}
	}
	return l.placeSymbols((at + sectionUnit - 1) &^ (sectionUnit - 1))
}

// placeSymbols gives every symbol its address; undefined ones stand behind the
// sections, from start.
func (l *layout) placeSymbols(start uint64) error {
	at, number := start, len(l.out)+1
	l.symbols = make([]elfpatch.Symbol, len(l.f.Symbols))
	for i, s := range l.f.Symbols {
		switch {
		case i == 0 || s.Section == elfpatch.Absolute:
		case s.Section > 0 && s.Section < len(l.addr):
			if s.Value > l.f.Sections[s.Section].Size {
				return fmt.Errorf("symbol %s: it is outside of its section", s.Name)
			}
			s.Value += l.addr[s.Section]
			if s.Section = l.index[s.Section]; s.Section == 0 {
				s.Section = elfpatch.Absolute // of a section that is not loaded
			}
		default: // undefined, common, or of a livepatch
			s.Section, s.Value = number, at
			at += undefinedSize
		}
		l.symbols[i] = s
	}
	if at-l.base > maxModule {
		return errors.New("it has too many undefined symbols")
	}
	if at > start {
		l.out = append(l.out, placed{name: UndefinedSection, typ: elf.SHT_NOBITS, flags: rx | elf.SHF_WRITE, addr: start, size: at - start})
		l.from = append(l.from, nil)
	}
	return nil
}

// relocate applies the relocations of a section to a copy of its contents.
func (l *layout) relocate(p *placed, s *elfpatch.Section) error {
	if s == nil || s.Type == elf.SHT_NOBITS {
		return nil
	}
	rels, err := l.f.Relocations(s)
	if err != nil || len(rels) == 0 {
		return err
	}
	data := append([]byte(nil), s.Data...)
	for _, r := range rels {
		info, ok := elfpatch.RelocInfo(l.f.Machine, r.Type)
		if !ok || info.Kind != elfpatch.KindNone && info.Kind != elfpatch.KindData && info.Kind != elfpatch.KindBranch {
			return fmt.Errorf("section %s+%#x: %s is not used in modules", s.Name, r.Offset, elfpatch.RelocName(l.f.Machine, r.Type))
		}
		if info.Kind == elfpatch.KindNone {
			continue
		}
		if r.Offset > uint64(len(data)) || uint64(info.Size) > uint64(len(data))-r.Offset {
			return fmt.Errorf("section %s+%#x: the field of %s is outside of the section", s.Name, r.Offset, info.Name)
		}
		value := l.symbols[r.Symbol].Value
		if err := elfpatch.ApplyReloc(l.f.Machine, r.Type, data[r.Offset:], p.addr+r.Offset, value, r.Addend); err != nil {
			// Weak symbols that nobody defines are 0 when the kernel loads the module, which
			// may not fit here either.
			if sym := l.f.Symbols[r.Symbol]; sym.Bind == elf.STB_WEAK && sym.Section == elfpatch.Undefined {
				continue
			}
			return fmt.Errorf("section %s+%#x: %s: %w", s.Name, r.Offset, strings.TrimSpace(l.f.Symbols[r.Symbol].Name), err)
		}
	}
	p.data = data
	return nil
}
