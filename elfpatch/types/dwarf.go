package types

import (
	"debug/dwarf"
	"errors"
	"fmt"
	"strings"

	"livepatch/elfpatch"
)

const (
	maxChain   = 64      // of typedefs, qualifiers, references from one entry to another
	maxEntries = 1 << 23 // entries of .debug_info that are read for one object; a large one has 500,000
	// An entry takes some bytes and is read a few times. What reads more goes round in
	// a damaged file.
	readsPerByte = 16
)

// dwarfGraph is DWARF as far as it was asked for. The library's own types would
// bring everything that can be reached from one of them into memory; entries are read one
// by one.
type dwarfGraph struct {
	data  *dwarf.Data
	r     *dwarf.Reader
	left  int // entries that may still be read
	nodes map[ref]*node
	funcs map[string]*bodies
	vars  map[string]ref
	lists []ref // enumerations

	// names are the symbols of functions by address: gcc gives no linkage name to
	// static functions of C++.
	names map[uint64][]string
}

// bodies are the entries of a function.
type bodies struct {
	decl ref   // a declaration, or what its copies have in common
	code []ref // its code, and that of its clones
}

var errEntries = errors.New("entries of debug information lead to each other too often, or are too many")

// openDWARF finds the functions and variables of an object.
func openDWARF(f *elfpatch.File) (*dwarfGraph, error) {
	g, err := loadDWARF(f)
	if err != nil {
		return nil, err
	}
	return g, g.index()
}

func loadDWARF(f *elfpatch.File) (*dwarfGraph, error) {
	get := map[string][]byte{}
	for _, name := range []string{"abbrev", "info", "str", "addr", "line_str", "str_offsets", "rnglists", "ranges"} {
		b, err := contents(f, ".debug_"+name)
		if err != nil {
			return nil, err
		}
		get[name] = b
	}
	if len(get["info"]) == 0 || len(get["abbrev"]) == 0 {
		return nil, ErrNoTypes
	}
	data, err := dwarf.New(get["abbrev"], nil, nil, get["info"], nil, nil, get["ranges"], get["str"])
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"addr", "line_str", "str_offsets", "rnglists"} {
		if err := data.AddSection(".debug_"+name, get[name]); err != nil {
			return nil, err
		}
	}
	g := &dwarfGraph{data: data, r: data.Reader(), left: min(maxEntries, readsPerByte*len(get["info"])), nodes: map[ref]*node{}, funcs: map[string]*bodies{}, vars: map[string]ref{}, names: functionNames(f)}
	return g, nil
}

// index goes through what is outside of functions and types.
func (g *dwarfGraph) index() error {
	top := g.data.Reader()
	var last dwarf.Offset
	for {
		e, err := g.after(top, &last)
		if err != nil || e == nil {
			return err
		}
		switch e.Tag {
		case dwarf.TagCompileUnit, dwarf.TagPartialUnit, dwarf.TagNamespace, 0:
			continue
		case dwarf.TagSubprogram:
			name, err := g.linkName(e)
			if err != nil {
				return err
			}
			g.addFunction(name, e)
			for _, symbol := range g.symbols(e) {
				if symbol = stem(symbol); symbol != name {
					g.addFunction(symbol, e)
				}
			}
		case dwarf.TagVariable:
			name, err := g.linkName(e)
			if err != nil {
				return err
			}
			t, err := g.inherited(e, dwarf.AttrType)
			if err != nil {
				return err
			}
			if off, ok := t.(dwarf.Offset); ok && name != "" {
				g.vars[name] = ref(off)
			}
		case dwarf.TagEnumerationType:
			g.lists = append(g.lists, ref(e.Offset))
		}
		if err := g.skip(top, e, &last); err != nil {
			return err
		}
	}
}

// skip moves on to what follows an entry and its children.
func (g *dwarfGraph) skip(r *dwarf.Reader, e *dwarf.Entry, last *dwarf.Offset) error {
	if !e.Children {
		return nil
	}
	for depth := 1; depth > 0; {
		if next, ok := e.Val(dwarf.AttrSibling).(dwarf.Offset); ok && e.Children && next > e.Offset {
			r.Seek(next)
			depth--
		}
		if depth == 0 {
			break
		}
		c, err := g.after(r, last)
		switch {
		case err != nil || c == nil:
			return err
		case c.Tag == 0:
			depth--
		case c.Children:
			depth++
		}
		e = c
	}
	return nil
}

func (g *dwarfGraph) addFunction(name string, e *dwarf.Entry) {
	b := g.funcs[name]
	if b == nil {
		b = &bodies{}
		g.funcs[name] = b
	}
	if e.Val(dwarf.AttrLowpc) != nil || e.Val(dwarf.AttrRanges) != nil {
		b.code = append(b.code, ref(e.Offset))
	} else {
		b.decl = ref(e.Offset)
	}
}

// next reads the next entry, nil at the end.
func (g *dwarfGraph) next(r *dwarf.Reader) (*dwarf.Entry, error) {
	if g.left--; g.left < 0 {
		return nil, errEntries
	}
	return r.Next()
}

// after is next for a walk that has come to an entry: what a damaged file says of
// where the next one is may lead back.
func (g *dwarfGraph) after(r *dwarf.Reader, last *dwarf.Offset) (*dwarf.Entry, error) {
	e, err := g.next(r)
	if err != nil || e == nil || e.Tag == 0 {
		return e, err
	}
	if e.Offset <= *last {
		return nil, fmt.Errorf(".debug_info+%#x: what follows is at %#x", *last, e.Offset)
	}
	*last = e.Offset
	return e, nil
}

