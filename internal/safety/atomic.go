package safety

import (
	"fmt"
	"slices"

	"livepatch/disasm"
	"livepatch/elfpatch/diff"
	"livepatch/internal/refusal"
)

// held says on which ways to a place a lock is held under which nobody may sleep.
type held uint8

const (
	free   held = 1 << iota // on some way none is held
	locked                  // on some way one is
)

// step is one instruction of a function.
type step struct {
	off, end int
	to       int // where a branch leads, -1 if nowhere in the function
	next     bool
	call     *Call // of a function with a meaning
	name     string
	state    held
}

// atomic looks for sleeping calls that a change adds between taking and giving
// back a lock, as far as both are calls of this very function. What headers inline, and
// what callers hold, is not seen.
func (j *judge) atomic(f diff.Func) {
	if !j.Kernel {
		return
	}
	old := map[string]int{}
	for _, s := range j.sleeps(diff.Before, f.Orig) {
		old[s.name]++
	}
	for _, s := range j.sleeps(diff.After, f.Patched) {
		if old[s.name]--; old[s.name] >= 0 {
			continue // so it was before
		}
		level, how := Warn, "may be held"
		if s.state == locked {
			level, how = Refuse, "is held"
		}
		j.add(level, refusal.SleepInAtomic, fmt.Sprintf("%s+%#x", f.Name, s.off), "it calls %s, which may sleep, where a lock that forbids it %s", s.name, how)
	}
}

// sleeps are the calls of a function that may sleep where a lock may be held.
func (j *judge) sleeps(o diff.Object, sym int) (out []step) {
	bodies := j.Delta.Bodies(o, sym)
	if len(bodies) == 0 {
		return nil
	}
	list := j.steps(o, bodies[0])
	if !follow(list, pairedLocks(list)) {
		return nil
	}
	for _, s := range list {
		if s.call != nil && s.call.Sleeps && s.state&locked != 0 {
			out = append(out, s)
		}
	}
	return out
}

// steps decodes a function; nil if that is not possible.
func (j *judge) steps(o diff.Object, b diff.Body) []step {
	var list []step
	uses := b.Uses
	err := disasm.Walk(j.file(o).Machine, b.Code, func(off int, in disasm.Inst) bool {
		s := step{off: off, end: off + in.Len, to: -1}
		s.next = in.Flow != disasm.Jump && in.Flow != disasm.IndirectJump && in.Flow != disasm.Return && in.Flow != disasm.Trap
		relocated := false
		for len(uses) > 0 && uses[0].Off < uint64(s.end) {
			if name := symbolName(j.file(o), uses[0].Symbol); uses[0].Branch {
				s.name, s.call = name, find(j.rows(), name)
			}
			relocated = true
			uses = uses[1:]
		}
		if (in.Flow == disasm.Jump || in.Flow == disasm.CondJump) && !relocated {
			s.to = off + int(in.PCOff)
		}
		list = append(list, s)
		return true
	})
	if err != nil {
		return nil
	}
	return list
}

// pairedLocks are the locks that the function both takes and gives back by calls:
// of others it is not seen when they are given back.
func pairedLocks(list []step) map[string]bool {
	took, gave := map[string]bool{}, map[string]bool{}
	for _, s := range list {
		if s.call != nil && s.call.Atomic {
			took[s.call.Object] = took[s.call.Object] || s.call.Role == Lock
			gave[s.call.Object] = gave[s.call.Object] || s.call.Role == Unlock
		}
	}
	for object := range took {
		took[object] = took[object] && gave[object]
	}
	return took
}

// follow computes the state before each step, and reports whether there is a
// lock to look for. Every step is visited at most once for each state.
func follow(list []step, paired map[string]bool) bool {
	any := false
	for _, p := range paired {
		any = any || p
	}
	if !any || len(list) == 0 {
		return false
	}
	at := func(off int) (int, bool) {
		return slices.BinarySearchFunc(list, off, func(s step, off int) int { return s.off - off })
	}
	var queue []int
	reach := func(i int, state held) {
		if list[i].state|state != list[i].state {
			list[i].state |= state
			queue = append(queue, i)
		}
	}
	reach(0, free)
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		s := &list[i]
		after := s.state
		if s.call != nil && paired[s.call.Object] {
			switch {
			case s.call.Role == Lock && s.call.Atomic:
				after = locked
			case s.call.Role == Unlock && s.call.Atomic:
				after = free
			}
		}
		if s.next && i+1 < len(list) {
			reach(i+1, after)
		}
		if k, ok := at(s.to); ok && s.to >= 0 {
			reach(k, after)
		}
	}
	return true
}
