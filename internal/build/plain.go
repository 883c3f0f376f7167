package build

import (
	"debug/elf"

	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
)

// provePlain proves the changed functions of a before object as the target's own
// build makes it, with one section for all. Where they are is where those of the
// object with sections have to be: equal but for the lengths of jumps. That shows
// that sections are all that the two compilations differ in.
func (s *steps) provePlain(p *pairSteps) (map[int]match.Func, error) {
	twins := map[string]int{}
	for i, sym := range p.Plain.Symbols {
		if sym.Type == elf.STT_FUNC && sym.Section > 0 {
			twins[sym.Name] = i
		}
	}
	var list refusal.List
	var funcs, of []int
	for _, i := range p.changed() {
		sym := p.Orig.Symbols[i]
		twin, ok := twins[sym.Name]
		if !ok {
			list = append(list, refusal.New(refusal.NotTheRunningCode, p.OrigName+": "+sym.Name,
				"the object without sections for functions does not define it"))
			continue
		}
		funcs, of = append(funcs, twin), append(of, i)
	}
	proof, err := match.Prove(p.Plain, funcs, s.target.File, s.target.Debug, match.Options{Object: p.OrigName, Target: s.target.Name})
	if err != nil {
		return nil, err
	}
	at := map[int]match.Func{}
	for k, f := range proof.Funcs {
		at[of[k]] = f
	}
	return at, list.Err()
}
