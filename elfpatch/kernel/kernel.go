// Package kernel is what is known of Linux kernel objects beyond ELF, as data
// with a source per row: which sections hold tables about code and how their
// entries are laid out, which sections and names the kernel's build gives a
// meaning of its own, and by which marks a kernel object is told from others.
//
// Sources are files of the kernel's source with a version in which they say
// so. Layouts that changed over time have a row each; Split finds which one a
// section uses.
package kernel

import (
	"debug/elf"
	"strings"
)

// Use says what becomes of a special section when functions are replaced.
type Use uint8

const (
	// Entries belong to functions: to the one that their first FieldCode leads
	// into. They are compared with it, and kept for the functions of a patch.
	Entries Use = iota + 1
	// Support is code or data that only entries lead to, or code by way of
	// them: compared by contents, copied with the entry.
	Support
	// Unwind describes code in tables that have to be made or kept for new
	// code and are never compared.
	Unwind
	// Sites lists patch sites. They are made anew for new code.
	Sites
	// Registry is a table that the kernel collects when it is built, boots, or
	// loads a module. A patch cannot add to it.
	Registry
	// Descriptors are variables that belong to one place in code. The patch
	// brings its own.
	Descriptors
	// Exports are the tables of exported symbols.
	Exports
	// Request holds what a patch's author asks for with macros, see Requests.
	Request
	// Dropped is read by tools of the build and never loaded, or says nothing
	// about the program.
	Dropped
)

// A Section is a row of the table of special sections.
type Section struct {
	Name    string      // exact; a prefix if it ends in "*"
	Machine elf.Machine // EM_NONE: both
	Use     Use
	Layouts []Layout // those known, the most recent first
	What    string   // what it holds, for readers
	// BootOnly: the kernel acts on the entries of its own image only, when it
	// boots. Code with such an entry cannot live in a module.
	BootOnly bool
	// Derived: the entries follow from the code, so they are not compared.
	Derived bool
	// Harmless: code works the same without its entry in this Registry.
	Harmless bool
	Source   string
}

// A Layout is one form of the entries of a table.
type Layout struct {
	Size   uint64
	Fields []Field
	Short  uint64 // if not 0, the last entry may end here: it lacks its padding
	Source string // where it differs from that of the section
}

// A Field is a part of an entry.
type Field struct {
	Off, Size uint8
	Kind      FieldKind
	Optional  bool // of a reference: it may be a number instead
}

// FieldKind says what a field means.
type FieldKind uint8

const (
	FieldCode        FieldKind = iota + 1 // reference: the place in the code that the entry is about
	FieldTarget                           // reference: another place in the same function, as a rule
	FieldReplacement                      // reference: code in a Support section, FieldReplLen bytes long; a function where the entry is a callback
	FieldKey                              // reference: a static key, a static call or its trampoline, a descriptor
	FieldString                           // reference: a string (the file name of a BUG, a format)
	FieldHandler                          // reference: a function of the kernel
	FieldLine                             // number: a source line
	FieldFlags                            // number that is compared
	FieldCodeLen                          // number: bytes of code at FieldCode
	FieldReplLen                          // number: bytes at FieldReplacement
	FieldPadding                          // not compared
)

// IsRef reports a field that a relocation fills.
func (k FieldKind) IsRef() bool { return k >= FieldCode && k <= FieldHandler }

// Field returns the first field of a kind.
func (l *Layout) Field(k FieldKind) (Field, bool) {
	for _, f := range l.Fields {
		if f.Kind == k {
			return f, true
		}
	}
	return Field{}, false
}

// Lookup returns the row for a section of a machine's objects, nil if the name
// has no meaning of its own.
func Lookup(m elf.Machine, name string) *Section {
	if rows := exact[name]; rows != nil {
		for _, i := range rows {
			if s := &Sections[i]; s.Machine == elf.EM_NONE || s.Machine == m {
				return s
			}
		}
	}
	for _, i := range prefixes {
		s := &Sections[i]
		if (s.Machine == elf.EM_NONE || s.Machine == m) && strings.HasPrefix(name, strings.TrimSuffix(s.Name, "*")) {
			return s
		}
	}
	return nil
}

var exact, prefixes = index()

func index() (map[string][]int, []int) {
	by := map[string][]int{}
	var pre []int
	for i, s := range Sections {
		if strings.HasSuffix(s.Name, "*") {
			pre = append(pre, i)
		} else {
			by[s.Name] = append(by[s.Name], i)
		}
	}
	return by, pre
}
