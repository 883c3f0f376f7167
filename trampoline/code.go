package trampoline

// Code is instructions or data that a patch brings along, complete but for its
// references.
type Code struct {
	Bytes []byte // zeros in the fields of references (opcode bits kept on arm64)
	Refs  []Ref  // in the order of their offsets
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

func (c *Code) ref(off int, typ uint32, to Place, addend int64) {
	c.Refs = append(c.Refs, Ref{off, typ, to, addend})
}
