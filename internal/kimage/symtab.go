package kimage

import (
	"cmp"
	"debug/elf"
	"slices"
	"sort"

	"livepatch/elfpatch"
)

// elfAnchors is what an ELF image says beside its symbol table.
func (k *Kernel) elfAnchors(t *rawTable) anchors {
	places := newPlaces(k.File)
	return anchors{
		base: func(at int) (uint64, bool) {
			if v, ok := k.pointers[t.in.addr+uint64(at)]; ok {
				return v, true
			}
			v := le.Uint64(t.in.data[at:])
			return v, v != 0
		},
		code: func(addr uint64) bool {
			s := places.section(addr)
			return s != nil && s.Flags&elf.SHF_EXECINSTR != 0
		},
	}
}

// places finds the section of an address.
type places struct{ sections []*elfpatch.Section }

func newPlaces(f *elfpatch.File) *places {
	p := &places{}
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && s.Size > 0 {
			p.sections = append(p.sections, s)
		}
	}
	slices.SortStableFunc(p.sections, func(a, b *elfpatch.Section) int { return cmp.Compare(a.Addr, b.Addr) })
	return p
}

// section returns the section that an address is in or directly behind, nil
// without one.
func (p *places) section(addr uint64) *elfpatch.Section {
	i := sort.Search(len(p.sections), func(i int) bool { return p.sections[i].Addr > addr }) - 1
	if i < 0 || addr-p.sections[i].Addr > p.sections[i].Size {
		return nil
	}
	return p.sections[i]
}

// symtab makes the symbol table of a file from its kallsyms.
func symtab(f *elfpatch.File, syms []Symbol) []elfpatch.Symbol {
	places := newPlaces(f)
	out := make([]elfpatch.Symbol, 1, len(syms)+1)
	for _, s := range syms {
		out = append(out, elfSymbol(s, places.section(s.Addr)))
	}
	return out
}

// elfSymbol says in terms of ELF what nm's letter does: upper case is global,
// w and v are weak, a is absolute. What the letter does not tell is whether a
// symbol in code is a function; labels in assembler count as functions.
func elfSymbol(s Symbol, in *elfpatch.Section) elfpatch.Symbol {
	out := elfpatch.Symbol{Name: s.Name, Value: s.Addr, Size: s.Size, Bind: elf.STB_LOCAL, Type: elf.STT_OBJECT, Section: elfpatch.Absolute}
	if s.Type >= 'A' && s.Type <= 'Z' {
		out.Bind = elf.STB_GLOBAL
	}
	switch s.Type {
	case 'w', 'W', 'v', 'V':
		out.Bind = elf.STB_WEAK
	}
	if in == nil {
		out.Type, out.Size = elf.STT_NOTYPE, 0
		return out
	}
	out.Section = in.Index
	out.Size = min(s.Size, in.Addr+in.Size-s.Addr)
	switch s.Type {
	case 't', 'T', 'w', 'W':
		if in.Flags&elf.SHF_EXECINSTR != 0 {
			out.Type = elf.STT_FUNC
		}
	}
	return out
}
