package types

import (
	"debug/dwarf"
	"fmt"

	"livepatch/internal/leb128"
)

// node reads a type.
func (g *dwarfGraph) node(at ref) (*node, error) {
	if n := g.nodes[at]; n != nil {
		return n, nil
	}
	n, err := g.read(at)
	if err != nil {
		return nil, err
	}
	g.nodes[at] = n
	return n, nil
}

// read takes off typedefs and qualifiers. The innermost typedef gives its name to a
// structure that has none.
func (g *dwarfGraph) read(at ref) (*node, error) {
	name := ""
	for range maxChain {
		if at == 0 {
			return &node{}, nil
		}
		e, err := g.entry(at)
		if err != nil {
			return nil, err
		}
		switch e.Tag {
		case dwarf.TagTypedef:
			name, _ = e.Val(dwarf.AttrName).(string)
		case dwarf.TagConstType, dwarf.TagVolatileType, dwarf.TagRestrictType, dwarf.TagAtomicType, dwarf.TagPackedType, dwarf.TagSharedType:
		default:
			n, err := g.build(e)
			if err == nil && n.name == "" {
				n.name = name
			}
			return n, err
		}
		at = target(e)
	}
	return nil, fmt.Errorf(".debug_info+%#x: a type of more than %d typedefs and qualifiers", uint64(at), maxChain)
}

// target is the type that an entry names, 0 for void.
func target(e *dwarf.Entry) ref {
	off, _ := e.Val(dwarf.AttrType).(dwarf.Offset)
	return ref(off)
}

func number(e *dwarf.Entry, a dwarf.Attr) int64 {
	v, _ := e.Val(a).(int64)
	return v
}

// build makes the node of an entry that g.r has just read.
func (g *dwarfGraph) build(e *dwarf.Entry) (*node, error) {
	n := &node{size: uint64(number(e, dwarf.AttrByteSize)), target: target(e)}
	n.name, _ = e.Val(dwarf.AttrName).(string)
	n.declared, _ = e.Val(dwarf.AttrDeclaration).(bool)
	switch e.Tag {
	case dwarf.TagBaseType:
		n.shape, n.encoding = base, number(e, dwarf.AttrEncoding)
		return n, nil
	case dwarf.TagPointerType:
		n.shape = pointer
		return n, nil
	case dwarf.TagReferenceType:
		n.shape, n.word = pointer, "&"
		return n, nil
	case dwarf.TagRvalueReferenceType:
		n.shape, n.word = pointer, "&&"
		return n, nil
	case dwarf.TagArrayType:
		n.shape = array
		return n, g.children(e, func(c *dwarf.Entry) bool {
			if c.Tag == dwarf.TagSubrangeType {
				n.counts = append(n.counts, elements(c))
			}
			return false
		})
	case dwarf.TagStructType:
		n.shape, n.word = record, "struct"
	case dwarf.TagClassType:
		n.shape, n.word = record, "class"
	case dwarf.TagUnionType:
		n.shape, n.word = union, "union"
	case dwarf.TagEnumerationType:
		n.shape, n.word = enum, "enum"
		return n, g.children(e, func(c *dwarf.Entry) bool {
			if name, ok := c.Val(dwarf.AttrName).(string); ok && c.Tag == dwarf.TagEnumerator {
				n.values = append(n.values, value{name, number(c, dwarf.AttrConstValue)})
			}
			return false
		})
	case dwarf.TagSubroutineType, dwarf.TagSubprogram:
		n.shape = prototype
		return n, g.prototype(n, e)
	default:
		n.shape = opaque
		return n, nil
	}
	return n, g.fields(n, e)
}

// elements is the number of elements of a dimension, 0 if it is not constant.
func elements(e *dwarf.Entry) int64 {
	if c, ok := e.Val(dwarf.AttrCount).(int64); ok {
		return c
	}
	if c, ok := e.Val(dwarf.AttrUpperBound).(int64); ok {
		return c + 1
	}
	return 0
}

// prototype reads parameters and result, of a clone those of the function that it is a
// clone of.
func (g *dwarfGraph) prototype(n *node, e *dwarf.Entry) error {
	for range maxChain {
		if n.target == 0 {
			n.target = target(e)
		}
		if e.Val(dwarf.AttrAbstractOrigin) == nil && len(n.params) == 0 {
			err := g.children(e, func(c *dwarf.Entry) bool {
				artificial, _ := c.Val(dwarf.AttrArtificial).(bool)
				switch {
				case c.Tag == dwarf.TagFormalParameter && !artificial:
					n.params = append(n.params, target(c))
				case c.Tag == dwarf.TagUnspecifiedParameters:
					n.variadic = true
				}
				return false
			})
			if err != nil {
				return err
			}
		}
		to, ok := completes(e)
		if !ok {
			return nil
		}
		var err error
		if e, err = g.entry(to); err != nil {
			return err
		}
	}
	return nil
}

// The limits of a structure: how many without a name are inside each other, and how
// many fields there are in all.
const (
	maxNesting = 16
	maxFields  = 1 << 16
)

