package pobj

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// linker collects the payload.
type linker struct {
	m        elf.Machine
	mem      [areas]memory
	syms     []symbol // of the payload; the first is the null symbol
	taken    map[string]bool
	places   []map[int]spot // per part: where each of its sections went
	units    []map[int]int  // per part: payload symbols that stand for sections of constants
	symOf    []map[int]int  // per part: payload symbols of its own defined symbols
	names    []map[int]string
	imports  []manifest.Import
	imported map[manifest.Import]int  // payload symbol of an import, keyed without Symbol
	slots    map[slotKey]uint64       // offsets in .livepatch.got
	stubs    map[stubKey]int          // payload symbols of stubs
	pieces   map[trampoline.Place]int // payload symbols of what stands between redirects and replacements
	plain    []int                    // payload symbols of code that leaves the stack alone
	shared   []Shared
	seen     map[Shared]bool
	areaSym  [areas]int // section symbols
	globals  map[string]definition
	refusals refusal.List
}

// definition is a global symbol that a part defines: parts refer to those of
// each other.
type definition struct {
	part int
	p    *Part
	sym  int
}

type memory struct {
	size  uint64
	align uint64
	data  []byte // of size bytes, but for bss
	rels  []elfpatch.Rela
}

type spot struct {
	area area
	off  uint64
}

type symbol struct {
	elfpatch.Symbol
	area area // dropped: undefined
}

// A slotKey names a word of .livepatch.got: what stands in it.
type slotKey struct {
	typ    uint32
	sym    int // of the payload
	addend int64
}

// A stubKey names the word that a stub jumps through.
type stubKey struct {
	sym    int
	addend int64
}

func newLinker(m elf.Machine, parts int) *linker {
	l := &linker{
		m: m, taken: map[string]bool{}, syms: make([]symbol, 1),
		places: make([]map[int]spot, parts), units: make([]map[int]int, parts), symOf: make([]map[int]int, parts), names: make([]map[int]string, parts),
		imported: map[manifest.Import]int{}, slots: map[slotKey]uint64{}, stubs: map[stubKey]int{}, seen: map[Shared]bool{},
	}
	l.syms[0].area = dropped
	for a := range areas {
		l.mem[a].align = 1
		l.areaSym[a] = l.addSymbol(symbol{elfpatch.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL}, a})
	}
	return l
}

func (l *linker) refuse(code refusal.Code, where, format string, args ...any) {
	l.refusals = append(l.refusals, refusal.New(code, where, format, args...))
}

func (l *linker) addSymbol(s symbol) int {
	l.syms = append(l.syms, s)
	return len(l.syms) - 1
}

// unique returns a name that no other symbol of the payload has.
func (l *linker) unique(name string) string {
	try := name
	for n := 2; l.taken[try]; n++ {
		try = fmt.Sprintf("%s#%d", name, n)
	}
	l.taken[try] = true
	return try
}

// areaOf decides where the contents of a section go. Notes and what is not loaded
// stay behind.
func areaOf(s *elfpatch.Section) (area, string) {
	switch {
	case s.Flags&elf.SHF_ALLOC == 0, s.Type == elf.SHT_NOTE, s.Name == "__patchable_function_entries":
		return dropped, ""
	case s.Name == Frames:
		return frames, ""
	case s.Type == elf.SHT_INIT_ARRAY, s.Type == elf.SHT_FINI_ARRAY, s.Type == elf.SHT_PREINIT_ARRAY,
		s.Name == ".init", s.Name == ".fini", strings.HasPrefix(s.Name, ".ctors"), strings.HasPrefix(s.Name, ".dtors"):
		return dropped, "it would have to run when the patch is loaded"
	case s.Type != elf.SHT_PROGBITS && s.Type != elf.SHT_NOBITS:
		return dropped, fmt.Sprintf("sections of type %v cannot be loaded", s.Type)
	case s.Flags&elf.SHF_EXECINSTR != 0 && s.Flags&elf.SHF_WRITE != 0:
		return dropped, "it is writable and executable"
	case s.Flags&elf.SHF_COMPRESSED != 0:
		return dropped, "it is compressed"
	case s.Flags&elf.SHF_EXECINSTR != 0:
		return text, ""
	case s.Type == elf.SHT_NOBITS:
		return bss, ""
	case s.Flags&elf.SHF_WRITE != 0 && !strings.HasPrefix(s.Name, ".data.rel.ro"):
		return data, ""
	}
	// The loader relocates before it protects: .data.rel.ro is read-only too.
	return rodata, ""
}

