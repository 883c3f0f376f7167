package build

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
)

// prove finds the changed functions of each pair in the target.
func (s *steps) prove() error {
	missed := map[*pairSteps][]match.Missed{}
	for _, p := range s.pairs {
		if len(p.changed()) == 0 && !p.adds() && !(s.kernel && p.delta.Changed()) {
			continue // nothing in it can have an effect; in kernel objects callbacks may
		}
		if p.refused("", refusal.VDSO) {
			continue // its code is no code of the kernel
		}
		survey, err := s.proveOne(p)
		if err != nil {
			return fmt.Errorf("prove %s: %w", p.OrigName, err)
		}
		p.proof, missed[p] = survey.Proof, survey.Missed
	}
	s.shareCopies(missed)
	for _, p := range s.pairs {
		for _, m := range missed[p] {
			s.refusals = append(s.refusals, m.Refusal)
		}
		if len(missed[p]) > 0 {
			p.proof = nil
		}
	}
	s.refuseShared()
	return nil
}

// proveOne proves the changed functions of a pair. Where the before object is
// also there as the target's own build makes it, with one section for all, they
// are proven in that one, and have to be in the same places in the object with
// sections: equal but for the lengths of jumps. That shows that sections are all
// that the two compilations differ in.
func (s *steps) proveOne(p *pairSteps) (*match.Survey, error) {
	opt := match.Options{Object: p.OrigName, Target: s.target.Name}
	if p.Plain == nil {
		return match.Try(p.Orig, p.changed(), s.target.File, s.target.Debug, opt)
	}
	twins := functionsByName(p.Plain)
	var missed []match.Missed
	var funcs []int
	of := map[int]int{} // by symbol in Plain
	for _, i := range p.changed() {
		name := p.Orig.Symbols[i].Name
		twin, ok := twins[name]
		if !ok {
			missed = append(missed, match.Missed{Symbol: i, Name: name, Refusal: refusal.New(refusal.NotTheRunningCode, p.OrigName+": "+name,
				"the object without sections for functions does not define it")})
			continue
		}
		funcs, of[twin] = append(funcs, twin), i
	}
	plain, err := match.Try(p.Plain, funcs, s.target.File, s.target.Debug, opt)
	if err != nil {
		return nil, err
	}
	opt.At = map[int]match.Func{}
	for _, f := range plain.Proof.Funcs {
		opt.At[of[f.Symbol]] = f
	}
	for _, m := range plain.Missed {
		m.Symbol = of[m.Symbol]
		missed = append(missed, m)
	}
	found := slices.DeleteFunc(p.changed(), func(i int) bool { _, ok := opt.At[i]; return !ok })
	survey, err := match.Try(p.Orig, found, s.target.File, s.target.Debug, opt)
	if err != nil {
		return nil, err
	}
	survey.Missed = append(missed, survey.Missed...)
	return survey, nil
}

// functionsByName are the functions that an object defines, as symbols.
func functionsByName(f *elfpatch.File) map[string]int {
	out := map[string]int{}
	for i, sym := range f.Symbols {
		if sym.Type == elf.STT_FUNC && sym.Section > 0 {
			out[sym.Name] = i
		}
	}
	return out
}

// shareCopies leaves each function that several objects have a copy of, such as
// an inline function of C++, to one pair. The linker kept one copy for all: it
// is replaced by the first pair whose copy that is, and the others refer to it
// there. One of theirs that the linker did not take need not be proven.
func (s *steps) shareCopies(missed map[*pairSteps][]match.Missed) {
	owner := map[string]*pairSteps{}
	for _, p := range s.pairs {
		if p.proof == nil {
			continue
		}
		for _, f := range p.proof.Funcs {
			if name, ok := p.isCopy(f.Symbol); ok && owner[name] == nil {
				owner[name] = p
			}
		}
	}
	for _, p := range s.pairs {
		left := func(orig int) bool {
			name, ok := p.isCopy(orig)
			return ok && owner[name] != nil && owner[name] != p
		}
		p.elsewhere = map[int]bool{}
		for _, f := range p.delta.Funcs {
			if f.Status == diff.Changed && f.Parent == 0 && left(f.Orig) {
				p.elsewhere[f.Patched] = true
			}
		}
		missed[p] = slices.DeleteFunc(missed[p], func(m match.Missed) bool { return left(m.Symbol) })
		if p.proof != nil {
			p.proof.Funcs = slices.DeleteFunc(p.proof.Funcs, func(f match.Func) bool { return left(f.Symbol) })
		}
	}
}

// isCopy reports whether other objects may have a function of the before object
// too, and its name: the linker takes any one of them.
func (p *pairSteps) isCopy(orig int) (name string, ok bool) {
	if orig == 0 { // an object without symbols has not even the first
		return "", false
	}
	sym := p.Orig.Symbols[orig]
	return sym.Name, sym.Bind == elf.STB_WEAK
}

// refuseShared refuses functions of two pairs that are proven at one place: the
// code of one of them is elsewhere, or one entry serves both.
func (s *steps) refuseShared() {
	type at struct {
		p *pairSteps
		f match.Func
	}
	var all []at
	for _, p := range s.pairs {
		if p.proof != nil {
			for _, f := range p.proof.Funcs {
				all = append(all, at{p, f})
			}
		}
	}
	slices.SortStableFunc(all, func(x, y at) int { return cmp.Compare(x.f.Addr, y.f.Addr) })
	for i := 1; i < len(all); i++ {
		x, y := all[i-1], all[i]
		if x.p != y.p && x.f.Addr == y.f.Addr {
			s.refusals = append(s.refusals, refusal.New(refusal.AddressAmbiguous, y.p.OrigName+": "+y.f.Name,
				"its code stands at %#x of %s, and so does that of %s of %s: nothing says whose it is", y.f.Addr, s.target.Name, x.f.Name, x.p.OrigName))
		}
	}
}
