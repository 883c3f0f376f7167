package elfpatch

import (
	"debug/elf"
	"fmt"
)

// manyRelocs marks a section to which more than one section of relocations
// applies; they are then looked for.
const manyRelocs = -1

// indexRelocations notes which section holds the relocations of which, so
// that asking for all of them stays linear in files of many sections.
func (f *File) indexRelocations() {
	f.relocsOf = make([]int32, len(f.Sections))
	for _, s := range f.Sections {
		f.indexRelocation(s)
	}
}

func (f *File) indexRelocation(s *Section) {
	if !f.holdsRelocations(s) || int(s.Info) >= len(f.relocsOf) {
		return
	}
	if f.relocsOf[s.Info] != 0 {
		f.relocsOf[s.Info] = manyRelocs
	} else {
		f.relocsOf[s.Info] = int32(s.Index)
	}
}

// holdsRelocations tells whether the symbols of the relocations in s are those
// of .symtab. Those of dynamic relocations are not.
func (f *File) holdsRelocations(s *Section) bool {
	return (s.Type == elf.SHT_RELA || s.Type == elf.SHT_REL) && int(s.Link) == f.symtab && s.Info != 0 &&
		(f.Type == elf.ET_REL || s.Flags&elf.SHF_ALLOC == 0)
}

// relocationSections returns the sections whose relocations apply to s.
func (f *File) relocationSections(s *Section) []*Section {
	if s.Index >= len(f.relocsOf) || f.relocsOf[s.Index] == 0 {
		return nil
	}
	if i := f.relocsOf[s.Index]; i > 0 {
		return f.Sections[i : i+1]
	}
	var all []*Section
	for _, r := range f.Sections {
		if f.holdsRelocations(r) && int(r.Info) == s.Index {
			all = append(all, r)
		}
	}
	return all
}

// Relocations returns the relocations that apply to a section, in the order of
// the file. Offsets are offsets in the section in an ET_REL file, addresses in
// linked ones that kept their relocations. Symbol is an index of f.Symbols: a
// file without symbol table has no relocations, not even against symbol 0.
func (f *File) Relocations(s *Section) ([]Rela, error) {
	var all []Rela
	for _, r := range f.relocationSections(s) {
		list, err := f.parseRelocations(r, len(f.Symbols))
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = list
		} else {
			all = append(all, list...)
		}
	}
	// Those of a compressed section count in what is packed, which is not looked at here.
	if f.Type == elf.ET_REL && s.Flags&elf.SHF_COMPRESSED == 0 {
		for i, r := range all {
			if r.Offset > s.Size {
				return nil, malformed("relocations of section "+s.Name, "entry %d: offset %#x exceeds %#x", i, r.Offset, s.Size)
			}
		}
	}
	return all, nil
}

// parseRelocations decodes SHT_RELA, and of SHT_REL what compilers emit on
// these machines: references without a field (.rel.llvm.call-graph-profile).
func (f *File) parseRelocations(s *Section, symbols int) ([]Rela, error) {
	size := relaSize
	if s.Type == elf.SHT_REL {
		size = relSize
	}
	list := make([]Rela, len(s.Data)/size)
	for i := range list {
		b := s.Data[i*size : (i+1)*size]
		r := Rela{Offset: le.Uint64(b), Type: le.Uint32(b[8:]), Symbol: le.Uint32(b[12:])}
		if size == relaSize {
			r.Addend = int64(le.Uint64(b[16:]))
		} else if r.Type != 0 {
			return nil, malformed(fmt.Sprintf("section %s: entry %d", s.Name, i), "relocations without addends are not used on %v", f.Machine)
		}
		if uint64(r.Symbol) >= uint64(symbols) {
			return nil, malformed(fmt.Sprintf("section %s: entry %d", s.Name, i), "symbol index %d, there are %d symbols", r.Symbol, symbols)
		}
		list[i] = r
	}
	return list, nil
}

func encodeRelocations(list []Rela) []byte {
	out := make([]byte, len(list)*relaSize)
	for i, r := range list {
		b := out[i*relaSize:]
		le.PutUint64(b, r.Offset)
		le.PutUint32(b[8:], r.Type)
		le.PutUint32(b[12:], r.Symbol)
		le.PutUint64(b[16:], uint64(r.Addend))
	}
	return out
}

// SetRelocations replaces the relocations that apply to a section. It makes
// the section .rela<name> if there was none, a member of the groups that s is a
// member of.
func (f *File) SetRelocations(s *Section, list []Rela) error {
	for i, r := range list {
		if uint64(r.Symbol) >= uint64(len(f.Symbols)) {
			return fmt.Errorf("set relocations of %s: entry %d: symbol index %d, there are %d symbols", s.Name, i, r.Symbol, len(f.Symbols))
		}
		if f.Type == elf.ET_REL && r.Offset > s.Size {
			return fmt.Errorf("set relocations of %s: entry %d: offset %#x exceeds %#x", s.Name, i, r.Offset, s.Size)
		}
	}
	data := encodeRelocations(list)
	switch old := f.relocationSections(s); {
	case len(old) > 1:
		return fmt.Errorf("set relocations of %s: %d sections apply to it", s.Name, len(old))
	case len(old) == 1 && old[0].Type != elf.SHT_RELA:
		return fmt.Errorf("set relocations of %s: %s has no addends", s.Name, old[0].Name)
	case len(old) == 1:
		old[0].Data, old[0].Size = data, uint64(len(data))
		return nil
	case len(list) == 0:
		return nil
	}
	added := f.AddSection(Section{
		Name: ".rela" + s.Name, Type: elf.SHT_RELA, Flags: elf.SHF_INFO_LINK | s.Flags&elf.SHF_GROUP,
		Link: uint32(f.SymbolTable().Index), Info: uint32(s.Index), Align: 8, EntSize: relaSize, Data: data,
	})
	if s.Flags&elf.SHF_GROUP != 0 {
		f.joinGroups(s.Index, added.Index)
	}
	return nil
}
