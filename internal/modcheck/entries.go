package modcheck

import (
	"bytes"
	"cmp"
	"debug/elf"
	"maps"
	"slices"

	"livepatch/internal/refusal"
)

// checkEntries asks whether code that is reached through pointers begins with
// a landing pad, on kernels that are built to enforce it. Replacements are
// entered by ftrace with a return, which no processor checks; they need one
// where the function that they stand for has one, since then its address is
// known to be taken.
func (c *checker) checkEntries() {
	t := c.target.traits
	switch {
	case !t.known:
		c.later(whatEntry, "", "no image given says whether the kernel enforces landing pads")
		return
	case !t.pads:
		c.ok(whatEntry, "", "the kernel is not built with %s", padsOf(c.f.Machine))
		return
	}
	before, n := c.refusals(whatEntry), 0
	for _, e := range c.entries() {
		n++
		if !c.landing(e.at) {
			c.refuse(refusal.LandingPadMissing, whatEntry, c.name(e.at), "%s, but it does not begin with %s", e.why, padName(c.f.Machine))
		}
	}
	n += c.checkOutside()
	if c.refusals(whatEntry) == before {
		c.ok(whatEntry, "", "%s reached through pointers, with %s", count(n, "function"), padName(c.f.Machine))
	}
}

// An entry is a function of the module that is reached through pointers.
type entry struct {
	at       place
	why      string
	replaces bool // only the function that it stands for is: ftrace goes on here
}

// entries lists the functions of the module that are reached through pointers, or stand
// for such functions.
func (c *checker) entries() (list []entry) {
	if s := c.f.Section(thisModule); s != nil {
		for _, r := range c.refs[s.Index] {
			if to, ok := c.to(r); ok {
				list = append(list, entry{at: to, why: "the kernel calls it when the module is loaded or unloaded"})
			}
		}
	}
	if c.patch != nil {
		for _, o := range c.patch.objects {
			for _, x := range o.calls {
				if x.ok {
					list = append(list, entry{at: x.to, why: "it is the " + x.kind + " callback of " + o.name})
				}
			}
			for _, f := range o.funcs {
				if f.ok && c.oldHasPad(o.name, f) {
					list = append(list, entry{f.to, "the function that it replaces is reached through pointers", true})
				}
			}
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(c.taken), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.sec, b.sec), cmp.Compare(a.off, b.off))
	}) {
		list = append(list, entry{at: at, why: "its address is taken in " + c.taken[at]})
	}
	return list
}

// oldHasPad reports whether the function that is replaced begins with a
// landing pad.
func (c *checker) oldHasPad(owner string, f patched) bool {
	o, s := c.old(owner, f)
	if o == nil {
		return false
	}
	b, ok := o.file.ReadAddr(s.Addr, 4)
	return ok && isPad(c.f.Machine, b)
}

func (c *checker) landing(at place) bool {
	b := c.bytes(at, 4)
	return b != nil && isPad(c.f.Machine, b)
}

// isPad reports an instruction that an indirect call or jump may lead to.
// Intel SDM, "ENDBR64"; Arm ARM, "BTI" (c, jc) and the instructions that imply it: PACIASP, PACIBSP.
func isPad(m elf.Machine, b []byte) bool {
	if m == elf.EM_AARCH64 {
		switch le.Uint32(b) {
		case btiC, btiJC, paciasp, pacibsp:
			return true
		}
		return false
	}
	return bytes.Equal(b, endbr64)
}

var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

const (
	btiC    = 0xd503245f
	btiJC   = 0xd50324df
	paciasp = 0xd503233f
	pacibsp = 0xd503237f
)

func padName(m elf.Machine) string {
	if m == elf.EM_AARCH64 {
		return "bti c or paciasp"
	}
	return "endbr64"
}

func padsOf(m elf.Machine) string {
	if m == elf.EM_AARCH64 {
		return "branch target identification (BTI)"
	}
	return "indirect branch tracking (IBT)"
}
