package kmod

import (
	"debug/elf"
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/refusal"
)

// Part is one cut object of a patch.
type Part struct {
	Name   string // of the object, for messages
	Object string // the module that it belongs to, "" for the kernel
	Cut    *diff.Cut
	// Bindings says where Cut.Externals come from, by their position there. One
	// without a binding has to be a new global symbol of another part.
	Bindings map[int]Binding
}

// Merged is all parts of a patch as one relocatable object. Its relocations
// are ordinary ones, to undefined symbols that are called what the kernel's
// objects call them (those of one name that are different things have a number
// behind it), so that the kernel's objtool can work on it.
type Merged struct {
	Object   *elfpatch.File
	Bindings map[string]Binding // for Spec: by the names of undefined symbols
	Symbols  [][]uint32         // for each part: the symbol of Object, by that of Part.Cut.Object
}

// SymbolName returns the name in Object of a symbol of a part's cut object.
func (m *Merged) SymbolName(part, symbol int) string {
	return m.Object.Symbols[m.Symbols[part][symbol]].Name
}

// Keys lists the keys of static calls (__SCK__…) whose trampolines (__SCT__…)
// the object calls while nothing in it names the key. objtool looks for a key
// among the object's symbols; AddKey adds it. A key that is not added is found
// by the kernel if the trampoline is exported.
func (m *Merged) Keys() []string {
	have := map[string]bool{}
	for _, s := range m.Object.Symbols {
		have[s.Name] = true
	}
	var keys []string
	for _, s := range m.Object.Symbols {
		if name, ok := strings.CutPrefix(s.Name, callTrampoline); ok && s.Section == elfpatch.Undefined && !have[callKey+name] {
			keys = append(keys, callKey+name)
		}
	}
	return keys
}

// callTrampoline and callKey begin the names of a static call's two symbols
// (include/linux/static_call_types.h, 6.12).
const (
	callTrampoline = "__SCT__"
	callKey        = "__SCK__"
)

// callSites is the table of static calls: of each the place of the call and
// its key, which may be given as the trampoline (kernel/static_call_inline.c,
// static_call_add_module, 6.12).
const callSites = ".static_call_sites"

// AddKey adds a key that Keys listed as an undefined symbol.
func (m *Merged) AddKey(name string, b Binding) {
	m.Object.AddSymbol(elfpatch.Symbol{Name: name, Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL})
	m.Bindings[name] = b
}

// merger makes a Merged.
type merger struct {
	m       elf.Machine
	parts   []Part
	out     *elfpatch.File
	groups  map[string]*elfpatch.Section
	placed  [][]placement // by part and section
	symbols [][]uint32
	taken   map[string]bool
	bound   map[Binding]uint32
	names   map[string]Binding
	section map[int]uint32 // section symbols of out
	refused refusal.List
}

// placement says where a section of a part went.
type placement struct {
	sec *elfpatch.Section
	off uint64
}

// Merge makes one object of the parts. Its error is a refusal.List for what
// does not fit together, or a *elfpatch.FormatError (wrapped).
func Merge(m elf.Machine, parts []Part) (*Merged, error) {
	g := &merger{
		m: m, parts: parts, out: elfpatch.New(elf.ET_REL, m), groups: map[string]*elfpatch.Section{},
		taken: map[string]bool{}, bound: map[Binding]uint32{}, names: map[string]Binding{}, section: map[int]uint32{},
	}
	for i := range parts {
		if parts[i].Cut == nil || parts[i].Cut.Object == nil || parts[i].Cut.Object.Machine != m {
			return nil, fmt.Errorf("merge: %s is no object for %v", parts[i].Name, m)
		}
		g.symbols = append(g.symbols, make([]uint32, len(parts[i].Cut.Object.Symbols)))
		g.placeSections(i)
	}
	// From here on every byte has its place.
	for i := range parts {
		g.define(i)
	}
	globals := g.newGlobals()
	// From here on every symbol that a part defines has a name of its own.
	for _, kind := range []BindingKind{Export, Absent, KLP, ""} {
		for i := range parts {
			g.resolve(i, kind, globals)
		}
	}
	// From here on all that is undefined has an owner.
	if err := g.refused.Err(); err != nil {
		return nil, err
	}
	rels := map[*elfpatch.Section][]elfpatch.Rela{}
	for i := range parts {
		if err := g.relocate(i, rels); err != nil {
			return nil, fmt.Errorf("merge %s: %w", parts[i].Name, err)
		}
	}
	if err := g.refused.Err(); err != nil {
		return nil, err
	}
	if ops := machines[m]; ops != nil && ops.reach != nil {
		ops.reach(g, rels)
	}
	for _, sec := range g.out.Sections[:len(g.out.Sections):len(g.out.Sections)] {
		if err := g.out.SetRelocations(sec, rels[sec]); err != nil {
			return nil, fmt.Errorf("merge: %w", err)
		}
	}
	return &Merged{Object: g.out, Bindings: g.names, Symbols: g.symbols}, nil
}

func (g *merger) refuse(part int, code refusal.Code, where, format string, args ...any) {
	g.refused = append(g.refused, refusal.New(code, g.parts[part].Name+": "+where, format, args...))
}

// unique returns a name that no other symbol has.
func (g *merger) unique(name string) string {
	try := name
	for n := 2; g.taken[try]; n++ {
		try = fmt.Sprintf("%s#%d", name, n)
	}
	if name != "" {
		g.taken[try] = true
	}
	return try
}

