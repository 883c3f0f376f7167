// Package types compares the types that functions of two objects use, before
// and after a change. Code of a patch works on memory that code from before the
// change has laid out, and is called by code that passes arguments as before. It
// says which types are other ones, and names the field.
//
// Types are read from DWARF 4 and 5, or from BTF where there is none. A function
// uses the types of its parameters and its result, of its variables and those of
// what is inlined into it, of the global variables that it refers to, and the
// prototypes of the functions that it refers to. From there every type that code can reach
// counts: members, elements, what typedefs stand for, and what pointers lead to,
// however far. Of the rest enumerations are looked at: code that uses an enumerator
// as a number has no trace of its type.
package types

import (
	"errors"
	"fmt"

	"livepatch/elfpatch"
)

// Kind is what a change of a type is about.
type Kind string

const (
	Layout    Kind = "layout"    // where the fields of a type are, and what they hold
	Enum      Kind = "enum"      // the value of an enumerator
	Prototype Kind = "prototype" // parameters and result of a function
)

// A Change is one difference of a type that is in both objects.
type Change struct {
	Kind Kind
	Type string // "struct redisServer"; of prototypes the name of the function
	Text string // "field maxclients moved from offset 0x10 to 0x18"

	// Breaking: code from before the change and code from after it do not
	// understand the same memory or arguments. Else the bytes mean the same to
	// both, such as those of int and unsigned int.
	Breaking bool

	User string // the first of the functions, in the order given, that reaches it; "" if none does
}

func (c Change) String() string { return c.Type + ": " + c.Text }

// A Func is a function that is in both objects.
type Func struct {
	Name          string // for Change.User
	Orig, Patched string // names of its symbols
	// OrigUses, PatchedUses are the names of what its code refers to.
	OrigUses, PatchedUses []string
}

// A Result is the answer of Compare.
type Result struct {
	Changes []Change // in the order in which the functions reach them
	Types   int      // how many were compared
	Unknown []string // functions that the type information does not describe
	Partial string   // why not all types were compared, "" if they were
	BTF     bool     // an object has no DWARF; variables of functions were not compared
}

// ErrNoTypes says that an object has neither DWARF nor BTF.
var ErrNoTypes = errors.New("no type information")

// Compare compares the types that the functions use in one object and in the
// other. The error wraps ErrNoTypes, or says what is wrong with the type
// information.
func Compare(orig, patched *elfpatch.File, funcs []Func) (*Result, error) {
	a, err := open(orig)
	if err != nil {
		return nil, fmt.Errorf("types of the before object: %w", err)
	}
	b, err := open(patched)
	if err != nil {
		return nil, fmt.Errorf("types of the after object: %w", err)
	}
	c := &comparison{a: a, b: b, seen: map[[2]ref]bool{}, out: &Result{}, found: map[Change]bool{}, calls: map[[2]ref]difference{}}
	_, btfA := a.(*btfGraph)
	_, btfB := b.(*btfGraph)
	c.out.BTF = btfA || btfB
	for _, f := range funcs {
		if err := c.function(f); err != nil {
			return nil, fmt.Errorf("types of %s: %w", f.Name, err)
		}
	}
	if err := c.numbers(); err != nil {
		return nil, fmt.Errorf("enumerations: %w", err)
	}
	return c.out, nil
}

// open reads the type information of an object: DWARF, which knows more, or BTF.
func open(f *elfpatch.File) (graph, error) {
	g, err := openDWARF(f)
	if errors.Is(err, ErrNoTypes) {
		return openBTF(f)
	}
	return g, err
}
