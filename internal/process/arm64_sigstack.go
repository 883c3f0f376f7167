//go:build arm64

package process

// In a signal frame of arm64 (struct sigcontext) the first record, that of the SIMD
// registers with its magic number and size, follows sp, pc, pstate and padding.
const (
	frameMark     = "\x01\x80\x50\x46\x10\x02\x00\x00"
	frameMarkToSP = 32 // bytes from the stack pointer to the mark
)
