package trampoline

// Changing code of arm64 that other processors execute.
//
// The architecture names the instructions of which one may be exchanged for
// another while they are executed: each processor then executes the old one or
// the new one, and the new one for certain after it has synchronised. They are B,
// BL, BRK, HVC, ISB, NOP, SMC and SVC. With any other the result is
// unpredictable, and since a breakpoint would have to be put over the old
// instruction first, there is no way around it: all threads have to be stopped.
// bti is not on the list, though it is encoded beside NOP.
//
// See the Arm ARM, B2.2.5, "Concurrent modification and execution of
// instructions".

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

func arm64Rounds(edits []Edit) ([]Round, error) {
	var round Round
	for _, e := range edits {
		if e.Addr%Arm64BranchLen != 0 || len(e.New)%Arm64BranchLen != 0 {
			return nil, &LiveError{e.Addr, "it is no whole instructions"}
		}
		word, n := Edit{}, 0
		for i := 0; i < len(e.New); i += Arm64BranchLen {
			if end := i + Arm64BranchLen; !bytes.Equal(e.Old[i:end], e.New[i:end]) {
				word, n = Edit{Addr: e.Addr + uint64(i), Old: e.Old[i:end], New: e.New[i:end]}, n+1
			}
		}
		if n > 1 {
			return nil, &LiveError{e.Addr, fmt.Sprintf("%d instructions change, and a thread could execute some old and some new ones", n)}
		}
		for _, code := range [][]byte{word.Old, word.New} {
			if w := binary.LittleEndian.Uint32(code); !arm64Exchangeable(w) {
				return nil, &LiveError{word.Addr, fmt.Sprintf("%#08x is none of the instructions that may be exchanged", w)}
			}
		}
		round = append(round, word)
	}
	if round == nil {
		return nil, nil
	}
	return []Round{round}, nil
}

// arm64Exchangeable reports whether an instruction is on the architecture's list.
func arm64Exchangeable(word uint32) bool {
	for _, in := range arm64Exchange {
		if word&in.mask == in.value {
			return true
		}
	}
	return false
}

var arm64Exchange = []struct{ mask, value uint32 }{
	{0xfc000000, 0x14000000}, // b
	{0xfc000000, 0x94000000}, // bl
	{0xffe0001f, 0xd4200000}, // brk
	{0xffe0001f, 0xd4000002}, // hvc
	{0xfffff0ff, 0xd50330df}, // isb
	{0xffffffff, 0xd503201f}, // nop
	{0xffe0001f, 0xd4000003}, // smc
	{0xffe0001f, 0xd4000001}, // svc
}
