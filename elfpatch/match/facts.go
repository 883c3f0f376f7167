package match

import (
	"debug/elf"
	"fmt"
	"strings"

	"livepatch/elfpatch"
)

// A key is what one fact is about. Sections of the object move as a whole, so
// that the address of one symbol gives that of all others in its section.
type key struct {
	use Use
	sec int    // the section, for Address, TPOffset and DTPOffset of what the object defines
	sym int    // the symbol otherwise
	at  uint64 // uses of the GOT: the place in the section, or the distance from the symbol
}

// fact is a value that proven code agrees on.
type fact struct {
	value uint64 // of the start of the section, or of the symbol
	first string // the field that showed it first
	uses  int
}

// keyOf returns the key of a use of a symbol, and the distance of the symbol
// from what the fact is about. from is the distance of what a GOT entry stands
// for from the symbol.
func (o *object) keyOf(use Use, sym int, from int64) (key, uint64) {
	if use == TLSModule {
		return key{use: use}, 0
	}
	sec, s := o.defined(sym), o.f.Symbols[sym]
	moves := sec != nil && !pieces(sec) && !o.replaceable(sym)
	switch {
	case inGOT(use) && moves && isLocal(s):
		return key{use: use, sec: sec.Index, at: s.Value + uint64(from)}, 0
	case inGOT(use):
		return key{use: use, sym: sym, at: uint64(from)}, 0
	case moves && (use == Address || use == TPOffset || use == DTPOffset):
		return key{use: use, sec: sec.Index}, s.Value
	}
	return key{use: use, sym: sym}, 0
}

// replaceable reports whether the linker may have taken another object's
// definition of a symbol.
func (o *object) replaceable(sym int) bool {
	b := o.f.Symbols[sym].Bind
	return b != elf.STB_LOCAL && b != elf.STB_GLOBAL
}

func (o *object) weakUndefined(sym int) bool {
	s := o.f.Symbols[sym]
	return s.Bind == elf.STB_WEAK && s.Section == elfpatch.Undefined
}

// symbolName is the name of a symbol for messages and lookups; section symbols
// take that of their section.
func (o *object) symbolName(i int) string {
	if i < 0 || i >= len(o.f.Symbols) {
		return fmt.Sprintf("symbol %d", i)
	}
	s := o.f.Symbols[i]
	if s.Name == "" && s.Section > 0 && s.Section < len(o.f.Sections) {
		return o.f.Sections[s.Section].Name
	}
	return s.Name
}

// names returns the names that are looked up in the target's symbol tables.
func (o *object) names() map[string]bool {
	out := make(map[string]bool, len(o.f.Symbols))
	if len(o.sites) > 0 {
		out[fentryName] = true // which the object need not name
	}
	for i := range o.f.Symbols {
		if n := o.plainName(i); n != "" {
			out[n] = true
		}
	}
	return out
}

// plainName is the name under which a symbol can stand in the linked file: a
// version that the object asks for stays behind. It is empty for symbols that
// linking does not keep.
func (o *object) plainName(i int) string {
	s := o.f.Symbols[i]
	if s.Type == elf.STT_SECTION || s.Type == elf.STT_FILE || strings.HasPrefix(s.Name, ".L") || isMapping(s.Name) {
		return ""
	}
	name, _, _ := strings.Cut(s.Name, "@")
	return name
}

// contradicts says why a ref cannot be right, whatever else is known: the
// symbol tables, the dynamic relocations and the contents of merged sections
// must agree with it. It is empty when nothing does.
func (o *object) contradicts(r ref, img *image) string {
	s, name := r.symbolValue(), o.plainName(r.sym)
	switch r.use {
	case Slot, TPSlot:
		if r.entryOf() != 0 {
			break
		}
		if f, ok := img.slotAt(s); ok && f.name != "" && name != "" && f.name != name {
			return fmt.Sprintf("the object uses %s here, the target uses %s", name, f.name)
		}
	case Branch:
		f, ok := img.stub(s)
		switch {
		case ok && f.name != "" && name != "" && f.name != name:
			return fmt.Sprintf("the object calls %s here, the target calls %s", name, f.name)
		case !ok && !img.holds(s, 1, true) && !o.weakUndefined(r.sym):
			return fmt.Sprintf("the target branches to %#x, where it has no code", s)
		case !ok && img.stubbed[name] && !isLocal(o.f.Symbols[r.sym]):
			return fmt.Sprintf("the object calls %s, which the target does through its PLT, and at %#x there is no entry of that", name, s)
		case !ok:
			return o.misplaced(r, img)
		}
	case Address:
		return o.misplaced(r, img)
	}
	return ""
}

// misplaced says why a symbol cannot stand at the address that the ref shows.
func (o *object) misplaced(r ref, img *image) string {
	s, name := r.symbolValue(), o.plainName(r.sym)
	sym := o.f.Symbols[r.sym]
	sec := o.defined(r.sym)
	if sec != nil && pieces(sec) {
		return o.pieceOf(r).differs(img)
	}
	if sec != nil && sec.Flags&elf.SHF_ALLOC != 0 && sec.Flags&elf.SHF_TLS == 0 && !o.replaceable(r.sym) {
		if !img.holds(s-sym.Value, sec.Size, sec.Flags&elf.SHF_EXECINSTR != 0) {
			return fmt.Sprintf("%s would be at %#x, where the target cannot hold it", o.symbolName(r.sym), s)
		}
	}
	if sec != nil && !o.replaceable(r.sym) {
		return o.misplacedSection(sec, s-sym.Value, img)
	}
	if name == "" || sym.Type == elf.STT_TLS {
		return ""
	}
	return o.misnamed(r.sym, s, img)
}

// misplacedSection compares where a section would be with where the symbol
// tables put the symbols that it holds.
func (o *object) misplacedSection(sec *elfpatch.Section, base uint64, img *image) string {
	if len(img.named) == 0 {
		return ""
	}
	if text, ok := img.checked[sec.Index][base]; ok {
		return text
	}
	text := ""
	for _, i := range o.inSection(sec.Index) {
		if s := o.f.Symbols[i]; s.Type != elf.STT_TLS && !o.replaceable(i) {
			if text = o.misnamed(i, base+s.Value, img); text != "" {
				break
			}
		}
	}
	if img.checked[sec.Index] == nil {
		img.checked[sec.Index] = map[uint64]string{}
	}
	img.checked[sec.Index][base] = text
	return text
}

// inSection returns the named symbols of a section.
func (o *object) inSection(sec int) []int {
	if o.bySection == nil {
		o.bySection = map[int][]int{}
		for i, s := range o.f.Symbols {
			if s.Section > 0 && o.plainName(i) != "" {
				o.bySection[s.Section] = append(o.bySection[s.Section], i)
			}
		}
	}
	return o.bySection[sec]
}

// misnamed compares an address with what the symbol tables have under the name
// of symbol i.
func (o *object) misnamed(i int, s uint64, img *image) string {
	sym, name := o.f.Symbols[i], o.plainName(i)
	sec := o.defined(i)
	var other *named
	for i, n := range img.named[name] {
		if n.local && !isLocal(sym) && sec == nil || !n.local && isLocal(sym) && sym.Bind == elf.STB_LOCAL {
			continue // another symbol of the same name
		}
		if n.addr == s {
			return ""
		}
		other = &img.named[name][i]
	}
	if other != nil {
		return fmt.Sprintf("%s is at %#x by the code, at %#x by the symbol table (%s)", name, s, other.addr, other.found)
	}
	return ""
}
