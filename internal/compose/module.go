package compose

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"sort"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/kmod"
	"livepatch/manifest"
)

// A module is the module of a kernel package, made into an object again.
type module struct {
	*code
	spec    kmod.Spec
	entries map[place]kernelName // replacements, by what they replace
	ends    map[place]uint64     // of PC-relative fields of x86-64: where their instruction ends
	bounds  map[int][]uint64     // by section of data: where something begins that is referred to by its place
	rows    map[int][]row        // by section of code: entries of tables about it, in order
	walked  int
}

type place struct {
	section int
	off     uint64
}

// kernelName is how the livepatch core finds a function or variable.
type kernelName struct {
	object, name string
	pos          int
}

// A row is an entry of a table about a place in code.
type row struct {
	at     uint64 // the place
	table  int
	off    uint64
	layout *kernel.Layout
}

// newModule looks at what a module was made from.
func newModule(spec kmod.Spec) (*module, error) {
	c, err := takeApart(spec.Object)
	if err != nil {
		return nil, err
	}
	m := &module{code: c, spec: spec, entries: map[place]kernelName{}, ends: map[place]uint64{}, bounds: map[int][]uint64{}, rows: map[int][]row{}}
	replaces := map[string]kernelName{}
	for _, o := range spec.Objects {
		for _, f := range o.Funcs {
			replaces[f.Replacement] = kernelName{cmp.Or(o.Name, manifest.Vmlinux), f.Name, f.Sympos}
		}
	}
	for i := range c.obj.Symbols {
		s := &c.obj.Symbols[i]
		if n, ok := replaces[s.Name]; ok && s.Section > 0 && s.Type != elf.STT_SECTION {
			m.entries[place{s.Section, s.Value}] = n
		}
	}
	m.readFields()
	m.readBounds()
	m.readRows()
	return m, nil
}

// section returns a section by number, nil for those that are none.
func (m *module) section(i int) *elfpatch.Section {
	if i <= 0 || i >= len(m.obj.Sections) {
		return nil
	}
	return m.obj.Sections[i]
}

func isCode(s *elfpatch.Section) bool { return s != nil && s.Flags&elf.SHF_EXECINSTR != 0 }

// readFields finds the instructions of PC-relative fields: what they refer to
// is counted from the end of the instruction.
func (m *module) readFields() {
	if m.obj.Machine != elf.EM_X86_64 {
		return
	}
	for i, list := range m.units {
		sec := m.obj.Sections[i]
		for _, u := range list {
			if !isCode(sec) || u.hi > uint64(len(sec.Data)) {
				break
			}
			// Code that cannot be read to its end has no fields from there on: what they refer to is not told apart.
			_ = disasm.Walk(m.obj.Machine, sec.Data[u.lo:u.hi], func(off int, in disasm.Inst) bool {
				if in.PCRel.Size > 0 {
					at := u.lo + uint64(off)
					m.ends[place{i, at + uint64(in.PCRel.Off)}] = at + uint64(in.Len)
				}
				return true
			})
		}
	}
}

// refersTo returns the place that a relocation in a section leads to, if it is
// one of the module and can be told.
func (m *module) refersTo(from int, r elfpatch.Rela) (place, bool) {
	if int64(r.Symbol) >= int64(len(m.obj.Symbols)) {
		return place{}, false
	}
	s := &m.obj.Symbols[r.Symbol]
	if m.section(s.Section) == nil {
		return place{}, false
	}
	at := place{s.Section, s.Value + uint64(r.Addend)}
	info, ok := elfpatch.RelocInfo(m.obj.Machine, r.Type)
	if ok && info.PCRel && isCode(m.obj.Sections[from]) && m.obj.Machine == elf.EM_X86_64 {
		end, known := m.ends[place{from, r.Offset}]
		if !known {
			return place{}, false
		}
		at.off += end - r.Offset
	}
	return at, at.off <= m.obj.Sections[at.section].Size
}

// readBounds lists where constants without symbols begin.
func (m *module) readBounds() {
	for from, list := range m.rels {
		for _, r := range list {
			at, ok := m.refersTo(from, r)
			if ok && m.obj.Symbols[r.Symbol].Type == elf.STT_SECTION && !isCode(m.obj.Sections[at.section]) {
				m.bounds[at.section] = append(m.bounds[at.section], at.off)
			}
		}
	}
	for i, list := range m.units {
		for _, u := range list {
			m.bounds[i] = append(m.bounds[i], u.lo)
		}
	}
	for i, list := range m.bounds {
		slices.Sort(list)
		m.bounds[i] = slices.Compact(list)
	}
}

