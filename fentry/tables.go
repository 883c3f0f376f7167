package fentry

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// Table is one table about code that a kernel's file holds.
type Table struct {
	Section string `json:"section"`          // its name in objects; a linked kernel marks it by symbols
	Entries int    `json:"entries"`          // without empty ones
	Stride  int    `json:"stride,omitempty"` // bytes of an entry, 0 if it could not be told
	By      string `json:"by,omitempty"`     // what told the stride: "format", "entsize", "types", "pattern"
	Empty   int    `json:"empty,omitempty"`  // entries that are zero: filler, or removed by the build
	Outside int    `json:"outside"`          // entries that lead into no function; of the table of ftrace: to the entry of none
	Problem string `json:"problem,omitempty"`
}

// What told the stride of a table.
const (
	byFormat  = "format"  // all versions of it have the same
	byEntSize = "entsize" // the section header
	byTypes   = "types"   // the type information of the kernel
	byPattern = "pattern" // of all known, the only one with which every entry names code
)

// Entries are the entries of a table that lie in a function.
type Entries struct {
	Table string   `json:"table"`
	At    []uint64 `json:"at"` // the places in the function, ascending
}

// tableData is a table with the places that its entries lead to.
type tableData struct {
	Table
	at [][]int // per text, ascending
}

// le64 and le32 read a word.
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Tables returns the tables about code of a kernel's file, in a fixed order;
// none for other files.
func (fd *Finder) Tables() []Table {
	if fd.kernel == nil {
		return nil
	}
	all := []Table{}
	for i := range fd.kernel.tables {
		all = append(all, fd.kernel.tables[i].Table)
	}
	return all
}

// readTables reads all tables but says of those that it does not understand
// what is wrong.
func (fd *Finder) readTables() error {
	rows := slices.Clone(kernel.Tables)
	rows = append(rows, fd.kernel.extra...)
	for i := range rows {
		row := &rows[i]
		d := tableData{Table: Table{Section: row.Section}, at: make([][]int, len(fd.texts))}
		found, err := false, error(nil)
		if fd.file.Type == elf.ET_REL {
			found, err = fd.readObjectTable(row, &d)
		} else {
			found = fd.readLinkedTable(row, &d)
		}
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		for n := range d.at {
			slices.Sort(d.at[n])
			d.Outside += fd.countOutside(n, d.at[n], row.Section == patchableTable)
		}
		fd.kernel.tables = append(fd.kernel.tables, d)
	}
	return nil
}

// countOutside counts the places of a text that no function contains. In the
// table of call padding they may stand before one.
func (fd *Finder) countOutside(text int, at []int, padding bool) int {
	t, n := &fd.texts[text], 0
	for _, off := range at {
		_, ok := t.containing(off)
		if next := t.next(off); !ok && !(padding && next < len(t.bytes) && next-off <= maxPrefix) {
			n++
		}
	}
	return n
}

// place notes where an entry leads.
func (d *tableData) place(p place, ok bool) {
	d.Entries++
	if !ok {
		d.Outside++
		return
	}
	d.at[p.text] = append(d.at[p.text], p.off)
}

// readLinkedTable reads a table of a linked file: the section of its name, or
// what lies between its symbols.
func (fd *Finder) readLinkedTable(row *kernel.Table, d *tableData) bool {
	start, ok := fd.kernel.symbols[row.Start]
	stop, ended := fd.kernel.symbols[row.Stop]
	data, entsize := []byte(nil), uint64(0)
	if s := fd.linkedSection(row.Section); s != nil {
		start, data, entsize = s.Addr, s.Data, s.EntSize
	} else if !ok || !ended || start > stop {
		return false
	} else if start < stop {
		if data, ok = fd.between(start, stop); !ok {
			d.Problem = fmt.Sprintf("the file holds nothing at %#x", start)
			return true
		}
	}
	fd.decodeLinked(row, d, linkedTable{start, data, entsize})
	return true
}

func (fd *Finder) linkedSection(name string) *elfpatch.Section {
	s := fd.file.Section(name)
	if s == nil || s.Type == elf.SHT_NOBITS || s.Addr == 0 && fd.kernel.image {
		return nil
	}
	return s
}

// linkedTable is a table in a linked file.
type linkedTable struct {
	addr    uint64
	data    []byte
	entsize uint64
}

