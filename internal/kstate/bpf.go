package kstate

import (
	"fmt"

	"livepatch/manifest"
)

// BPFLink is a BPF program that is attached to a function through a BPF
// trampoline. The kernel's files do not tell of it; bpf(2) does.
type BPFLink struct {
	ID       uint32 `json:"id"`
	Kind     string `json:"kind"`
	Function string `json:"function,omitempty"` // of the kernel image; "" for one of a module
	Program  string `json:"program"`
}

// Kinds of BPF programs on trampolines. The first two watch; the others may
// end the call before the function is reached.
const (
	BPFEntry        = "fentry"
	BPFExit         = "fexit"
	BPFModifyReturn = "fmod_ret"
	BPFLSM          = "lsm"
)

// String names the program: `BPF program "block" (fmod_ret, link 3)`.
func (l *BPFLink) String() string {
	return fmt.Sprintf("BPF program %q (%s, link %d)", l.Program, l.Kind, l.ID)
}

// programs judges the BPF programs on the function's trampoline by their kinds;
// false if those are not known.
func (c *claim) programs() bool {
	known := false
	for i := range c.facts.BPF {
		l := &c.facts.BPF[i]
		if c.object != manifest.Vmlinux || l.Function != c.function.Name {
			continue
		}
		known = true
		switch l.Kind {
		case BPFEntry, BPFExit:
			c.add(KindBPF, Harmless, l.String(), "watches the function; it goes on and sees the replacement under the old name")
		default:
			c.add(KindBPF, Defeats, l.String(), "can end the call before the patch is reached, and nothing reports that").Certain = false
		}
	}
	return known
}
