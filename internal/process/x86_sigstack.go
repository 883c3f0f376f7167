//go:build !arm64

package process

// In a signal frame of x86-64 (struct sigcontext) the segment registers of 64-bit
// code, cs, gs, fs and ss of two bytes each, follow rsp, rip and the flags.
const (
	frameMark     = "\x33\x00\x00\x00\x00\x00\x2b\x00"
	frameMarkToSP = 24 // bytes from the stack pointer to the mark
)
