package safety

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch/diff"
	"livepatch/internal/refusal"
)

func (j *judge) rows() []Call {
	if j.Kernel {
		return kernelCalls
	}
	return programCalls
}

// counts are the calls of functions with a meaning, by name: those of a function,
// and of what only its object before or after the change has and it leads to.
func (j *judge) counts(o diff.Object, sym int) map[string]int {
	n := map[string]int{}
	seen := map[int]bool{sym: true}
	for queue := []int{sym}; len(queue) > 0; queue = queue[1:] {
		for _, b := range j.Delta.Bodies(o, queue[0]) {
			for _, u := range b.Uses {
				name := symbolName(j.file(o), u.Symbol)
				if row := find(j.rows(), name); u.Branch && row != nil && row.Role != Sleep {
					n[name]++
				}
				if j.single[o][u.Symbol] && !seen[u.Symbol] {
					seen[u.Symbol] = true
					queue = append(queue, u.Symbol)
				}
			}
		}
	}
	return n
}

// calls compares how often a function takes and gives back locks and references.
func (j *judge) calls(f diff.Func) {
	old, now := j.counts(diff.Before, f.Orig), j.counts(diff.After, f.Patched)
	all := maps.Clone(old)
	maps.Copy(all, now)
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if old[name] != now[name] {
			texts = append(texts, fmt.Sprintf("%s %d, was %d", name, now[name], old[name]))
		}
	}
	if len(texts) > 0 {
		j.add(Warn, refusal.LockChanged, f.Name, "other calls of locks and references: %s", strings.Join(texts, "; "))
	}
}

// neverReturns reports code with a loop and without a way out.
func (j *judge) neverReturns(bodies []diff.Body) bool {
	loop := false
	for _, b := range bodies {
		leaves := false
		uses := b.Uses
		err := disasm.Walk(j.Delta.Orig.Machine, b.Code, func(off int, in disasm.Inst) bool {
			end := uint64(off + in.Len)
			var used *diff.Use
			for len(uses) > 0 && uses[0].Off < end {
				used = &uses[0]
				uses = uses[1:]
			}
			switch in.Flow {
			case disasm.Return, disasm.IndirectJump:
				leaves = true
			case disasm.Jump, disasm.CondJump:
				to := int64(off) + in.PCOff
				switch {
				case used != nil:
					leaves = leaves || !slices.ContainsFunc(bodies, func(b diff.Body) bool { return b.Symbol == used.Symbol })
				case to < 0 || to >= int64(len(b.Code)):
					leaves = true
				case to <= int64(off):
					loop = true
				}
			}
			return !leaves
		})
		if err != nil || leaves {
			return false
		}
	}
	return loop
}

// stays warns of functions that are on a stack as long as the target runs: no
// call of the new one begins, or the patch never takes effect.
func (j *judge) stays(f diff.Func) {
	bodies := j.Delta.Bodies(diff.Before, f.Orig)
	switch starter := j.startedBy(f.Orig); {
	case !j.Kernel && symbolName(j.Delta.Orig, f.Orig) == "main":
		j.add(Warn, refusal.NeverReturns, f.Name, "it is on the stack as long as the program runs, so the patch cannot be applied")
	case starter != "":
		j.add(Warn, refusal.NeverReturns, f.Name, "it is what a kernel thread runs (%s): the transition ends only when that thread does, or where it is asked to leave", starter)
	case j.neverReturns(bodies):
		j.add(Warn, refusal.NeverReturns, f.Name, "it loops and does not return: the patch waits for every thread that is in it")
	}
}

// nearCall is how many bytes before a call its arguments are looked for.
const nearCall = 96

// startedBy names the function that starts a thread with this one, and by what.
func (j *judge) startedBy(sym int) string {
	if !j.Kernel {
		return ""
	}
	for _, t := range j.Delta.AddressTaken(diff.Before) {
		if t.Symbol != sym || !t.Code {
			continue
		}
		for _, b := range j.Delta.Bodies(diff.Before, t.In) {
			for _, u := range b.Uses {
				name := symbolName(j.Delta.Orig, u.Symbol)
				if b.Symbol == t.In && u.Branch && u.Off > t.Off && u.Off-t.Off < nearCall && find(threadStarters, name) != nil {
					return fmt.Sprintf("%s passes its address to %s", symbolName(j.Delta.Orig, t.In), name)
				}
			}
		}
	}
	return ""
}
