// Package taken tells whether code makes addresses of its own memory: what code
// never makes it cannot have given away.
package taken

import "debug/elf"

// Address looks in code of a machine, which is at an address, for an instruction that
// makes an address from low to high, and returns where it stands. It may find too
// many. Of a machine that it does not know all code does.
func Address(m elf.Machine, code []byte, at, low, high uint64) (uint64, bool) {
	switch m {
	case elf.EM_X86_64:
		return x86(code, at, low, high)
	case elf.EM_AARCH64:
		return arm64(code, at, low, high)
	}
	return at, true
}
