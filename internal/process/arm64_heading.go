//go:build linux && arm64

package process

import (
	"livepatch/internal/live"
	"livepatch/trampoline"
)

// Code that is changed while threads run has no breakpoints here: one instruction is
// exchanged for another, where the architecture permits that (trampoline/arm64_live.go).

// heading reads the registers and the signal mask of a thread. It goes on where it
// stands.
func (p *proc) heading(t *thread) (moved bool, mask uint64, err error) {
	if err := t.getRegs(); err != nil {
		return false, 0, err
	}
	mask, err = t.sigmask()
	return false, mask, err
}

// breakpoint reports that no thread meets one.
func (p *proc) breakpoint(*thread) (to uint64, ok bool) { return 0, false }

// trapSites are the places at which threads may meet a breakpoint while code is
// changed.
func trapSites([]trampoline.Edit) []trampoline.TrapSite { return nil }

func trapHandler([]trampoline.TrapSite, live.Action) (code []byte, restorer uint64) {
	panic("BUG: a handler for breakpoints that there are none of")
}

// trapFunctions says that what looks like a handler for them is none.
func trapFunctions() ([]Function, []trampoline.Row) { return nil, nil }
