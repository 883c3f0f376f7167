package match

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
)

// A piece is a string or constant of a section that linkers merge with those of
// other objects, and where a field says that it is.
type piece struct {
	sec  *elfpatch.Section
	addr uint64
	want []byte // from the place that the field leads to, to its end
}

// pieceOf is the piece that a field leads to; without want when it leads to none.
func (o *object) pieceOf(r ref) piece {
	sec := o.defined(r.sym)
	if sec == nil || !pieces(sec) || r.mask != whole || r.use != Address {
		return piece{}
	}
	sym := o.f.Symbols[r.sym]
	off, at := sym.Value, r.symbolValue()
	if sym.Type == elf.STT_SECTION {
		// The addend selects the piece. In a PC-relative field of x86-64 it also
		// makes up for the bytes to the end of the instruction.
		off, at = uint64(r.addend)+uint64(r.tail), r.value+uint64(r.tail)
	}
	if off >= uint64(len(sec.Data)) {
		return piece{}
	}
	x := piece{sec, at, sec.Data[off:]}
	size := uint64(len(x.want))
	switch {
	case sec.Flags&elf.SHF_STRINGS != 0:
		size = uint64(stringLen(x.want, max(int(sec.EntSize), 1)))
	case sec.EntSize > 0:
		size = min(size, sec.EntSize-off%sec.EntSize)
	}
	x.want = x.want[:size]
	return x
}

// stringLen is the length of the string at the start of b, its end included, in
// characters of a width.
func stringLen(b []byte, width int) int {
	for i := 0; i+width <= len(b); i += width {
		if !slices.ContainsFunc(b[i:i+width], func(c byte) bool { return c != 0 }) {
			return i + width
		}
	}
	return len(b)
}

// differs says that the target has something else in the place of a piece.
func (x piece) differs(img *image) string {
	if len(x.want) == 0 {
		return ""
	}
	if got, ok := img.f.ReadAddr(x.addr, len(x.want)); ok && bytes.Equal(got, x.want) {
		return ""
	}
	const shown = 40
	if x.sec.Flags&elf.SHF_STRINGS != 0 {
		return fmt.Sprintf("the string %q is not what the target uses here", x.want[:min(len(x.want)-1, shown)])
	}
	return fmt.Sprintf("the constant %x is not what the target uses here", x.want[:min(len(x.want), shown)])
}
