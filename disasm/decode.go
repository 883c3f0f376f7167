package disasm

import (
	"debug/elf"
	"fmt"
)

// Error says why bytes are not an instruction.
type Error struct {
	Machine   elf.Machine
	Off       int    // of the instruction in what was walked; 0 from Decode
	Bytes     []byte // the first bytes that were looked at, 15 at most
	Text      string // what is wrong
	Truncated bool   // the bytes end before the instruction does
}

func (e *Error) Error() string {
	return fmt.Sprintf("decode %s instruction at +%#x (% x): %s", MachineName(e.Machine), e.Off, e.Bytes, e.Text)
}

// MachineName is the word for a machine in messages and listings: "x86-64" or
// "arm64", and the ELF constant of any other.
func MachineName(m elf.Machine) string {
	switch m {
	case elf.EM_X86_64:
		return "x86-64"
	case elf.EM_AARCH64:
		return "arm64"
	}
	return m.String()
}

// fault is why decoding stopped; the zero value means that it did not.
// It becomes an *Error at the edge of the package, so that the hot path does
// not allocate.
type fault uint8

const (
	ok fault = iota
	truncated
	tooLong
	undefined
	badPrefix
	badOperand
	unallocated
)

var faultText = [...]string{
	truncated:   "the bytes end before the instruction does",
	tooLong:     "longer than 15 bytes",
	undefined:   "undefined opcode",
	badPrefix:   "a prefix that this opcode does not allow",
	badOperand:  "an operand that this opcode does not allow",
	unallocated: "unallocated encoding",
}

// newError keeps a copy of the bytes: the caller may reuse them.
func newError(m elf.Machine, b []byte, f fault) *Error {
	n := min(len(b), maxX86Len)
	if m == elf.EM_AARCH64 {
		n = min(n, arm64Len)
	}
	return &Error{Machine: m, Bytes: append([]byte(nil), b[:n]...), Text: faultText[f], Truncated: f == truncated}
}

// Decode decodes the first instruction of b. It looks at no more bytes than
// the instruction has. The error is an *Error.
func Decode(m elf.Machine, b []byte) (Inst, error) {
	var in Inst
	var f fault
	switch m {
	case elf.EM_X86_64:
		f = decodeX86(&in, b)
	case elf.EM_AARCH64:
		f = decodeARM64(&in, b)
	default:
		return Inst{}, &Error{Machine: m, Text: "no decoder for this machine"}
	}
	if f != ok {
		return Inst{}, newError(m, b, f)
	}
	return in, nil
}

// Walk decodes b from its first byte to its last and calls fn with every
// instruction and its offset, until fn returns false. It stops at the first
// bytes that are not an instruction, with an *Error that has their offset.
func Walk(m elf.Machine, b []byte, fn func(off int, in Inst) bool) error {
	for off := 0; off < len(b); {
		in, err := Decode(m, b[off:])
		if err != nil {
			e := err.(*Error)
			e.Off = off
			return e
		}
		if !fn(off, in) {
			return nil
		}
		off += in.Len
	}
	return nil
}
