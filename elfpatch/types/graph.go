package types

import "fmt"

// A ref names a type of a graph: an offset in .debug_info, or a number of BTF.
// 0 is void.
type ref uint64

// A graph is the type information of an object.
type graph interface {
	// node returns a type without the typedefs and qualifiers around it.
	node(ref) (*node, error)
	// function returns what a function uses by itself; nil if it is not described.
	function(name string) (*function, error)
	// object returns what a name outside of functions stands for; false if it is
	// not described.
	object(name string) (object, bool)
	// enums are the enumerations outside of functions and other types.
	enums() []ref
}

// shape is what a type is made of.
type shape uint8

const (
	void shape = iota
	base
	pointer   // also references
	array     // of target
	record    // struct, class
	union     // union
	enum      // values
	prototype // params, target is the result
	opaque    // something that is not looked into
)

// node is a type.
type node struct {
	shape    shape
	name     string // of the tag, or of the typedef of one without; "" for none
	word     string // "struct", "class", "union", "enum", "&" for references
	size     uint64
	encoding int64 // of base types
	target   ref
	counts   []int64 // of arrays, 0 where it is not known
	fields   []field
	values   []value
	params   []ref
	variadic bool
	declared bool // not defined here: nothing is known of it
}

// field is a member of a record or union. Those of members without a name are
// among them.
type field struct {
	name string
	bit  uint64 // its place, in bits
	bits uint64 // its width if it is a bit-field, else 0
	typ  ref
	slot bool // of the table of virtual functions: bit is its number
}

type value struct {
	name string
	v    int64
}

// function is what a function uses: its prototype, and the types of its
// variables by name.
type function struct {
	proto ref
	vars  []variable
}

type variable struct {
	name string
	typ  ref
}

// object is what a name stands for.
type object struct {
	typ  ref
	code bool // a function
}

// tag is a type as C spells it, without what it is made of.
func (n *node) tag() string {
	name := n.name
	if name == "" {
		name = "(anonymous)"
	}
	if n.word == "" || n.shape != record && n.shape != union && n.shape != enum {
		return name
	}
	return n.word + " " + name
}

// spellings are the names of base types in gcc's words and in C's.
var spellings = map[string]string{
	"short int": "short", "long int": "long", "long long int": "long long",
	"short unsigned int": "unsigned short", "long unsigned int": "unsigned long", "long long unsigned int": "unsigned long long",
}

// What is spelled out of a type: how deep it goes, and how many parameters.
const (
	maxSpell  = 8
	maxParams = 16
)

// spell is a type for messages: "struct s *", "unsigned int", "int [4]".
func spell(g graph, r ref) string { return spellDepth(g, r, 0) }

func spellDepth(g graph, r ref, depth int) string {
	n, err := g.node(r)
	if err != nil || depth > maxSpell {
		return "?"
	}
	switch n.shape {
	case void:
		return "void"
	case pointer:
		mark := "*"
		if n.word != "" {
			mark = n.word
		}
		to := spellDepth(g, n.target, depth+1)
		if to[len(to)-1] == '*' {
			return to + mark
		}
		return to + " " + mark
	case array:
		s := spellDepth(g, n.target, depth+1) + " "
		for _, c := range n.counts {
			s += fmt.Sprintf("[%d]", c)
		}
		return s
	case prototype:
		s := spellDepth(g, n.target, depth+1) + " ("
		for i, p := range n.params {
			if i > 0 {
				s += ", "
			}
			if i == maxParams || depth > 1 {
				s += "…"
				break
			}
			s += spellDepth(g, p, depth+1)
		}
		if n.variadic {
			s += ", ..."
		}
		return s + ")"
	case base:
		if s, ok := spellings[n.name]; ok {
			return s
		}
	case opaque:
		if n.name == "" {
			return "?"
		}
	}
	return n.tag()
}
