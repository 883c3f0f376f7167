package fentry

// Entries of arm64.
//
// With -mbranch-protection=bti a function that may be called indirectly begins
// with bti c, which does nothing else; it stays and the site is behind it. With
// pac-ret it begins with paciasp, which signs the return address and is a
// landing pad as well. A redirect must not stand behind paciasp, since the
// replacement signs the address itself; it overwrites paciasp, and where the
// image is guarded (its property note says BTI) it starts with bti c.
//
// -fpatchable-function-entry=N,M puts M NOPs before the entry, then bti c, then
// N-M NOPs; paciasp follows. The kernel keeps a pointer in the aligned eight
// bytes before the entry, and its call in the second NOP behind it.
//
// Every function has room for one branch, so nothing but data in the text, or
// a branch behind the landing pad that is replaced, stands against a site.

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/disasm"
	"livepatch/trampoline"
)

// Hint instructions at entries (Arm ARM, C6.2).
const (
	arm64Paciasp = 0xd503233f
	arm64Pacibsp = 0xd503237f
	arm64BTI     = 0xd503241f // targets in bits 6 and 7
	arm64BTIMask = 0xffffff3f
	arm64BTICall = 1 << 6
	arm64BTIJump = 1 << 7
)

func (fd *Finder) arm64Entry(b []byte) entry {
	if len(b) < trampoline.Arm64BranchLen {
		return entry{}
	}
	word := binary.LittleEndian.Uint32(b)
	switch {
	case word&arm64BTIMask == arm64BTI:
		return entry{landing: arm64BTIName(word), gap: trampoline.Arm64BranchLen}
	case word == arm64Paciasp || word == arm64Pacibsp:
		e := entry{landing: "paciasp"}
		if word == arm64Pacibsp {
			e.landing = "pacibsp"
		}
		if fd.guarded {
			e.lead = trampoline.Arm64BTI()
		}
		return e
	}
	return entry{}
}

func arm64BTIName(word uint32) string {
	switch word & (arm64BTICall | arm64BTIJump) {
	case arm64BTICall:
		return "bti c"
	case arm64BTIJump:
		return "bti j"
	case arm64BTICall | arm64BTIJump:
		return "bti jc"
	}
	return "bti"
}

// arm64FillerAt is x86FillerAt for words.
func arm64FillerAt(b []byte) (int, bool) {
	in, err := disasm.Decode(elf.EM_AARCH64, b)
	if err != nil {
		return 0, false
	}
	return in.Len, in.Nop
}
