//go:build arm64

package process

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/manifest"
)

// What the loader has to know of arm64, beside frames and instructions.
//
// Pages have 4, 16 or 64 KiB, as the kernel was built. The parts of a patch take
// whole pages of the largest size: what is mapped so can be mapped on every kernel.
//
// A breakpoint, brk, is a word and stops a thread at its own address, with SIGTRAP.
//
// Caches: a processor fetches instructions through a cache that does not see what
// is stored. Who writes through /proc/PID/mem or ptrace need not care: the kernel
// copies into a page by copy_to_user_page (arch/arm64/mm/flush.c), which cleans the
// data cache and invalidates the instruction caches of all processors for what it
// has written if the mapping is executable. What a processor has fetched before that
// is dropped by the exception return that lets a stopped thread go on. A page of new
// memory is written so, too, before anything leads to it.
//
// Pointer authentication signs return addresses in the bits above those of user
// addresses; PTRACE_GETREGSET tells which (NT_ARM_PAC_MASK). On stacks they are
// compared without. Branch target identification guards mappings with PROT_BTI: an
// indirect branch into one must land on a landing pad. Memory of a patch is mapped
// without, so everything in it can be branched to; what leads into the target from
// there is b, bl, ret, or br through x16 or x17 to where the compiler has put a pad.
// A thread that is sent somewhere by its tracer comes by no branch.

const (
	machine         = elf.EM_AARCH64
	manifestMachine = manifest.MachineARM64
	machineName     = "arm64"

	pageSize  = 64 << 10
	siteReach = 1 << 27 // of b
	userTop   = 1 << 48
	codeStep  = 4 // instructions begin at multiples of it

	trapPast = 0 // bytes behind its start at which a breakpoint stops a thread
)

// breakpointCode is the instruction of a breakpoint: brk #0.
func breakpointCode() []byte { return []byte{0x00, 0x00, 0x20, 0xd4} }

// The two pieces of code that an injected system call needs. They exist in nearly
// every program; the second is the kernel's, in the vdso.
var (
	codeSyscall = []byte{
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0xc0, 0x03, 0x5f, 0xd6, // ret
	}
	codeSigreturn = [][]byte{{
		0x68, 0x11, 0x80, 0xd2, // mov x8, #139
		0x01, 0x00, 0x00, 0xd4, // svc #0
	}}
)

// entersKernel reports whether code starts with a system call.
func entersKernel(code []byte) bool {
	return len(code) < syscallLength || binary.LittleEndian.Uint32(code) == arm64Svc
}

const arm64Svc = 0xd4000001 // svc #0
