package trampoline

// Code is instructions or data that a patch brings along, complete but for its
// references.
type Code struct {
	Bytes []byte // zeros in the fields of references (opcode bits kept on arm64)
	Refs  []Ref  // in the order of their offsets
	Rows  []Row  // of instructions: how their caller is found, by rising offsets
}

// A Row says how the caller is found from an instruction on: as from another
// one, with more bytes on the stack. It is what unwinders need to know of code
// that stands between a call and the function that was called.
type Row struct {
	Off    int
	As     uint64 // link-time address of an instruction of the patched file; 0: as from the first one of any function
	Pushed int    // bytes on the stack besides
	Return uint64 // DWARF number of the register that has the return address instead; 0: where As has it
}

// A Ref is a field of Code that depends on where things are loaded: a
// relocation of the machine, as ELF defines it, without a symbol table.
type Ref struct {
	Off    int
	Type   uint32 // an elf.R_X86_64 or elf.R_AARCH64
	To     Place
	Addend int64
}

// A Place is what a Ref refers to, and where a redirect leads.
type Place struct {
	Kind     PlaceKind
	Addr     uint64 // InTarget: link-time address
	Function int    // Replacement, Entry, Record: index of the function
}

// PlaceKind says what a Place is.
type PlaceKind string

const (
	Replacement PlaceKind = "replacement" // the replacement of a function
	InTarget    PlaceKind = "target"      // an address of the patched file
	Entry       PlaceKind = "entry"       // code of its own that calls of a function come through
	Handler     PlaceKind = "handler"     // code that calls of all functions come through
	Table       PlaceKind = "table"       // of Shared
	Record      PlaceKind = "record"      // of Slot: what one function has instead
	Version     PlaceKind = "version"     // the byte that all functions of a patch switch by
)

func target(addr uint64) Place { return Place{Kind: InTarget, Addr: addr} }

// emit adds bytes and returns their offset.
func (c *Code) emit(b ...byte) int {
	off := len(c.Bytes)
	c.Bytes = append(c.Bytes, b...)
	return off
}

// row describes what is emitted next.
func (c *Code) row(r Row) {
	r.Off = len(c.Bytes)
	c.Rows = append(c.Rows, r)
}

// pushed describes what is emitted next, of a function that has just been
// called.
func (c *Code) pushed(n int) { c.row(Row{Pushed: n}) }

func (c *Code) ref(off int, typ uint32, to Place, addend int64) {
	c.Refs = append(c.Refs, Ref{off, typ, to, addend})
}
