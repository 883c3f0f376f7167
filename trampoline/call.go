package trampoline

import (
	"debug/elf"
	"fmt"
)

// A Call is code that a thread of the target runs as a signal handler, once: it
// calls a function of two arguments and then stores a byte, by which whoever
// looks at the memory of the target knows that the call is over.
type Call struct {
	Function, First, Second uint64
	Flag                    uint64 // address of the byte
	Value                   byte   // that is stored there

	// Errno is the function that returns where the thread keeps its error number,
	// which the call leaves as it is; 0 where nothing has one.
	Errno uint64
}

// CallSize is the most bytes that a Call takes.
const CallSize = 160

// Code returns the instructions of the call. They run wherever they lie.
func (c Call) Code(m elf.Machine) ([]byte, error) {
	switch m {
	case elf.EM_X86_64:
		return x86Called(c), nil
	case elf.EM_AARCH64:
		return arm64Called(c), nil
	}
	return nil, fmt.Errorf("no calls are made on %v", m)
}