// entry reads one entry. The next one that g.r reads follows it.
func (g *dwarfGraph) entry(at ref) (*dwarf.Entry, error) {
	g.r.Seek(dwarf.Offset(at))
	e, err := g.next(g.r)
	if err == nil && (e == nil || e.Tag == 0) {
		err = errors.New("no entry is there")
	}
	if err != nil {
		return nil, fmt.Errorf(".debug_info+%#x: %w", uint64(at), err)
	}
	return e, nil
}

// children calls fn with the children of an entry that g.r has just read, and with
// what is below those for which it returns true.
func (g *dwarfGraph) children(e *dwarf.Entry, fn func(*dwarf.Entry) bool) error {
	if !e.Children {
		return nil
	}
	last := e.Offset
	for depth := 1; depth > 0; {
		c, err := g.after(g.r, &last)
		switch {
		case err != nil:
			return err
		case c == nil:
			return fmt.Errorf(".debug_info+%#x: its children do not end", e.Offset)
		case c.Tag == 0:
			depth--
		case fn(c):
			if c.Children {
				depth++
			}
		default:
			if err := g.skip(g.r, c, &last); err != nil {
				return err
			}
		}
	}
	return nil
}

// inherited is an attribute of an entry, or of the one that it completes.
func (g *dwarfGraph) inherited(e *dwarf.Entry, a dwarf.Attr) (any, error) {
	for range maxChain {
		if v := e.Val(a); v != nil {
			return v, nil
		}
		to, ok := completes(e)
		if !ok {
			return nil, nil
		}
		var err error
		if e, err = g.entry(to); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// completes is the entry that holds what another one does not repeat.
func completes(e *dwarf.Entry) (ref, bool) {
	for _, a := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		if off, ok := e.Val(a).(dwarf.Offset); ok {
			return ref(off), true
		}
	}
	return 0, false
}

// linkName is the name of the symbol of a function or variable.
func (g *dwarfGraph) linkName(e *dwarf.Entry) (string, error) {
	v, err := g.inherited(e, dwarf.AttrLinkageName)
	if v == nil && err == nil {
		v, err = g.inherited(e, dwarf.AttrName)
	}
	name, _ := v.(string)
	return name, err
}

// symbols are the names of the code of a function.
func (g *dwarfGraph) symbols(e *dwarf.Entry) []string {
	if at, ok := e.Val(dwarf.AttrLowpc).(uint64); ok {
		return g.names[at]
	}
	if e.Val(dwarf.AttrRanges) == nil {
		return nil
	}
	ranges, err := g.data.Ranges(e)
	if err != nil || len(ranges) == 0 {
		return nil
	}
	return g.names[ranges[0][0]]
}

// stem is the name of a function of which a symbol is a clone ("f.isra.0").
func stem(symbol string) string {
	s, _, _ := strings.Cut(symbol, ".")
	return s
}

// lookup finds a function by its symbol: that of a clone has a suffix ("f.isra.0").
func (g *dwarfGraph) lookup(name string) *bodies {
	if b := g.funcs[name]; b != nil {
		return b
	}
	name = stem(name)
	if b := g.funcs[name]; b != nil {
		return b
	}
	for _, n := range unified {
		if b := g.funcs[strings.Replace(name, n[0], n[1], 1)]; b != nil {
			return b
		}
	}
	return nil
}

// unified are variants of C++ constructors and destructors of which compilers make one
// function and describe it under the name of another (Itanium C++ ABI, 5.1.4.3;
// gcc/cp/mangle.cc for the fourth).
var unified = [][2]string{{"C1E", "C2E"}, {"C2E", "C1E"}, {"C1E", "C4E"}, {"C2E", "C4E"}, {"D1E", "D2E"}, {"D2E", "D1E"}, {"D1E", "D4E"}, {"D2E", "D4E"}, {"D0E", "D4E"}}

func (g *dwarfGraph) function(name string) (*function, error) {
	b := g.lookup(name)
	if b == nil || len(b.code) == 0 {
		return nil, nil
	}
	f := &function{proto: b.code[0]}
	for _, at := range b.code {
		if err := g.variables(f, at); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// variables adds the parameters and variables of a function and of what is
// inlined into it.
func (g *dwarfGraph) variables(f *function, at ref) error {
	e, err := g.entry(at)
	if err != nil {
		return err
	}
	var list []*dwarf.Entry
	err = g.children(e, func(c *dwarf.Entry) bool {
		switch c.Tag {
		case dwarf.TagVariable, dwarf.TagFormalParameter:
			list = append(list, c)
		case dwarf.TagLexDwarfBlock, dwarf.TagInlinedSubroutine, dwarf.TagTryDwarfBlock, dwarf.TagCatchDwarfBlock:
			return true
		}
		return false
	})
	if err != nil {
		return err
	}
	for _, c := range list {
		t, err := g.inherited(c, dwarf.AttrType)
		if err != nil {
			return err
		}
		n, err := g.inherited(c, dwarf.AttrName)
		if err != nil {
			return err
		}
		off, ok := t.(dwarf.Offset)
		if name, _ := n.(string); ok && name != "" {
			f.vars = append(f.vars, variable{name, ref(off)})
		}
	}
	return nil
}

func (g *dwarfGraph) enums() []ref { return g.lists }

func (g *dwarfGraph) object(name string) (object, bool) {
	if t, ok := g.vars[name]; ok {
		return object{typ: t}, true
	}
	b := g.lookup(name)
	switch {
	case b == nil:
		return object{}, false
	case len(b.code) > 0:
		return object{typ: b.code[0], code: true}, true
	}
	return object{typ: b.decl, code: true}, true
}
