package trampoline

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/disasm"
)

// An Edit replaces code of a running process: Old by New, of the same length.
type Edit struct {
	Addr     uint64
	Old, New []byte
	Landing  uint64 // x86-64: where a thread goes that meets the breakpoint, if no jump says it
}

// A Round is a set of writes that may be made in any order. Then every thread
// that may have fetched the old bytes is synchronised (its processor executes a
// serialising instruction), and not before that the next round begins.
type Round []Edit

// LineSize is the number of bytes that processors fetch as one, at least: no
// edit that is made while threads run may lie in two lines.
const LineSize = 64

// LiveRounds returns the writes by which edits are made while threads execute the
// code, each of which meets what was there, what will be there, or on x86-64 a
// breakpoint, but never a mixture. Made backwards, with Old and New exchanged,
// the rounds take the edits back. Edits that change nothing have no part in them.
// The error is a *LiveError.
//
// After the first round no thread may be inside one of the edits, or return to
// it, when the second begins. One at its first byte meets the breakpoint.
func LiveRounds(m elf.Machine, edits []Edit) ([]Round, error) {
	edits = slices.DeleteFunc(slices.Clone(edits), func(e Edit) bool { return bytes.Equal(e.Old, e.New) })
	for _, e := range edits {
		if len(e.Old) != len(e.New) {
			return nil, &LiveError{e.Addr, fmt.Sprintf("%d bytes would become %d", len(e.Old), len(e.New))}
		}
		if last := e.Addr + uint64(len(e.New)) - 1; e.Addr/LineSize != last/LineSize {
			return nil, &LiveError{e.Addr, fmt.Sprintf("its %d bytes lie in two lines of %d bytes", len(e.New), LineSize)}
		}
	}
	switch m {
	case elf.EM_X86_64:
		return x86Rounds(edits)
	case elf.EM_AARCH64:
		return arm64Rounds(edits)
	}
	return nil, &LiveError{0, fmt.Sprintf("it is unknown how to on %s", m)}
}

// A LiveError says why code cannot be changed while threads execute it.
type LiveError struct {
	Addr   uint64
	Reason string
}

func (e *LiveError) Error() string {
	return fmt.Sprintf("code at %#x cannot be changed while threads run: %s", e.Addr, e.Reason)
}

// Divided reports whether a thread can stand inside the old bytes: between two
// instructions, or behind one. Code that is not understood is taken for divided.
func (e Edit) Divided(m elf.Machine) bool {
	in, err := disasm.Decode(m, e.Old)
	return err != nil || in.Len < len(e.Old)
}
