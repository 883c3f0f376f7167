//go:build !arm64

package process

import (
	"debug/elf"

	"livepatch/manifest"
)

// What the loader has to know of x86-64, beside frames and instructions.

const (
	machine         = elf.EM_X86_64
	manifestMachine = manifest.MachineX86
	machineName     = "x86-64"

	pageSize  = 4096
	siteReach = 1 << 31 // of a rel32
	userTop   = 1<<47 - 4096
	codeStep  = 1 // instructions may begin at any multiple of it

	trapPast = 1 // bytes behind its start at which a breakpoint stops a thread
)

// breakpointCode is the instruction of a breakpoint: int3.
func breakpointCode() []byte { return []byte{0xcc} }

// The two pieces of code that an injected system call needs. They exist in
// nearly every program. The first form of each is what is written where they do
// not.
var (
	codeSyscall = []byte{0x0f, 0x05, 0xc3} // syscall; ret

	codeSigreturn = [][]byte{
		{0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05},             // mov $15,%eax; syscall
		{0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05}, // mov $15,%rax; syscall
	}
)

// entersKernel reports whether code starts with a system call: syscall, sysenter
// or int $0x80.
func entersKernel(code []byte) bool {
	if len(code) < syscallLength {
		return true
	}
	switch [syscallLength]byte(code) {
	case [...]byte{0x0f, 0x05}, [...]byte{0x0f, 0x34}, [...]byte{0xcd, 0x80}:
		return true
	}
	return false
}
