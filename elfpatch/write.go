package elfpatch

import (
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bytes lays the file out anew and returns its contents: fresh string tables,
// a fresh symbol table, new offsets. In a file with segments, what they cover
// stays where it is; sections without an address move behind it. What is
// neither in a section nor in a segment (a signature appended to a module, an
// archive appended to a program) is not kept. The File does not change.
func (f *File) Bytes() ([]byte, error) {
	w, err := f.newWriter()
	if err != nil {
		return nil, err
	}
	// From here on every section of the result is in w.secs, tables included,
	// and section numbers are final.
	if err := w.numberSymbols(); err != nil {
		return nil, err
	}
	// From here on symbol numbers are final, and all that names symbols by
	// number uses them.
	if err := w.fillTables(); err != nil {
		return nil, err
	}
	// From here on every section has its contents and its size.
	if err := w.layOut(); err != nil {
		return nil, err
	}
	return w.emit(), nil
}

// writer is the file on its way to bytes. Sections are copies, so that links
// and contents can be set without touching the File.
type writer struct {
	f        *File
	secs     []Section
	symtab   int
	shndx    int
	shstrtab int
	symbols  []Symbol // in their final order
	sections names    // names of sections; of symbols too if the table is shared
	own      names    // names of symbols, if they have a table of their own
	keep     extents  // what segments demand, from the parsed bytes
	phoff    uint64
	shoff    uint64
}

// newWriter copies the sections and adds the tables that are needed and not
// there.
func (f *File) newWriter() (*writer, error) {
	w := &writer{f: f, symtab: f.symtab, shndx: f.shndx, shstrtab: f.shstrndx}
	w.secs = make([]Section, len(f.Sections), len(f.Sections)+4)
	named := false
	for i, s := range f.Sections {
		if s.Index != i {
			return nil, fmt.Errorf("write: section %s at position %d has index %d", s.Name, i, s.Index)
		}
		if strings.IndexByte(s.Name, 0) >= 0 {
			return nil, fmt.Errorf("write: section %d: a zero in its name %q", i, s.Name)
		}
		w.secs[i] = *s
		named = named || s.Name != ""
		if s.hasData() {
			w.secs[i].Size = uint64(len(s.Data))
		}
	}
	for _, i := range []int{f.symtab, f.shndx, f.shstrndx} {
		if i != 0 && i >= len(w.secs) {
			return nil, fmt.Errorf("write: section %d is gone, it was a table of the file", i)
		}
	}
	if w.symtab == 0 && len(f.Symbols) > 1 {
		w.symtab = w.append(Section{Name: ".symtab", Type: elf.SHT_SYMTAB, Align: 8, EntSize: symbolSize})
		w.secs[w.symtab].Link = uint32(w.append(Section{Name: ".strtab", Type: elf.SHT_STRTAB, Align: 1}))
	}
	if w.symtab != 0 && w.shndx == 0 && w.needsExtended() {
		w.shndx = w.append(Section{
			Name: ".symtab_shndx", Type: elf.SHT_SYMTAB_SHNDX, Link: uint32(w.symtab), Align: 4, EntSize: 4,
		})
	}
	if w.shstrtab == 0 && (named || len(w.secs) > len(f.Sections)) {
		w.shstrtab = w.append(Section{Name: ".shstrtab", Type: elf.SHT_STRTAB, Align: 1})
	}
	return w, nil
}

func (w *writer) append(s Section) int {
	if len(w.secs) == 0 {
		w.secs = append(w.secs, Section{})
	}
	s.Index = len(w.secs)
	w.secs = append(w.secs, s)
	return s.Index
}

func (w *writer) needsExtended() bool {
	return slices.ContainsFunc(w.f.Symbols, func(s Symbol) bool { return s.Section >= int(elf.SHN_LORESERVE) })
}

// numberSymbols puts local symbols first, as the format demands, and rewrites
// the symbol numbers in other sections if that moved any.
func (w *writer) numberSymbols() error {
	if w.symtab == 0 {
		return nil
	}
	for i, s := range w.f.Symbols {
		if s.Section >= len(w.f.Sections) || s.Section < int(elf.SHN_LORESERVE)-0x10000 || s.Section == int(elf.SHN_XINDEX)-0x10000 {
			return fmt.Errorf("write: symbol %d (%s) is in section %d, there are %d", i, s.Name, s.Section, len(w.f.Sections))
		}
		if strings.IndexByte(s.Name, 0) >= 0 {
			return fmt.Errorf("write: symbol %d: a zero in its name %q", i, s.Name)
		}
		if s.Type > 15 || s.Bind > 15 || s.Type < 0 || s.Bind < 0 {
			return fmt.Errorf("write: symbol %d (%s): type %d, binding %d", i, s.Name, s.Type, s.Bind)
		}
	}
	w.symbols = w.f.Symbols
	locals, inOrder := countLocals(w.f.Symbols)
	w.secs[w.symtab].Info = uint32(locals)
	if inOrder {
		return nil
	}
	w.symbols = make([]Symbol, len(w.f.Symbols))
	number := make([]uint32, len(w.f.Symbols))
	nextLocal, nextGlobal := 0, locals
	for i, s := range w.f.Symbols {
		to := &nextGlobal
		if i == 0 || s.Bind == elf.STB_LOCAL {
			to = &nextLocal
		}
		w.symbols[*to], number[i] = s, uint32(*to)
		*to++
	}
	return w.renumber(number)
}

func countLocals(syms []Symbol) (n int, inOrder bool) {
	inOrder = true
	for i, s := range syms {
		if i == 0 || s.Bind == elf.STB_LOCAL { // the null symbol stays, whatever it says
			inOrder = inOrder && n == i
			n++
		}
	}
	return n, inOrder
}

func (w *writer) renumber(number []uint32) error {
	for i := range w.secs {
		s := &w.secs[i]
		if int(s.Link) != w.symtab {
			continue
		}
		at, step := 0, 0
		switch s.Type {
		case elf.SHT_RELA:
			at, step = 12, relaSize
		case elf.SHT_REL:
			at, step = 12, relSize
		case elf.SHT_GROUP:
			if int64(s.Info) >= int64(len(number)) {
				return fmt.Errorf("write: section group %d: its signature is symbol %d, there are %d", i, s.Info, len(number))
			}
			s.Info = number[s.Info]
			continue
		case elf.SHT_SYMTAB_SHNDX:
			continue
		default:
			return fmt.Errorf("write: local symbols follow others, and section %s names symbols in a way that cannot be renumbered", s.Name)
		}
		s.Data = slices.Clone(s.Data)
		for off := at; off < len(s.Data); off += step {
			old := le.Uint32(s.Data[off:])
			if int64(old) >= int64(len(number)) && old != 0 {
				return fmt.Errorf("write: section %s: symbol index %d, there are %d", s.Name, old, len(number))
			}
			le.PutUint32(s.Data[off:], number[old])
		}
	}
	return nil
}

var errStringTable = errors.New("write: the string table of symbols is not a string table")

// fillTables makes the string tables and the symbol table.
func (w *writer) fillTables() error {
	strtab := 0
	if w.symtab != 0 {
		strtab = int(w.secs[w.symtab].Link)
		if strtab <= 0 || strtab >= len(w.secs) || w.secs[strtab].Type != elf.SHT_STRTAB {
			return errStringTable
		}
	}
	symbolNames := &w.own
	if strtab == w.shstrtab {
		symbolNames = &w.sections
	}
	if w.shstrtab != 0 {
		for i := range w.secs {
			w.sections.add(w.secs[i].Name)
		}
	}
	for i := range w.symbols {
		symbolNames.add(w.symbols[i].Name)
	}
	if err := w.fillStrings(w.shstrtab, &w.sections); err != nil {
		return err
	}
	if strtab != w.shstrtab {
		if err := w.fillStrings(strtab, &w.own); err != nil {
			return err
		}
	}
	w.fillSymbols(symbolNames)
	return nil
}

// fillStrings makes one string table. If anything else refers to it by offset,
// or a segment holds it, its contents stay and only grow.
func (w *writer) fillStrings(i int, n *names) error {
	if i == 0 {
		return nil
	}
	s := &w.secs[i]
	if s.Type != elf.SHT_STRTAB {
		return errStringTable
	}
	inSegment := len(w.f.Segments) > 0 && s.Flags&elf.SHF_ALLOC != 0
	others := slices.ContainsFunc(w.secs, func(o Section) bool { return int(o.Link) == i && o.Index != w.symtab })
	if inSegment || others {
		n.fixed = s.Data
	}
	before := len(s.Data)
	s.Data = n.build()
	s.Size = uint64(len(s.Data))
	if s.Size > 1<<32 {
		return fmt.Errorf("write: section %s: %d bytes of names, offsets have 32 bits", s.Name, s.Size)
	}
	if inSegment && len(s.Data) != before {
		return fmt.Errorf("write: section %s is part of a segment and cannot take more names", s.Name)
	}
	return nil
}

func (w *writer) fillSymbols(table *names) {
	if w.symtab == 0 {
		return
	}
	data := make([]byte, len(w.symbols)*symbolSize)
	var extended []byte
	if w.shndx != 0 {
		extended = make([]byte, 4*len(w.symbols))
	}
	for i := range w.symbols {
		s := &w.symbols[i]
		b := data[i*symbolSize:]
		le.PutUint32(b, table.at(s.Name))
		b[4], b[5] = byte(s.Bind)<<4|byte(s.Type), s.Other
		if s.Section >= int(elf.SHN_LORESERVE) {
			le.PutUint16(b[6:], uint16(elf.SHN_XINDEX))
			le.PutUint32(extended[4*i:], uint32(s.Section))
		} else {
			le.PutUint16(b[6:], uint16(s.Section))
		}
		le.PutUint64(b[8:], s.Value)
		le.PutUint64(b[16:], s.Size)
	}
	w.secs[w.symtab].Data, w.secs[w.symtab].Size = data, uint64(len(data))
	if w.shndx != 0 {
		w.secs[w.shndx].Data, w.secs[w.shndx].Size = extended, uint64(len(extended))
	}
}