// decodeLinked reads the entries of a linked table.
func (fd *Finder) decodeLinked(row *kernel.Table, d *tableData, lt linkedTable) {
	if len(lt.data) == 0 {
		return
	}
	var fits []kernel.Layout
	layouts := row.Layouts(fd.machine)
	stray := 0 // entries that may lead elsewhere
	if sizes(layouts) == 1 {
		stray = len(lt.data) / int(layouts[0].Size) / strayShare
	}
	for _, l := range layouts {
		if fd.fitsLinked(&l, lt, stray) {
			fits = append(fits, l)
		}
	}
	l, by, problem := fd.pick(row, layouts, fits, lt.entsize)
	if problem != "" {
		d.Problem = fmt.Sprintf("%d bytes: %s", len(lt.data), problem)
		return
	}
	d.Stride, d.By = int(l.Size), by
	fd.eachLinked(&l, lt, func(addr uint64) bool {
		if addr == 0 {
			d.Empty++
			return true
		}
		d.place(fd.locate(0, addr))
		return true
	})
}

// sizes counts the sizes that entries of some forms have. Forms of one size
// differ in fields that do not matter here.
func sizes(layouts []kernel.Layout) int {
	different := map[uint64]bool{}
	for _, l := range layouts {
		different[l.Size] = true
	}
	return len(different)
}

// divides says whether entries of a layout fill the bytes.
func divides(l *kernel.Layout, size uint64) bool {
	rest := size % l.Size
	return rest == 0 || l.Short != 0 && rest >= l.Short
}

// strayShare is how small a part of a table that has one known form may lead
// out of the text: unwind tables also name the ends of texts.
const strayShare = 16

// fitsLinked says whether every entry of a layout, but for some stray ones,
// would lead into text.
func (fd *Finder) fitsLinked(l *kernel.Layout, lt linkedTable, stray int) bool {
	if !divides(l, uint64(len(lt.data))) {
		return false
	}
	return fd.eachLinked(l, lt, func(addr uint64) bool {
		if _, ok := fd.locate(0, addr); !ok && addr != 0 {
			stray--
		}
		return stray >= 0
	})
}

// eachLinked calls fn with where each entry leads, 0 for an empty entry, until
// it answers false.
func (fd *Finder) eachLinked(l *kernel.Layout, lt linkedTable, fn func(addr uint64) bool) bool {
	code, ok := l.Field(kernel.FieldCode)
	if !ok {
		return false
	}
	for off := 0; off+int(code.Off)+int(code.Size) <= len(lt.data); off += int(l.Size) {
		at := lt.addr + uint64(off) + uint64(code.Off)
		addr, field := uint64(0), lt.data[off+int(code.Off):]
		if code.Size == 8 {
			addr, ok = fd.kernel.relative[at]
			if !ok {
				addr = le64(field)
			}
		} else if v := int32(le32(field)); v != 0 {
			addr = at + uint64(int64(v))
		}
		if !fn(addr) {
			return false
		}
	}
	return true
}

// pick chooses the layout of a table among those that fit.
func (fd *Finder) pick(row *kernel.Table, all, fits []kernel.Layout, entsize uint64) (kernel.Layout, string, string) {
	if size, ok := fd.structSize(row.Struct); ok && sizes(all) > 1 {
		for _, l := range fits {
			if l.Size == size {
				return l, byTypes, ""
			}
		}
		return kernel.Layout{}, "", fmt.Sprintf("entries of %d bytes, as the types say, do not fit", size)
	}
	switch {
	case len(fits) == 0:
		return kernel.Layout{}, "", "no known form of entries fits"
	case sizes(all) == 1:
		return fits[0], byFormat, ""
	}
	for _, l := range fits {
		if l.Size == entsize {
			return l, byEntSize, ""
		}
	}
	for _, l := range fits {
		if l.Size != fits[0].Size {
			return kernel.Layout{}, "", fmt.Sprintf("entries of %d and of %d bytes fit", fits[0].Size, l.Size)
		}
	}
	return fits[0], byPattern, ""
}

func (fd *Finder) structSize(name string) (uint64, bool) {
	if name == "" || fd.opt.StructSize == nil {
		return 0, false
	}
	return fd.opt.StructSize(name)
}

// maxTableRelocs bounds what the tables of an object may hold together.
const maxTableRelocs = 1 << 24

