package kimage

import (
	"debug/elf"
	"encoding/binary"
)

// EntryHashes are the words that kCFI wants on arm64 before the functions of a module
// that the kernel calls when the module comes and goes.
type EntryHashes struct {
	Init uint32 // of int (void)
	Exit uint32 // of void (void)
}

// The hashes of kCFI are the lower halves of xxHash64 of the types as C++ mangles
// them: _ZTSFivE is int (void), _ZTSFvvE is void (void) (clang, CodeGenModule.cpp,
// CreateKCFITypeId, 19.1). With CONFIG_CFI_ICALL_NORMALIZE_INTEGERS int is u3i32, and
// all names end in ".normalized".
var hashSchemes = []EntryHashes{
	{0x36b1c5a6, 0xa540670c},
	{0x6fbb3035, 0xe5c47d60},
}

// ChecksCalls reports whether the kernel checks indirect calls by the types of functions
// (kCFI): kernel/cfi.c, 6.1, 6.12 and 7.2, built with CONFIG_CFI_CLANG, CONFIG_CFI in 7.2.
func (k *Kernel) ChecksCalls() bool { return len(k.Named("report_cfi_failure")) > 0 }

// EntryHashes finds out how a kernel for arm64 hashes types, by a function that every
// kernel has: void schedule(void). Before it stands the second hash of a scheme.
func (k *Kernel) EntryHashes() (EntryHashes, bool) {
	named := k.Named("schedule")
	if k.Machine != elf.EM_AARCH64 || len(named) != 1 {
		return EntryHashes{}, false
	}
	word, ok := k.File.ReadAddr(k.Symbols[named[0]].Addr-4, 4)
	for _, s := range hashSchemes {
		if ok && binary.LittleEndian.Uint32(word) == s.Exit {
			return s, true
		}
	}
	return EntryHashes{}, false
}