// place lays out the sections and common symbols of a part.
func (l *linker) place(part int, p *Part) {
	l.places[part], l.units[part], l.symOf[part], l.names[part] = map[int]spot{}, map[int]int{}, map[int]int{}, map[int]string{}
	for _, s := range p.Object.Sections {
		where := p.Name + ": " + s.Name
		a, why := areaOf(s)
		switch {
		case s.Index == 0 || a == dropped && why == "" || s.Size == 0 && why != "":
			continue
		case s.Flags&elf.SHF_TLS != 0:
			l.refuse(refusal.TLSNew, where, "the payload cannot have thread-local variables of its own")
			continue
		case why != "":
			l.refuse(refusal.Unsupported, where, "%s", why)
			continue
		case s.Align > MaxAlign:
			l.refuse(refusal.Unsupported, where, "its alignment of %d bytes exceeds %d", s.Align, MaxAlign)
			continue
		}
		align := max(s.Align, 1)
		if a == text {
			align = max(align, textAlign)
		}
		l.places[part][s.Index] = spot{a, l.mem[a].grow(s.Size, align, s.Data, l.filler(a))}
		if a == rodata && !named(p.Object, s) {
			l.units[part][s.Index] = l.addSymbol(symbol{elfpatch.Symbol{
				Name: l.unique(s.Name), Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Value: l.places[part][s.Index].off, Size: s.Size,
			}, a})
		}
	}
	for i, s := range p.Object.Symbols {
		if s.Section != elfpatch.Common {
			continue
		}
		off := l.mem[bss].grow(s.Size, max(min(s.Value, MaxAlign), 1), nil, nil)
		l.symOf[part][i] = l.addSymbol(symbol{elfpatch.Symbol{
			Name: l.unique(s.Name), Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Value: off, Size: s.Size,
		}, bss})
	}
}

// named reports whether a symbol of its own says where a section of constants
// begins and ends. Any other gets one in the payload, so that what a function
// refers to can be told from what lies behind it: two payloads are compared by
// that.
func named(f *elfpatch.File, sec *elfpatch.Section) bool {
	found := 0
	for _, s := range f.Symbols {
		switch {
		case s.Section != sec.Index || s.Type == elf.STT_SECTION:
		case s.Value != 0 || s.Size != sec.Size || strings.HasPrefix(s.Name, ".L"):
			return false
		default:
			found++
		}
	}
	return found == 1
}

// textAlign is the alignment of every function section, as compilers choose it.
const textAlign = 16

// filler is what stands between functions: instructions that trap.
func (l *linker) filler(a area) []byte {
	switch {
	case a != text:
		return []byte{0}
	case l.m == elf.EM_AARCH64:
		return []byte{0, 0, 0, 0} // udf #0
	}
	return []byte{0xcc} // int3
}

// grow adds size bytes at the next multiple of align and returns their offset.
func (m *memory) grow(size, align uint64, contents, filler []byte) uint64 {
	m.align = max(m.align, align)
	off := (m.size + align - 1) &^ (align - 1)
	if filler != nil {
		for k := m.size; k < off; k++ {
			m.data = append(m.data, filler[k%uint64(len(filler))])
		}
		m.data = append(m.data, contents...)
	}
	m.size = off + size
	return off
}

