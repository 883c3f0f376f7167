// Package compose compares and merges packages that are made already. It tells
// functions apart by their replacements: the code, and everything of the
// payload that the code leads to.
package compose

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"

	"livepatch/elfpatch"
	"livepatch/manifest"
)

// A payload is the patch object of a target, taken apart.
type payload struct {
	*code
	target  *manifest.Target
	imports map[string]*manifest.Import
	entries map[int]uint64 // symbols that are replacements: the address of what they replace
	walked  int            // bytes, by all walks
}

// maxWalked bounds the work for a payload whose functions all lead to all of it.
const maxWalked = 1 << 30

// open takes a payload apart.
func open(t *manifest.Target, data []byte) (*payload, error) {
	obj, err := elfpatch.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.Payload.Member, err)
	}
	c, err := takeApart(obj)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.Payload.Member, err)
	}
	p := &payload{code: c, target: t, imports: map[string]*manifest.Import{}, entries: map[int]uint64{}}
	for i := range t.Imports {
		p.imports[t.Imports[i].Symbol] = &t.Imports[i]
	}
	replaces := map[string]uint64{}
	for _, f := range t.Functions {
		replaces[f.Replacement] = f.Address
	}
	for i := range obj.Symbols {
		s := &obj.Symbols[i]
		if addr, ok := replaces[s.Name]; ok && s.Section > 0 {
			p.entries[i] = addr
		}
	}
	return p, nil
}

// A replacement is what stands for a function in a payload.
type replacement struct {
	digest [sha256.Size]byte // of its code and all that it leads to
	state  []string          // variables of the payload among that, by name
}

// replacementOf follows a function of the target from its replacement. Other
// functions of the target that it refers to stand for themselves, whether the
// payload replaces them too or not: which code they have is asked of them.
func (p *payload) replacementOf(f *manifest.Function) (*replacement, error) {
	root := slices.IndexFunc(p.obj.Symbols, func(s elfpatch.Symbol) bool {
		return s.Name == f.Replacement && s.Section > 0 && s.Section < len(p.obj.Sections)
	})
	if root < 0 {
		return nil, fmt.Errorf("%s has no symbol %s", p.target.Payload.Member, f.Replacement)
	}
	w := &walk{p: p, seen: map[unit]int{}}
	sym := &p.obj.Symbols[root]
	w.index(p.unitAt(sym.Section, sym.Value))
	for i := 0; i < len(w.order); i++ {
		if err := w.unit(w.order[i]); err != nil {
			return nil, err
		}
		if p.walked+len(w.text) > maxWalked {
			return nil, fmt.Errorf("%s: what its functions lead to is too much to compare", p.target.Payload.Member)
		}
	}
	p.walked += len(w.text)
	slices.Sort(w.state)
	return &replacement{sha256.Sum256(w.text), slices.Compact(w.state)}, nil
}

// A walk writes down what it comes across, in an order that depends on nothing
// but the code.
type walk struct {
	p     *payload
	seen  map[unit]int
	order []unit
	text  []byte
	state []string
}

func (w *walk) index(u unit) int {
	i, ok := w.seen[u]
	if !ok {
		i = len(w.order)
		w.seen[u] = i
		w.order = append(w.order, u)
	}
	return i
}

func (w *walk) number(n uint64) { w.text = binary.LittleEndian.AppendUint64(w.text, n) }

func (w *walk) string(s string) {
	w.number(uint64(len(s)))
	w.text = append(w.text, s...)
}

func (w *walk) unit(u unit) error {
	sec := w.p.obj.Sections[u.section]
	w.number(uint64(sec.Flags))
	w.number(u.hi - u.lo)
	if sec.Flags&elf.SHF_WRITE != 0 {
		w.state = append(w.state, u.name)
	}
	if u.hi <= uint64(len(sec.Data)) {
		w.text = append(w.text, sec.Data[u.lo:u.hi]...)
	}
	list := w.p.rels[u.section]
	i := sort.Search(len(list), func(i int) bool { return list[i].Offset >= u.lo })
	for ; i < len(list) && list[i].Offset < u.hi; i++ {
		r := list[i]
		w.number(r.Offset - u.lo)
		w.number(uint64(r.Type))
		if err := w.target(r); err != nil {
			return err
		}
	}
	w.string("end")
	return nil
}

// target writes down what a relocation leads to.
func (w *walk) target(r elfpatch.Rela) error {
	if int(r.Symbol) >= len(w.p.obj.Symbols) {
		return fmt.Errorf("%s: symbol %d of %d", w.p.target.Payload.Member, r.Symbol, len(w.p.obj.Symbols))
	}
	s := &w.p.obj.Symbols[r.Symbol]
	if addr, ok := w.p.entries[int(r.Symbol)]; ok {
		return w.place("target", addr, r.Addend)
	}
	switch {
	case s.Section == elfpatch.Undefined:
		return w.imported(s.Name, r.Addend)
	case s.Section == elfpatch.Absolute:
		return w.place("absolute", s.Value, r.Addend)
	case s.Section < 0 || s.Section >= len(w.p.obj.Sections):
		return fmt.Errorf("%s: symbol %s is in no section", w.p.target.Payload.Member, s.Name)
	case s.Type == elf.STT_SECTION:
		return w.slot(s.Section, r)
	}
	u := w.p.unitAt(s.Section, s.Value)
	w.string("own")
	w.number(uint64(w.index(u)))
	w.number(s.Value - u.lo)
	w.number(uint64(r.Addend))
	return nil
}

func (w *walk) place(kind string, value uint64, addend int64) error {
	w.string(kind)
	w.number(value)
	w.number(uint64(addend))
	return nil
}

func (w *walk) imported(name string, addend int64) error {
	im := w.p.imports[name]
	if im == nil {
		return fmt.Errorf("%s: %q is not imported", w.p.target.Payload.Member, name)
	}
	if im.Kind == manifest.ImportTarget {
		return w.place("target", im.Address, addend)
	}
	w.string(strings.Join([]string{im.Kind, im.Name, im.Version, im.Library}, "\x00"))
	return w.place("import", uint64(im.Offset), addend)
}

// slotSize is that of an address slot of a payload.
const slotSize = 8

// slot writes down a reference by way of a section: to an address slot, the
// only thing in a payload that has no symbol. A field of x86-64 counts from the end of
// its instruction, 4 to 8 bytes behind its start, and slots are aligned, so
// that the distance says which slot it is.
func (w *walk) slot(section int, r elfpatch.Rela) error {
	size := w.p.obj.Sections[section].Size
	at := uint64(r.Addend)
	if info, ok := elfpatch.RelocInfo(w.p.obj.Machine, r.Type); ok && w.p.obj.Machine == elf.EM_X86_64 && info.PCRel {
		at = (at + 4 + slotSize - 1) &^ (slotSize - 1)
	}
	if w.p.obj.Sections[section].Flags&elf.SHF_WRITE != 0 || at%slotSize != 0 || size < slotSize || at > size-slotSize || len(w.p.units[section]) > 0 {
		return w.whole(section, r)
	}
	w.string("slot")
	w.number(uint64(w.index(unit{section, at, at + slotSize, ""})))
	w.number(uint64(r.Addend) - at)
	return nil
}

// whole takes all of a section for what a reference leads to.
func (w *walk) whole(section int, r elfpatch.Rela) error {
	w.string("section")
	w.number(uint64(w.index(unit{section, 0, w.p.obj.Sections[section].Size, w.p.obj.Sections[section].Name})))
	w.number(uint64(r.Addend))
	return nil
}
