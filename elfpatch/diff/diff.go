// Package diff compares two relocatable objects, before and after a change,
// function by function; says what changed and why; and cuts the new object
// that holds what changed. It never modifies its inputs.
package diff

import (
	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// Status is what became of a function or a variable.
type Status string

const (
	Same    Status = "same"
	Changed Status = "changed"
	New     Status = "new"
	Removed Status = "removed"
)

// Delta is the answer of Compare: every function and variable of either
// object with its twin and status, and all reasons against patching.
type Delta struct {
	Orig, Patched *elfpatch.File
	Funcs         []Func // in the order of the patched object, removed ones last
	Data          []Datum
	Refusals      refusal.List
	Warnings      []string // what the author should know
	Ignored       []string // functions and sections whose changes the author wants ignored

	c *comparison
}

// Func is one function of either object.
type Func struct {
	Name    string // as in the original object, where it is to be found in the target; as in the patched one when new
	Status  Status
	Orig    int         // symbol index in Orig, 0 if new
	Patched int         // symbol index in Patched, 0 if removed
	Why     *Difference // first difference, nil unless changed
	Parent  int         // symbol in Patched of the function that this outlined part (".cold") belongs to, else 0
	Size    uint64      // in the patched object, 0 if removed
	OldSize uint64      // in the original object, 0 if new
	Lines   bool        // same but for line numbers in it that moved with the source
	Ignored bool        // its changes are ignored because the author says so
}

// Datum is one variable, constant or unnamed piece of data.
type Datum struct {
	Name    string
	Status  Status
	Orig    int // symbol index in Orig, 0 if none
	Patched int
	Size    uint64
	Live    bool // the running copy stays in use (writable data)
	Why     *Difference
}

// Difference is the first place where two functions or constants part.
type Difference struct {
	Off      uint64 // of the instruction, from the start of the patched function
	Old, New string // text of the two instructions or operands
	In       string // where Old and New are, if not at Off: a constant or an outlined part that is reached from there

	whole bool // Old and New are all of the constant
}

// Cut is what a patch is made from: an ET_REL object with every changed and
// new function and the data that only they use, one section each.
type Cut struct {
	Object    *elfpatch.File
	Funcs     []CutFunc
	Externals []External
	Kernel    *KernelCut // of kernel objects, nil for others

	// Unwinds says why an exception may meet one of the functions, so that the
	// target's unwinder has to know their frames; empty if none can.
	Unwinds string
}

// CutFunc is a changed function of the cut object. New ones that only changed
// ones call are not listed.
type CutFunc struct {
	Name   string
	Symbol int // in Object: the replacement
	Orig   int // symbol index in Delta.Orig
}

// External is one undefined symbol of the cut object. Where a changed function
// is referred to by its address (not called), the reference is an External of
// the original function, so that pointers compare equal in old and new code;
// so are calls by a name that other modules may interpose (global, of default
// visibility). Other calls among changed functions go to the replacements
// directly.
type External struct {
	Symbol int    // in Object
	Name   string // as the objects spell it (Object's own symbol names are unique, but for those that mark data and code)
	Orig   int    // symbol index in Delta.Orig (defined or undefined there), 0 if Orig does not know it
	TLS    bool
}
