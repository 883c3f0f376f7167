package kmod

import "debug/elf"

// machine is what differs by machine in a module.
type machine struct {
	loads     map[uint32]int // relocation types that the kernel's module loader knows, and the size of their fields
	wantsZero bool           // the loader refuses fields that are not zero
	pointer   uint32         // relocation type of an address
	nops      func(n int) []byte
	start     func(e *emitter, patch uint32) code // init_module: hands the patch over
	end       func(e *emitter) code               // cleanup_module: nothing to do
	// describeCode adds what the kernel wants to know about start and end, and
	// the sections that it expects in every module.
	describeCode func(e *emitter)
}

var machines = map[elf.Machine]*machine{elf.EM_X86_64: &x86, elf.EM_AARCH64: &arm64}
