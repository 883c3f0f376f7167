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

// A Place is what a Ref refers to.
type Place struct {
	Kind PlaceKind
	Addr uint64 // InTarget: link-time address
}

// PlaceKind says to whom a Place belongs.
type PlaceKind string

const (
	InTarget    PlaceKind = "target"      // an address of the patched file
	Replacement PlaceKind = "replacement" // the replacement of the function that the code is of
)

func target(addr uint64) Place { return Place{InTarget, addr} }

// emit adds bytes and returns their offset.
func (c *Code) emit(b ...byte) int {
	off := len(c.Bytes)
	c.Bytes = append(c.Bytes, b...)
	return off
}

func (c *Code) ref(off int, typ uint32, to Place, addend int64) {
	c.Refs = append(c.Refs, Ref{off, typ, to, addend})
}