// nameKept adds the symbols of a part that must be findable by name.
func (l *linker) nameKept(part int, p *Part) {
	for _, i := range p.Keep {
		l.own(part, p, i)
		if k, ok := l.symOf[part][i]; ok {
			l.syms[k].Bind = elf.STB_GLOBAL
		}
	}
}

// own returns the payload's symbol and the distance from it for a symbol that
// the part defines; false when its section is not in the payload.
func (l *linker) own(part int, p *Part, i int) (sym int, delta uint64, ok bool) {
	if k, ok := l.symOf[part][i]; ok {
		return k, 0, true
	}
	s := p.Object.Symbols[i]
	at, ok := l.places[part][s.Section]
	if !ok {
		return 0, 0, false
	}
	if s.Name == "" || s.Type == elf.STT_SECTION || strings.HasPrefix(s.Name, ".L") {
		if unit, ok := l.units[part][s.Section]; ok {
			return unit, s.Value, true
		}
		return l.areaSym[at.area], at.off + s.Value, true
	}
	s.Name = l.unique(s.Name)
	s.Value += at.off
	s.Section, s.Other, s.Bind = 0, 0, elf.STB_LOCAL
	k := l.addSymbol(symbol{s, at.area})
	l.symOf[part][i] = k
	l.names[part][i] = s.Name
	return k, 0, true
}

// defineGlobals notes the global names that parts define besides replacements,
// whose originals are in the target. Of several weak ones the first counts.
func (l *linker) defineGlobals(parts []Part) {
	l.globals = map[string]definition{}
	for i := range parts {
		p := &parts[i]
		for k, s := range p.Object.Symbols {
			if k == 0 || s.Bind == elf.STB_LOCAL || s.Name == "" || s.Section == elfpatch.Undefined || slices.Contains(p.Keep, k) {
				continue
			}
			old, ok := l.globals[s.Name]
			if !ok || p.Object.Symbols[k].Bind == elf.STB_GLOBAL && old.p.Object.Symbols[old.sym].Bind != elf.STB_GLOBAL {
				l.globals[s.Name] = definition{i, p, k}
			}
		}
	}
}

// object writes the payload.
func (l *linker) object() ([]byte, error) {
	f := elfpatch.New(elf.ET_REL, l.m)
	var index [areas]int
	for a := range areas {
		if l.mem[a].size == 0 {
			continue
		}
		s := areaSections[a]
		s.Align, s.Size, s.Data = l.mem[a].align, l.mem[a].size, l.mem[a].data
		if a == bss {
			s.Data = nil
		}
		index[a] = f.AddSection(s).Index
	}
	// A stack that is not executable, as every object says.
	f.AddSection(elfpatch.Section{Name: ".note.GNU-stack", Type: elf.SHT_PROGBITS, Align: 1})
	at := make([]uint32, len(l.syms))
	for i, s := range l.syms[1:] {
		if s.area != dropped {
			if s.Section = index[s.area]; s.Section == 0 {
				continue // the section symbol of an empty area
			}
		}
		at[i+1] = uint32(f.AddSymbol(s.Symbol))
	}
	for a := range areas {
		if len(l.mem[a].rels) == 0 {
			continue
		}
		rels := make([]elfpatch.Rela, len(l.mem[a].rels))
		for i, r := range l.mem[a].rels {
			r.Symbol = at[r.Symbol]
			rels[i] = r
		}
		// Those of stubs were made in the middle of others.
		slices.SortStableFunc(rels, func(a, b elfpatch.Rela) int { return cmp.Compare(a.Offset, b.Offset) })
		if err := f.SetRelocations(f.Sections[index[a]], rels); err != nil {
			return nil, fmt.Errorf("write payload: %w", err)
		}
	}
	b, err := f.Bytes()
	if err != nil {
		return nil, fmt.Errorf("write payload: %w", err)
	}
	return b, nil
}
