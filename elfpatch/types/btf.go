package types

import (
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/btf"
)

// btfGraph is BTF. It describes functions and global variables, but no variables
// of functions.
type btfGraph struct {
	t     *btf.Table
	nodes map[ref]*node
	names map[string]uint32 // functions and variables
	lists []ref             // enumerations
	left  int               // members that may still be read
}

// maxMembers bounds the members that are read, those of structures inside each
// other counted each time; a kernel has 200,000.
const maxMembers = 1 << 22

func openBTF(f *elfpatch.File) (*btfGraph, error) {
	b, err := contents(f, ".BTF")
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, ErrNoTypes
	}
	t, err := btf.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("section .BTF: %w", err)
	}
	g := &btfGraph{t: t, nodes: map[ref]*node{}, names: map[string]uint32{}, left: maxMembers}
	for i := range t.Len() {
		id := uint32(i + 1)
		switch typ, _ := t.Type(id); typ.Kind {
		case btf.Func, btf.Var:
			g.names[typ.Name] = id
		case btf.Enum, btf.Enum64:
			g.lists = append(g.lists, ref(id))
		}
	}
	return g, nil
}

func (g *btfGraph) lookup(name string) (btf.Type, bool) {
	id, ok := g.names[name]
	if !ok {
		stem, _, _ := strings.Cut(name, ".")
		id = g.names[stem]
	}
	return g.t.Type(id)
}

func (g *btfGraph) function(name string) (*function, error) {
	typ, ok := g.lookup(name)
	if !ok || typ.Kind != btf.Func {
		return nil, nil
	}
	f := &function{proto: ref(typ.Value)}
	if proto, ok := g.t.Type(typ.Value); ok && proto.Kind == btf.FuncProto {
		for i := range proto.N {
			if p := proto.Tail[8*i:]; le.Uint32(p) != 0 {
				f.vars = append(f.vars, variable{g.t.Name(le.Uint32(p)), ref(le.Uint32(p[4:]))})
			}
		}
	}
	return f, nil
}

func (g *btfGraph) object(name string) (object, bool) {
	typ, ok := g.lookup(name)
	return object{typ: ref(typ.Value), code: typ.Kind == btf.Func}, ok
}

func (g *btfGraph) enums() []ref { return g.lists }

func (g *btfGraph) node(at ref) (*node, error) {
	if n := g.nodes[at]; n != nil {
		return n, nil
	}
	n, err := g.read(uint32(at))
	if err != nil {
		return nil, fmt.Errorf("BTF type %d: %w", at, err)
	}
	g.nodes[at] = n
	return n, nil
}

// bare takes off typedefs and qualifiers, and returns the name of the innermost
// typedef; ok is false for void.
func (g *btfGraph) bare(id uint32) (typ btf.Type, name string, ok bool, err error) {
	for range maxChain {
		if id == 0 {
			return typ, name, false, nil
		}
		if typ, ok = g.t.Type(id); !ok {
			return typ, "", false, fmt.Errorf("there is no type %d", id)
		}
		switch typ.Kind {
		case btf.Typedef:
			name = typ.Name
		case btf.Const, btf.Volatile, btf.Restrict, btf.TypeTag:
		default:
			return typ, name, true, nil
		}
		id = typ.Value
	}
	return typ, "", false, fmt.Errorf("more than %d typedefs and qualifiers", maxChain)
}

func (g *btfGraph) read(id uint32) (*node, error) {
	typ, name, ok, err := g.bare(id)
	if err != nil || !ok {
		return &node{}, err
	}
	n := &node{name: typ.Name}
	if n.name == "" {
		n.name = name
	}
	switch typ.Kind {
	case btf.Int, btf.Float:
		n.shape, n.size, n.encoding = base, uint64(typ.Value), btfEncoding(typ)
	case btf.Ptr:
		n.shape, n.target = pointer, ref(typ.Value)
	case btf.Array:
		n.shape, n.target, n.counts = array, ref(le.Uint32(typ.Tail)), []int64{int64(le.Uint32(typ.Tail[8:]))}
	case btf.Struct, btf.Union:
		n.shape, n.word, n.size = record, "struct", uint64(typ.Value)
		if typ.Kind == btf.Union {
			n.shape, n.word = union, "union"
		}
		return n, g.fields(n, typ, 0, 0)
	case btf.Fwd:
		n.shape, n.word, n.declared = record, "struct", true
		if typ.Flag {
			n.shape, n.word = union, "union"
		}
	case btf.Enum, btf.Enum64:
		n.shape, n.word, n.size = enum, "enum", uint64(typ.Value)
		g.values(n, typ)
	case btf.FuncProto:
		n.shape, n.target = prototype, ref(typ.Value)
		for i := range typ.N {
			if p := typ.Tail[8*i:]; le.Uint64(p) == 0 {
				n.variadic = true
			} else {
				n.params = append(n.params, ref(le.Uint32(p[4:])))
			}
		}
	default:
		n.shape = opaque
	}
	return n, nil
}

// btfEncoding is the encoding of a number in the words of DWARF; bits 24 to 27
// of an integer say that it is signed, a character, or a truth value
// (Documentation/bpf/btf.rst, 6.12).
func btfEncoding(typ btf.Type) int64 {
	const signed, unsigned = 5, 7
	if typ.Kind == btf.Float {
		return encFloat
	}
	switch e := le.Uint32(typ.Tail) >> 24 & 15; {
	case e&4 != 0:
		return encBool
	case e&1 != 0:
		return signed
	}
	return unsigned
}

func (g *btfGraph) values(n *node, typ btf.Type) {
	for i := range typ.N {
		if typ.Kind == btf.Enum64 {
			e := typ.Tail[12*i:]
			n.values = append(n.values, value{g.t.Name(le.Uint32(e)), int64(le.Uint64(e[4:]))})
			continue
		}
		e := typ.Tail[8*i:]
		v := int64(int32(le.Uint32(e[4:])))
		if !typ.Flag && v < 0 {
			v = int64(uint32(v)) // since 6.0 the flag says that values are signed
		}
		n.values = append(n.values, value{g.t.Name(le.Uint32(e)), v})
	}
}

// fields adds the members of a structure or union that begins at a bit of the
// node's, those of members without a name in their place.
func (g *btfGraph) fields(n *node, typ btf.Type, at uint64, depth int) error {
	if g.left -= typ.N + 1; depth > maxNesting || g.left < 0 || len(n.fields) > maxFields {
		return fmt.Errorf("%s has too many members, or structures inside each other", n.tag())
	}
	for i := range typ.N {
		m := typ.Tail[12*i:]
		f := field{name: g.t.Name(le.Uint32(m)), typ: ref(le.Uint32(m[4:]))}
		place := le.Uint32(m[8:])
		if typ.Flag { // bits 31 to 24 are the width of a bit-field
			f.bits = uint64(place >> 24)
			place &= 0xffffff
		}
		f.bit = at + uint64(place)
		if f.name != "" {
			n.fields = append(n.fields, f)
			continue
		}
		in, _, ok, err := g.bare(uint32(f.typ))
		if err != nil {
			return err
		}
		if ok && (in.Kind == btf.Struct || in.Kind == btf.Union) {
			if err := g.fields(n, in, f.bit, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
