package unwind

import (
	"debug/elf"
	"io"
)

// traits are what differs by machine.
type traits struct {
	sp   uint64 // DWARF number of the stack pointer
	ra   uint64 // of what stands for the return address
	unit uint64 // bytes: every instruction begins at a multiple of it
	leaf bool   // a function that calls nothing may keep its return address in a register, and take no stack

	// before is how many bytes before an address are looked at; call reports
	// whether a call may end them, trap whether the instruction for system calls
	// does.
	before     int
	call, trap func(b []byte) bool

	// handled returns what a signal handler interrupted, if that is what the registers
	// lead to, by code which the kernel does not describe.
	handled func(u *Unwinder, r *Registers) (*Registers, bool)
}

var machines = map[elf.Machine]*traits{elf.EM_X86_64: &x86, elf.EM_AARCH64: &arm64}

func (m *traits) afterCall(mem io.ReaderAt, pc uint64) bool { return m.behind(mem, pc, m.call) }

func (m *traits) resting(mem io.ReaderAt, pc uint64) bool { return m.behind(mem, pc, m.trap) }

func (m *traits) behind(mem io.ReaderAt, pc uint64, is func(b []byte) bool) bool {
	b := make([]byte, m.before)
	if pc < uint64(len(b)) {
		return false
	}
	n, _ := mem.ReadAt(b, int64(pc)-int64(len(b)))
	return n == len(b) && is(b)
}
