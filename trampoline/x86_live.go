package trampoline

// Changing code of x86-64 that other processors execute.
//
// A processor that fetches an instruction of several bytes while another writes
// them may see any mixture, and may even after the write go on with what it had
// fetched until it executes a serialising instruction. So the first byte becomes
// a breakpoint, which is one byte and whole at any time; then, behind it, the
// others change; then the first one. Between the steps all processors that run
// the code are made to serialise. Whoever meets the breakpoint is sent by the
// handler of the signal to where the jump leads: the new one, or when a jump is
// taken away the old one, so that it executes none of these bytes.
//
// See the Intel SDM, volume 3, "Handling Self- and Cross-Modifying Code", and
// arch/x86/kernel/alternative.c of Linux (smp_text_poke_batch_finish), which
// changes the kernel's own code in these steps.

import (
	"cmp"
	"slices"
)

// X86Breakpoint is int3, the instruction of one byte that raises SIGTRAP.
const X86Breakpoint = 0xcc

func x86Rounds(edits []Edit) ([]Round, error) {
	var first, tail, last Round
	for _, e := range edits {
		if e.Old[0] == X86Breakpoint || e.New[0] == X86Breakpoint {
			return nil, &LiveError{e.Addr, "it begins with a breakpoint"}
		}
		if _, ok := x86Landing(e); !ok {
			return nil, &LiveError{e.Addr, "neither before nor after is it a jump, to which a thread at the breakpoint could be sent"}
		}
		first = append(first, Edit{Addr: e.Addr, Old: e.Old[:1], New: []byte{X86Breakpoint}})
		if len(e.New) > 1 {
			tail = append(tail, Edit{Addr: e.Addr + 1, Old: e.Old[1:], New: e.New[1:]})
		}
		last = append(last, Edit{Addr: e.Addr, Old: []byte{X86Breakpoint}, New: e.New[:1]})
	}
	if len(edits) == 0 {
		return nil, nil
	}
	return []Round{first, tail, last}, nil
}

// x86Landing returns where a thread goes that meets the breakpoint of an edit.
func x86Landing(e Edit) (uint64, bool) {
	if to, ok := x86Target(e.New, e.Addr); ok {
		return to, true
	}
	if to, ok := x86Target(e.Old, e.Addr); ok {
		return to, true
	}
	return e.Landing, e.Landing != 0
}

// A TrapSite is a breakpoint and where a thread goes that meets it.
type TrapSite struct{ Addr, Target uint64 }

// X86TrapSites returns the breakpoints of edits for which LiveRounds has rounds,
// by address. A jump that leads to another edit, as one into the filler does, is
// followed.
func X86TrapSites(edits []Edit) []TrapSite {
	var list []TrapSite
	for _, e := range edits {
		to, _ := x86Landing(e)
		list = append(list, TrapSite{e.Addr, to})
	}
	slices.SortFunc(list, func(a, b TrapSite) int { return cmp.Compare(a.Addr, b.Addr) })
	for i := range list {
		for range list { // a circle has an end
			j, found := slices.BinarySearchFunc(list, list[i].Target, func(s TrapSite, addr uint64) int { return cmp.Compare(s.Addr, addr) })
			if !found {
				break
			}
			list[i].Target = list[j].Target
		}
	}
	return list
}
