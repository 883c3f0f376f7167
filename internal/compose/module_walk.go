package compose

import (
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"slices"
	"sort"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/kmod"
)

// replacementOf follows a function of the kernel from its replacement, as
// payload.replacementOf does, by way of the tables about the code too.
func (m *module) replacementOf(symbol string) (*replacement, error) {
	s, err := m.replacement(symbol)
	if err != nil {
		return nil, err
	}
	w := &moduleWalk{walk: walk{seen: map[unit]int{}}, m: m}
	w.index(m.unitAt(s.Section, s.Value))
	for i := 0; i < len(w.order); i++ {
		w.unit(w.order[i])
		if m.walked+len(w.text) > maxWalked {
			return nil, fmt.Errorf("what its functions lead to is too much to compare")
		}
	}
	m.walked += len(w.text)
	slices.Sort(w.state)
	return &replacement{sha256.Sum256(w.text), slices.Compact(w.state)}, nil
}

// A moduleWalk is a walk through the object of a module.
type moduleWalk struct {
	walk
	m *module
}

func (w *moduleWalk) unit(u unit) {
	sec := w.m.obj.Sections[u.section]
	w.number(uint64(sec.Flags))
	w.number(u.hi - u.lo)
	if sec.Flags&elf.SHF_WRITE != 0 && !ofPlace(u.name, sec.Name) {
		w.state = append(w.state, plainName(u.name))
	}
	if u.hi <= uint64(len(sec.Data)) {
		w.text = append(w.text, sec.Data[u.lo:u.hi]...)
	}
	list := w.m.rels[u.section]
	i := sort.Search(len(list), func(i int) bool { return list[i].Offset >= u.lo })
	for ; i < len(list) && list[i].Offset < u.hi; i++ {
		w.number(list[i].Offset - u.lo)
		w.number(uint64(list[i].Type))
		w.target(u.section, list[i])
	}
	if isCode(sec) {
		for _, r := range w.m.rowsOf(u) {
			w.number(r.at - u.lo)
			w.row(r)
		}
	}
	w.string("end")
}

// ofPlace reports variables that stand for a place in the code, not for state
// that functions share: each copy of the code has its own in any kernel.
func ofPlace(name, section string) bool {
	return kernel.SpecialStatic(plainName(name)) != nil || kernel.IsOnceSection(section) || kernel.HasPrefix(kernel.SanitizerData, name) != nil
}

// plainName is a name without the number that merging puts behind the second
// of it.
func plainName(name string) string {
	name, _, _ = strings.Cut(name, "#")
	return name
}

// target writes down what a relocation leads to.
func (w *moduleWalk) target(from int, r elfpatch.Rela) {
	s := &w.m.obj.Symbols[r.Symbol]
	switch {
	case s.Section == elfpatch.Undefined:
		w.bound(w.m.spec.Bindings[s.Name], s.Name, r.Addend)
		return
	case w.m.section(s.Section) == nil:
		w.string("absolute")
		w.number(s.Value)
		w.number(uint64(r.Addend))
		return
	case s.Type != elf.STT_SECTION:
		w.symbol(place{s.Section, s.Value}, uint64(r.Addend))
		return
	}
	at, ok := w.m.refersTo(from, r)
	if !ok {
		w.whole(s.Section, uint64(r.Addend))
		return
	}
	w.place(at)
}

// symbol writes down a reference to a function or variable by its name.
func (w *moduleWalk) symbol(at place, addend uint64) {
	if n, ok := w.m.entries[at]; ok {
		w.outside(n, addend)
		return
	}
	u, ok := w.m.covered(at)
	if !ok {
		w.whole(at.section, at.off+addend)
		return
	}
	w.string("own")
	w.number(uint64(w.index(u)))
	w.number(at.off - u.lo)
	w.number(addend)
}

// place writes down a reference to a place of the object.
func (w *moduleWalk) place(at place) {
	if u, ok := w.m.covered(at); ok {
		w.symbol(place{u.section, u.lo}, at.off-u.lo)
		return
	}
	sec := w.m.obj.Sections[at.section]
	if isCode(sec) || sec.Flags&elf.SHF_WRITE != 0 || sec.Type == elf.SHT_NOBITS {
		w.whole(at.section, at.off)
		return
	}
	w.string("literal")
	w.number(uint64(w.index(w.m.literal(at))))
}

// whole takes all of a section for what a reference leads to.
func (w *moduleWalk) whole(section int, off uint64) {
	w.string("section")
	w.number(uint64(w.index(unit{section, 0, w.m.obj.Sections[section].Size, w.m.obj.Sections[section].Name})))
	w.number(off)
}

// bound writes down something of the kernel. A function that the module
// replaces is the same, called directly or not.
func (w *moduleWalk) bound(b kmod.Binding, name string, addend int64) {
	if b.Kind == kmod.Absent {
		w.string("absent " + name)
		w.number(uint64(addend))
		return
	}
	object := b.Object
	if object == "" {
		object = "vmlinux"
	}
	w.outside(kernelName{object, b.Name, b.Pos}, uint64(addend))
}

func (w *moduleWalk) outside(n kernelName, addend uint64) {
	w.string("outside")
	w.string(n.object)
	w.string(n.name)
	w.number(uint64(n.pos))
	w.number(addend)
}

// row writes down an entry of a table: its numbers, less lines of the source,
// and what it leads to.
func (w *moduleWalk) row(r row) {
	sec := w.m.obj.Sections[r.table]
	w.string(sec.Name)
	if r.layout == nil {
		w.whole(r.table, 0)
		return
	}
	size := uint64(0)
	for _, f := range r.layout.Fields {
		b := sec.Data[min(r.off+uint64(f.Off), uint64(len(sec.Data))):min(r.off+uint64(f.Off)+uint64(f.Size), uint64(len(sec.Data)))]
		switch {
		case f.Kind == kernel.FieldReplLen && len(b) > 0:
			size = uint64(b[0])
			w.number(size)
		case !f.Kind.IsRef() && f.Kind != kernel.FieldLine && f.Kind != kernel.FieldPadding:
			w.text = append(w.text, b...)
		}
	}
	list := w.m.rels[r.table]
	i := sort.Search(len(list), func(i int) bool { return list[i].Offset >= r.off })
	for ; i < len(list) && list[i].Offset < r.off+r.layout.Size; i++ {
		w.field(r, list[i], size)
	}
}

// field writes down a reference of an entry.
func (w *moduleWalk) field(r row, rel elfpatch.Rela, size uint64) {
	k := slices.IndexFunc(r.layout.Fields, func(f kernel.Field) bool { return r.off+uint64(f.Off) == rel.Offset })
	if k < 0 || r.layout.Fields[k].Kind == kernel.FieldCode {
		return // the place, which is known
	}
	w.number(rel.Offset - r.off)
	at, ok := w.m.refersTo(r.table, rel)
	if _, covered := w.m.covered(at); r.layout.Fields[k].Kind == kernel.FieldReplacement && ok && !covered && size <= w.m.obj.Sections[at.section].Size-at.off {
		w.string("replacement")
		w.number(uint64(w.index(unit{at.section, at.off, at.off + size, ""})))
		return
	}
	w.target(r.table, rel)
}
