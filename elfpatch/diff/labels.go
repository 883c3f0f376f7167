package diff

import (
	"debug/elf"
	"livepatch/internal/refusal"
)

// refuseCodeAddresses refuses live variables that hold, or may have been given,
// the address of a place inside a function that changed. Its entry is no
// trouble: it stays.
func (c *comparison) refuseCodeAddresses() {
	for _, a := range c.orig.pieces {
		if !a.live || a.kind == function {
			continue
		}
		for i := range a.refs {
			r := &a.refs[i]
			if c.isReplacedLabel(r) {
				c.refuse(refusal.CodeAddressInData, where(a, r.off), "it holds the address %s, and %s changed", c.orig.refText(r), owner(r.to).name)
			}
		}
	}
	for _, a := range c.orig.pieces {
		if a.kind == function && a.parent == nil && c.isReplaced(a) {
			c.refuseSavedLabels(a)
		}
	}
}

// isReplacedLabel reports a reference to a place inside a function that changed.
func (c *comparison) isReplacedLabel(r *ref) bool {
	return r.to != nil && r.to.kind == function && r.add > 0 && uint64(r.add) < r.to.size && c.isReplaced(r.to)
}

func (c *comparison) holdsLabel(a *piece) bool {
	for i := range a.refs {
		if c.isReplacedLabel(&a.refs[i]) {
			return true
		}
	}
	return false
}

// isReplaced reports whether a function of the original object, or the one that
// it is a part of, changed.
func (c *comparison) isReplaced(a *piece) bool {
	a = owner(a)
	return a.twin != nil && c.why[a.twin] != nil
}

// refuseSavedLabels refuses functions that may have saved the address of a
// label (&&label) in the running program: those that store such an address, or
// that make such addresses and go on where a live variable says.
func (c *comparison) refuseSavedLabels(a *piece) {
	if !c.hasLabels(a) {
		return
	}
	seen := map[string]bool{}
	refuse := func(off uint32, text, name string) {
		if !seen[text+name] {
			seen[text+name] = true
			c.refuse(refusal.CodeAddressInData, where(a, uint64(off)), text, name, a.name)
		}
	}
	var regs [32]struct {
		label bool   // it holds the address of a place in the function
		from  *piece // it holds what this live variable held
	}
	for _, in := range c.orig.insns(a) {
		code, refs := c.orig.data(a)[in.off:in.off+uint32(in.len)], c.orig.refsOf(a, in)
		e := registerEffect(c.m, code)
		live := c.orig.liveWord(refs)
		switch {
		case e.jump == anyMemory && live != nil:
			refuse(in.off, "it goes on where %s says, which may hold an address inside the running %s", live.name)
		case e.jump >= 0 && regs[e.jump].from != nil:
			refuse(in.off, "it goes on where %s says, which may hold an address inside the running %s", regs[e.jump].from.name)
		case e.store >= 0 && regs[e.store].label && !e.stack, e.immediate && live != nil && isLabelOf(a, refs):
			name := "memory"
			if live != nil {
				name = live.name
			}
			refuse(in.off, "it stores in %s the address of a place in itself; the running program may hold addresses inside the old %s", name)
		}
		for r := range regs {
			if e.writes>>r&1 != 0 {
				regs[r].label, regs[r].from = false, nil
			}
		}
		if e.load >= 0 {
			regs[e.load].from = live
		}
		if e.address >= 0 && isLabelOf(a, refs) {
			regs[e.address].label = true
		}
	}
	a.forget()
}

// A registerUse is what an instruction does with general registers, as far as
// the addresses of labels are concerned. Registers are -1 where there is none.
type registerUse struct {
	load      int    // it loads this one, whole, from memory
	store     int    // it stores this one, whole
	address   int    // it puts an address into this one
	jump      int    // it jumps to where this one says
	stack     bool   // store: to the stack
	immediate bool   // it stores an immediate
	writes    uint32 // it may change these
}

// anyMemory as registerUse.jump: to where memory says.
const anyMemory = -2

func registerEffect(m elf.Machine, code []byte) registerUse {
	e := registerUse{load: -1, store: -1, address: -1, jump: -1}
	if m == elf.EM_X86_64 {
		x86Registers(&e, code)
	} else if len(code) == 4 {
		arm64Registers(&e, code)
	}
	return e
}

// isLabelOf reports a reference to a place inside the function.
func isLabelOf(a *piece, refs []ref) bool {
	for i := range refs {
		if refs[i].to == a && refs[i].add > 0 {
			return true
		}
	}
	return false
}

// hasLabels reports whether a function makes addresses of places in itself, by
// an instruction, or through a table that has a name. Jump tables of switches
// have none.
func (c *comparison) hasLabels(a *piece) bool {
	for i := range a.refs {
		r := &a.refs[i]
		if r.to == a && r.add > 0 && !c.orig.isBranch(a, r) {
			return true
		}
		if r.to == nil || r.to.kind != variable {
			continue
		}
		for k := range r.to.refs {
			if x := &r.to.refs[k]; x.to == a && x.add > 0 {
				return true
			}
		}
	}
	return false
}

// liveWord is the live variable of at least a pointer's size that an
// instruction refers to.
func (s *side) liveWord(refs []ref) *piece {
	for i := range refs {
		if to := refs[i].to; to != nil && to.live && to.kind != function && to.size >= 8 {
			return to
		}
	}
	return nil
}
