package kmod

import (
	"debug/elf"

	"livepatch/elfpatch"
)

// machine is what differs by machine in a module.
type machine struct {
	loads     map[uint32]int // relocation types that the kernel's module loader knows, and the size of their fields
	wantsZero bool           // the loader refuses fields that are not zero
	pointer   uint32         // relocation type of an address
	distance  uint32         // and of a distance in 4 bytes
	nops      func(n int) []byte
	start     func(e *emitter, patch uint32, to string) code // init_module: hands the patch over
	end       func(e *emitter) code                          // cleanup_module: nothing to do

	// trampoline is what ftrace calls for a function: it goes on with the
	// replacement if the gate is open, else where the function's record says,
	// prev bytes into the records. leave goes on with the old body.
	trampoline func(e *emitter, replacement uint32, prev int64) code
	leave      func(e *emitter) code

	// enter, encode and branch encode programs, see assemble.
	enter  func(bare bool) encoded
	encode func(e *emitter, o op) encoded
	branch func(b []byte, field, distance int)

	// reach leads branches that the module's loader could not make reach by way of
	// code of the patch's own; nil if there are none.
	reach func(g *merger, rels map[*elfpatch.Section][]elfpatch.Rela)

	// describeCode adds what the kernel wants to know about start and end, and
	// the sections that it expects in every module.
	describeCode func(e *emitter)
}

var machines = map[elf.Machine]*machine{elf.EM_X86_64: &x86, elf.EM_AARCH64: &arm64}
