//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"

	"livepatch/internal/resolve"
)

// interrupted looks for signal frames in b, which is the part of a stack at an
// address, and returns the lowest address that the interrupted code uses, red zone
// included, if that lies below low on the same stack; else low. The stack of a
// handler (sigaltstack) can be a variable of a function further up; then what it
// has interrupted lies below it.
func (c *checker) interrupted(b []byte, addr, low uint64) uint64 {
	own := resolve.Find(c.p.maps, low)
	if own == nil {
		return low
	}
	for at := 0; ; at++ {
		i := bytes.Index(b[at:], []byte(frameMark))
		if i < 0 {
			return low
		}
		at += i
		sp, ok := c.p.word(addr + uint64(at) - frameMarkToSP)
		if ok && sp >= own.Start && sp < low {
			low = max(own.Start, sp-redZone) &^ 7
		}
	}
}