// readObjectTable reads the sections of a name in an object.
func (fd *Finder) readObjectTable(row *kernel.Table, d *tableData) (bool, error) {
	found := false
	for _, s := range fd.file.Sections {
		if s.Name != row.Section || s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_RELA {
			continue
		}
		found = true
		list, err := fd.file.Relocations(s)
		if err != nil {
			return false, err
		}
		if fd.tableRelocs += len(list); fd.tableRelocs > maxTableRelocs {
			return false, malformed("section "+s.Name, "the tables have more than %d relocations", maxTableRelocs)
		}
		if len(s.Data) > 0 {
			fd.decodeObject(row, d, s, list)
		}
	}
	return found, nil
}

// decodeObject reads the entries of one section of an object: each begins with
// a relocation.
func (fd *Finder) decodeObject(row *kernel.Table, d *tableData, s *elfpatch.Section, list []elfpatch.Rela) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b elfpatch.Rela) int { return cmp.Compare(a.Offset, b.Offset) })
	var fits []kernel.Layout
	layouts := row.Layouts(fd.machine)
	for _, l := range layouts {
		if fd.fitsObject(&l, s, list) {
			fits = append(fits, l)
		}
	}
	l, by, problem := fd.pick(row, layouts, fits, s.EntSize)
	if problem != "" {
		d.Problem = fmt.Sprintf("%d bytes: %s", len(s.Data), problem)
		return
	}
	d.Stride, d.By = int(l.Size), by
	fd.eachObject(&l, s, list, func(r elfpatch.Rela, ok bool) bool {
		if !ok {
			d.Empty++
			return true
		}
		d.place(fd.symbolPlace(r, r.Addend))
		return true
	})
}

// fitsObject says whether the relocations lie where the references of a layout
// are, and are of their size: in each entry that has any, the first one where
// it names code, and all others that it must have.
func (fd *Finder) fitsObject(l *kernel.Layout, s *elfpatch.Section, list []elfpatch.Rela) bool {
	code, ok := l.Field(kernel.FieldCode)
	if !ok || !divides(l, uint64(len(s.Data))) {
		return false
	}
	must := 0
	for _, f := range l.Fields {
		if f.Kind.IsRef() && !f.Optional {
			must++
		}
	}
	entry, have := ^uint64(0), must
	for _, r := range list {
		if r.Type == 0 {
			continue // R_*_NONE
		}
		off := r.Offset % l.Size
		if n := r.Offset / l.Size; n != entry {
			if have < must || off != uint64(code.Off) {
				return false
			}
			entry, have = n, 0
		}
		i := slices.IndexFunc(l.Fields, func(f kernel.Field) bool { return f.Kind.IsRef() && uint64(f.Off) == off })
		info, known := elfpatch.RelocInfo(fd.machine, r.Type)
		if i < 0 || !known || info.Size != int(l.Fields[i].Size) {
			return false
		}
		if !l.Fields[i].Optional {
			have++
		}
	}
	return have >= must
}

// eachObject calls fn with the relocation of each entry's code field.
func (fd *Finder) eachObject(l *kernel.Layout, s *elfpatch.Section, list []elfpatch.Rela, fn func(elfpatch.Rela, bool) bool) {
	code, ok := l.Field(kernel.FieldCode)
	if !ok {
		return
	}
	for off := uint64(0); off < uint64(len(s.Data)); off += l.Size {
		at := off + uint64(code.Off)
		i := sort.Search(len(list), func(i int) bool { return list[i].Offset >= at })
		hit := i < len(list) && list[i].Offset == at
		r := elfpatch.Rela{}
		if hit {
			r = list[i]
		}
		if !fn(r, hit) {
			return
		}
	}
}

// entriesIn returns what tables name in a function, up to where the next one
// begins; site is the place before or in it that the table of ftrace names, or
// -1.
func (fd *Finder) entriesIn(s *Start, site int) []Entries {
	var all []Entries
	t := &fd.texts[s.text]
	end := min(s.off+int(s.Size), t.next(s.off))
	for i := range fd.kernel.tables {
		d := &fd.kernel.tables[i]
		list, from := d.at[s.text], s.off
		if fd.isFtraceTable(d.Section) && site >= 0 && site < s.off {
			from = site
		}
		n := sort.SearchInts(list, from)
		m := n + sort.SearchInts(list[n:], end)
		if n == m || d.Section == unwindTable {
			continue
		}
		e := Entries{Table: d.Section}
		for _, off := range list[n:m] {
			e.At = append(e.At, t.at(off))
		}
		all = append(all, e)
	}
	return all
}

// unwindTable describes all code and no place in it.
const unwindTable = ".orc_unwind_ip"
