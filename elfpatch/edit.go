package elfpatch

import "debug/elf"

// New returns an empty file: a null section and a null symbol. Bytes adds the
// symbol table and the string tables that it needs.
func New(t elf.Type, m elf.Machine) *File {
	return &File{
		Type: t, Machine: m,
		Sections: []*Section{{}},
		Symbols:  []Symbol{{}},
		relocsOf: []int32{0},
	}
}

// Section returns the first section of a name, nil if there is none. It looks
// at all of them in turn.
func (f *File) Section(name string) *Section {
	for _, s := range f.Sections {
		if s.Name == name && s.Index != 0 {
			return s
		}
	}
	return nil
}

// AddSection appends a section, gives it its Index and, unless it is
// SHT_NOBITS, the Size of its Data.
func (f *File) AddSection(s Section) *Section {
	if len(f.Sections) == 0 {
		f.Sections = []*Section{{}}
		f.relocsOf = []int32{0}
	}
	s.Index = len(f.Sections)
	if s.hasData() {
		s.Size = uint64(len(s.Data))
	}
	f.Sections = append(f.Sections, &s)
	f.relocsOf = append(f.relocsOf, 0)
	if s.Type == elf.SHT_SYMTAB && f.symtab == 0 {
		f.symtab = s.Index
	}
	if s.Type == elf.SHT_SYMTAB_SHNDX && f.shndx == 0 {
		f.shndx = s.Index
	}
	f.indexRelocation(&s)
	return f.Sections[s.Index]
}

// AddSymbol appends a symbol and returns its index. Local symbols may follow
// others: Bytes puts them in front, as the format demands, and adjusts
// whatever names symbols by index; indices in this File stay.
func (f *File) AddSymbol(s Symbol) int {
	if len(f.Symbols) == 0 {
		f.Symbols = []Symbol{{}}
	}
	f.Symbols = append(f.Symbols, s)
	return len(f.Symbols) - 1
}

// SymbolTable returns the section of Symbols, which SHT_RELA and SHT_GROUP
// sections are linked to, and adds it with its string table if there is none.
// Bytes fills both.
func (f *File) SymbolTable() *Section {
	if f.symtab == 0 {
		f.AddSection(Section{Name: ".symtab", Type: elf.SHT_SYMTAB, Align: 8, EntSize: symbolSize})
		strtab := f.AddSection(Section{Name: ".strtab", Type: elf.SHT_STRTAB, Align: 1})
		f.Sections[f.symtab].Link = uint32(strtab.Index)
	}
	return f.Sections[f.symtab]
}