// fields reads the members of a structure, class or union.
func (g *dwarfGraph) fields(n *node, e *dwarf.Entry) error {
	if n.name == "" {
		v, err := g.inherited(e, dwarf.AttrName)
		if err != nil {
			return err
		}
		n.name, _ = v.(string)
		if _, err := g.entry(ref(e.Offset)); err != nil { // back to its children
			return err
		}
	}
	if e.Val(dwarf.AttrSignature) != nil {
		n.declared = true // it is in a type unit
	}
	list, err := g.members(e)
	if err != nil {
		return err
	}
	return g.flatten(n, list, 0, 0)
}

// members lists the members of a structure, those without a name as they are.
func (g *dwarfGraph) members(e *dwarf.Entry) (list []field, err error) {
	err = g.children(e, func(c *dwarf.Entry) bool {
		name, _ := c.Val(dwarf.AttrName).(string)
		switch c.Tag {
		case dwarf.TagMember:
			external, _ := c.Val(dwarf.AttrExternal).(bool)
			declared, _ := c.Val(dwarf.AttrDeclaration).(bool)
			if !external && !declared {
				list = append(list, member(c, name))
			}
		case dwarf.TagInheritance:
			list = append(list, field{name: inherits, bit: location(c), typ: target(c)})
		case dwarf.TagSubprogram:
			if slot, ok := vtableSlot(c); ok {
				if link, ok := c.Val(dwarf.AttrLinkageName).(string); ok {
					name = link
				}
				list = append(list, field{name: name, bit: slot, slot: true, typ: 0})
			}
		}
		return false
	})
	return list, err
}

// inherits stands for the name of a member that is a base class, until that is
// known. No member has it.
const inherits = ":"

// flatten adds members to a node, and those of members without a name in their
// place.
func (g *dwarfGraph) flatten(n *node, list []field, at uint64, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("%s: more than %d structures inside each other", n.tag(), maxNesting)
	}
	for _, f := range list {
		f.bit += at
		if f.slot {
			f.bit -= at
		}
		if f.name == inherits {
			parent, err := g.node(f.typ)
			if err != nil {
				return err
			}
			f.name = "of base " + parent.tag()
		}
		if f.name == "" {
			e, err := g.bare(f.typ)
			if err != nil {
				return err
			}
			if e != nil {
				inner, err := g.members(e)
				if err != nil {
					return err
				}
				if err := g.flatten(n, inner, f.bit, depth+1); err != nil {
					return err
				}
			}
			continue
		}
		if len(n.fields) >= maxFields {
			return fmt.Errorf("%s: more than %d fields", n.tag(), maxFields)
		}
		n.fields = append(n.fields, f)
	}
	return nil
}

// bare reads the entry of a structure or union without typedefs and qualifiers; nil
// if it is something else.
func (g *dwarfGraph) bare(at ref) (*dwarf.Entry, error) {
	for range maxChain {
		if at == 0 {
			return nil, nil
		}
		e, err := g.entry(at)
		if err != nil {
			return nil, err
		}
		switch e.Tag {
		case dwarf.TagTypedef, dwarf.TagConstType, dwarf.TagVolatileType, dwarf.TagRestrictType, dwarf.TagAtomicType:
			at = target(e)
		case dwarf.TagStructType, dwarf.TagClassType, dwarf.TagUnionType:
			return e, nil
		default:
			return nil, nil
		}
	}
	return nil, nil
}

// member is a field with its place: DWARF 5, 5.7.6, and 4, 5.5.6, whose
// DW_AT_bit_offset counts from the most significant bit of the storage unit.
func member(c *dwarf.Entry, name string) field {
	f := field{name: name, bit: location(c), bits: uint64(number(c, dwarf.AttrBitSize)), typ: target(c)}
	if at, ok := c.Val(dwarf.AttrDataBitOffset).(int64); ok {
		f.bit = uint64(at)
	} else if at, ok := c.Val(dwarf.AttrBitOffset).(int64); ok {
		f.bit += uint64(8*number(c, dwarf.AttrByteSize) - at - int64(f.bits))
	}
	return f
}

const (
	opConstu     = 0x10 // DW_OP_constu
	opPlusUconst = 0x23 // DW_OP_plus_uconst
)

// location is the place of a member in bits.
func location(c *dwarf.Entry) uint64 {
	switch v := c.Val(dwarf.AttrDataMemberLoc).(type) {
	case int64:
		return 8 * uint64(v)
	case []byte:
		if len(v) > 1 && v[0] == opPlusUconst {
			offset, _ := leb128.Uint(v[1:])
			return 8 * offset
		}
	}
	return 0
}

// vtableSlot is the number of a virtual function.
func vtableSlot(c *dwarf.Entry) (uint64, bool) {
	v, ok := c.Val(dwarf.AttrVtableElemLoc).([]byte)
	if !ok || len(v) < 2 || v[0] != opConstu {
		return 0, false
	}
	slot, n := leb128.Uint(v[1:])
	return slot, n > 0
}