// define adds the symbols that a part defines.
func (g *merger) define(part int) {
	for i, s := range g.parts[part].Cut.Object.Symbols {
		switch {
		case i == 0 || s.Section == elfpatch.Undefined || s.Type == elf.STT_FILE:
			continue
		case s.Section == elfpatch.Absolute:
		case s.Section < 0 || s.Section >= len(g.placed[part]):
			g.refuse(part, refusal.Unsupported, s.Name, "it is in a section of a reserved kind")
			continue
		default:
			at := g.placed[part][s.Section]
			if at.sec == nil {
				continue
			}
			if s.Type == elf.STT_SECTION {
				g.symbols[part][i] = g.sectionSymbol(at.sec.Index)
				continue
			}
			s.Section, s.Value = at.sec.Index, s.Value+at.off
		}
		if !strings.HasPrefix(s.Name, "$") { // arm64: marks of code and data, which share their names
			s.Name = g.unique(s.Name)
		}
		g.symbols[part][i] = uint32(g.out.AddSymbol(s))
	}
}

func (g *merger) sectionSymbol(sec int) uint32 {
	if g.section[sec] == 0 {
		g.section[sec] = uint32(g.out.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: sec}))
	}
	return g.section[sec]
}

// global is a new global symbol of an object.
type global struct{ object, name string }

// newGlobals returns the symbols that parts define for others: global ones
// that are no replacement of what the object has already.
func (g *merger) newGlobals() map[global]uint32 {
	all := map[global]uint32{}
	for p := range g.parts {
		cut := g.parts[p].Cut
		replaces := map[int]bool{}
		for _, f := range cut.Funcs {
			replaces[f.Symbol] = true
		}
		for i, s := range cut.Object.Symbols {
			if i == 0 || s.Bind == elf.STB_LOCAL || s.Section <= 0 || replaces[i] {
				continue
			}
			key := global{objectName(g.parts[p].Object), s.Name}
			if all[key] != 0 && s.Bind != elf.STB_WEAK {
				g.refuse(p, refusal.Unsupported, s.Name, "another object of the patch defines it too")
			}
			all[key] = g.symbols[p][i]
		}
	}
	return all
}

// resolve gives the external symbols of a part that are bound in one way their
// symbol. Exports come first and so keep their names.
func (g *merger) resolve(part int, kind BindingKind, globals map[global]uint32) {
	p := &g.parts[part]
	for i, x := range p.Cut.Externals {
		if x.Symbol <= 0 || x.Symbol >= len(p.Cut.Object.Symbols) {
			continue
		}
		sym := p.Cut.Object.Symbols[x.Symbol]
		b, ok := p.Bindings[i]
		if !ok && kind == "" {
			to := globals[global{objectName(p.Object), x.Name}]
			if to == 0 {
				to = globals[global{vmlinux, x.Name}]
			}
			switch {
			case to != 0:
				g.symbols[part][x.Symbol] = to
				continue
			case sym.Bind != elf.STB_WEAK:
				g.refuse(part, refusal.SymbolNotFound, x.Name, "neither the kernel nor another object of the patch has it")
				continue
			}
			b = Binding{Kind: Absent}
		} else if !ok || b.Kind != kind {
			continue
		}
		if b.Name == "" {
			b.Name = x.Name
		}
		g.symbols[part][x.Symbol] = g.undefined(b, p, x.Name, sym)
	}
}

// undefined returns the undefined symbol for a binding.
func (g *merger) undefined(b Binding, p *Part, name string, from elfpatch.Symbol) uint32 {
	b.Object = objectName(b.Object)
	switch {
	case b.Kind != KLP || b.Object == vmlinux:
		b.For = vmlinux
	case b.For == "":
		b.For = objectName(p.Object)
	}
	if sym, ok := g.bound[b]; ok {
		return sym
	}
	s := elfpatch.Symbol{Name: g.unique(name), Type: from.Type, Bind: elf.STB_GLOBAL}
	if s.Type == elf.STT_SECTION {
		s.Type = elf.STT_NOTYPE
	}
	if b.Kind == Absent {
		s.Bind = elf.STB_WEAK
	}
	g.bound[b] = uint32(g.out.AddSymbol(s))
	g.names[s.Name] = b
	return g.bound[b]
}

// relocate takes the relocations of a part over.
func (g *merger) relocate(part int, rels map[*elfpatch.Section][]elfpatch.Rela) error {
	f := g.parts[part].Cut.Object
	for i, sec := range f.Sections {
		at := g.placed[part][i]
		if at.sec == nil {
			continue
		}
		list, err := f.Relocations(sec)
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.Symbol != 0 {
				sym := f.Symbols[r.Symbol]
				if sym.Type == elf.STT_SECTION && sym.Section > 0 {
					r.Addend += int64(g.placed[part][sym.Section].off)
				}
				if r.Symbol = g.symbols[part][r.Symbol]; r.Symbol == 0 {
					g.refuse(part, refusal.SymbolNotFound, fmt.Sprintf("%s+%#x", sec.Name, r.Offset), "it refers to %s, which nothing defines", sym.Name)
					continue
				}
			}
			r.Offset += at.off
			rels[at.sec] = append(rels[at.sec], r)
		}
	}
	return nil
}
