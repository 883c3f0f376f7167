package elfpatch

import (
	"debug/elf"
	"fmt"
)

// parseSymbols reads the symbol table, if there is one.
func (f *File) parseSymbols() error {
	for _, s := range f.Sections {
		if s.Type != elf.SHT_SYMTAB {
			continue
		}
		if f.symtab != 0 {
			return malformed(fmt.Sprintf("section header %d", s.Index), "a second symbol table")
		}
		f.symtab = s.Index
	}
	if f.symtab == 0 {
		return nil
	}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_SYMTAB_SHNDX && int(s.Link) == f.symtab {
			f.shndx = s.Index
			break
		}
	}
	tab := f.Sections[f.symtab]
	names, err := f.stringTable(int(tab.Link))
	if err != nil {
		return err
	}
	var extended []byte
	if f.shndx != 0 {
		extended = f.Sections[f.shndx].Data
	}
	f.Symbols, err = parseSymbolTable(tab, names, extended, len(f.Sections))
	if f.Symbols == nil {
		f.Symbols = []Symbol{}
	}
	return err
}

// anySection is for tables whose section numbers mean nothing.
const anySection = 0

// parseSymbolTable decodes SHT_SYMTAB or SHT_DYNSYM contents. Section numbers
// are to be below sections, unless that is anySection.
func parseSymbolTable(tab *Section, names *stringTable, extended []byte, sections int) ([]Symbol, error) {
	n := len(tab.Data) / symbolSize
	syms := make([]Symbol, n)
	for i := range syms {
		b := tab.Data[i*symbolSize : (i+1)*symbolSize]
		where := func() string { return fmt.Sprintf("section %s: symbol %d", tab.Name, i) }
		name, err := names.at(le.Uint32(b))
		if err != nil {
			return nil, malformed(where(), "its name: %v", err)
		}
		sec := int(le.Uint16(b[6:]))
		switch {
		case sec == int(elf.SHN_XINDEX):
			if len(extended) < 4*(i+1) {
				return nil, malformed(where(), "no extended section number")
			}
			sec = int(le.Uint32(extended[4*i:]))
		case sec >= int(elf.SHN_LORESERVE):
			sec -= 0x10000
		}
		if sections != anySection && sec >= sections {
			return nil, malformed(where(), "section %d, there are %d", sec, sections)
		}
		syms[i] = Symbol{
			Name: name, Type: elf.SymType(b[4] & 15), Bind: elf.SymBind(b[4] >> 4), Other: b[5],
			Section: sec, Value: le.Uint64(b[8:]), Size: le.Uint64(b[16:]),
		}
	}
	return syms, nil
}
