package disasm

import (
	"debug/elf"
	"fmt"
	"strings"
)

// Symbolizer names an address: the name and the address that it stands for,
// at or before the one asked for. An empty name means that none is known.
type Symbolizer = func(addr uint64) (name string, base uint64)

// Text prints the one instruction that b consists of, as the GNU assembler
// writes it, standing at pc. Where no text is known, or b is not exactly one
// instruction, it prints the bytes: ".byte 0x0f,0x04" or ".inst 0x00000001".
// sym may be nil.
func Text(m elf.Machine, b []byte, pc uint64, sym Symbolizer) string {
	if sym == nil {
		sym = func(uint64) (string, uint64) { return "", 0 }
	}
	in, err := Decode(m, b)
	if err != nil || in.Len != len(b) {
		return rawText(m, b)
	}
	s := machineText(m, b, in, pc, sym)
	if s == "" {
		return rawText(m, b)
	}
	return s
}

// machineText is "" when the printer does not know the instruction. The
// printers are not ours and were not written for hostile bytes.
func machineText(m elf.Machine, b []byte, in Inst, pc uint64, sym Symbolizer) (s string) {
	defer func() {
		if recover() != nil {
			s = ""
		}
	}()
	if m == elf.EM_AARCH64 {
		return arm64Text(b, in, pc, sym)
	}
	return x86Text(b, in, pc, sym)
}

// rawText prints bytes that have no other text.
func rawText(m elf.Machine, b []byte) string {
	if m == elf.EM_AARCH64 && len(b) == arm64Len {
		return fmt.Sprintf(".inst 0x%08x", uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24)
	}
	var w strings.Builder
	w.WriteString(".byte")
	for i, c := range b {
		sep := ","
		if i == 0 {
			sep = " "
		}
		fmt.Fprintf(&w, "%s0x%02x", sep, c)
	}
	return w.String()
}

// place prints an address and, when it has one, its name: "0x401130 <main+0x10>".
func place(addr uint64, sym Symbolizer) string {
	name, base := sym(addr)
	switch {
	case name == "":
		return fmt.Sprintf("%#x", addr)
	case addr == base:
		return fmt.Sprintf("%#x <%s>", addr, name)
	}
	return fmt.Sprintf("%#x <%s+%#x>", addr, name, addr-base)
}