// readRows lists the entries of tables by the code that they are about. Those
// of a table whose form cannot be told are about all of it.
func (m *module) readRows() {
	for i, rels := range m.rels {
		about := kernel.Lookup(m.obj.Machine, m.obj.Sections[i].Name)
		if about == nil || about.Use != kernel.Entries || about.Derived || len(rels) == 0 {
			continue
		}
		var offsets []uint64
		for _, r := range rels {
			offsets = append(offsets, r.Offset)
		}
		sec := m.obj.Sections[i]
		layout, err := kernel.Split(about, sec.Size, sec.EntSize, offsets)
		if err != nil {
			layout = nil
		}
		for _, r := range rels {
			at, ok := m.refersTo(i, r)
			if !ok || !isCode(m.obj.Sections[at.section]) {
				continue
			}
			if layout == nil {
				m.rows[at.section] = append(m.rows[at.section], row{at: at.off, table: i})
			} else if f, has := layout.Field(kernel.FieldCode); has && r.Offset%layout.Size == uint64(f.Off) {
				m.rows[at.section] = append(m.rows[at.section], row{at.off, i, r.Offset - uint64(f.Off), layout})
			}
		}
	}
	for _, list := range m.rows {
		slices.SortFunc(list, func(a, b row) int {
			return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(m.obj.Sections[a.table].Name, m.obj.Sections[b.table].Name), cmp.Compare(a.off, b.off))
		})
	}
}

// rowsOf are the entries about a stretch of code.
func (m *module) rowsOf(u unit) []row {
	list := m.rows[u.section]
	lo := sort.Search(len(list), func(i int) bool { return list[i].at >= u.lo })
	hi := sort.Search(len(list), func(i int) bool { return list[i].at >= u.hi })
	return list[lo:hi]
}

// least is how many bytes of a constant without symbol count at least, where
// it does not look like text: that of the largest that one instruction reads.
const least = 16

// literal returns the stretch of a constant that has no symbol: up to the next
// that is referred to, but all of a text. Zeros at its end may be filler and do not count.
func (m *module) literal(at place) unit {
	sec := m.obj.Sections[at.section]
	list := m.bounds[at.section]
	i, found := slices.BinarySearch(list, at.off)
	if found {
		i++
	}
	end := sec.Size
	if i < len(list) {
		end = list[i]
	}
	if at.off >= uint64(len(sec.Data)) || end > uint64(len(sec.Data)) {
		return unit{at.section, at.off, end, ""}
	}
	if n, ok := textLength(sec.Data[at.off:]); ok {
		end = max(end, at.off+n)
	} else if sec.Data[at.off] != 0 {
		end = max(end, min(at.off+least, sec.Size))
	}
	last := at.off // behind the last field that is relocated
	rels := m.rels[at.section]
	for i := sort.Search(len(rels), func(i int) bool { return rels[i].Offset >= at.off }); i < len(rels) && rels[i].Offset < end; i++ {
		last = rels[i].Offset + 1
	}
	for end > last && sec.Data[end-1] == 0 {
		end--
	}
	return unit{at.section, at.off, end, ""}
}

// textLength reports whether bytes begin with a text, and how long it is with
// its end.
func textLength(b []byte) (uint64, bool) {
	for i, c := range b {
		switch {
		case c == 0:
			return uint64(i) + 1, i > 0
		case c < ' ' && c != '\t' && c != '\n' && c != '\r' && c != 1: // 1: the level of a message
			return 0, false
		}
	}
	return 0, false
}

// covered returns the unit of a place that a symbol covers.
func (m *module) covered(at place) (unit, bool) {
	list := m.units[at.section]
	i := sort.Search(len(list), func(i int) bool { return list[i].hi > at.off })
	if i < len(list) && list[i].lo <= at.off {
		return list[i], true
	}
	return unit{}, false
}

// replacement is the symbol of a replacement.
func (m *module) replacement(name string) (*elfpatch.Symbol, error) {
	for i := range m.obj.Symbols {
		if s := &m.obj.Symbols[i]; s.Name == name && s.Section > 0 && s.Type != elf.STT_SECTION {
			return s, nil
		}
	}
	return nil, fmt.Errorf("the module has no symbol %s", name)
}
