package build

import (
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/fentry"
	"livepatch/internal/pobj"
	"livepatch/internal/refusal"
	"livepatch/trampoline"
)

func (s *steps) compare() error {
	for _, p := range s.target.Pairs {
		delta, err := diff.Compare(p.Orig, p.Patched, diff.Options{Name: p.OrigName, Kernel: s.kernel, Lines: p.Lines})
		if err != nil {
			return fmt.Errorf("compare %s with %s: %w", p.OrigName, p.PatchedName, err)
		}
		s.pairs = append(s.pairs, &pairSteps{Pair: p, delta: delta})
		s.refusals = append(s.refusals, delta.Refusals...)
	}
	s.refuseMoved()
	return nil
}

// refuseMoved refuses global names that went from one pair to another: objects
// that did not change would go on with the old one.
func (s *steps) refuseMoved() {
	was := map[string]*pairSteps{}
	gone := func(p *pairSteps, orig, patched int) {
		if orig == 0 || patched != 0 { // an object without symbols has not even the first
			return
		}
		if sym := p.Orig.Symbols[orig]; sym.Bind != elf.STB_LOCAL {
			was[sym.Name] = p
		}
	}
	for _, p := range s.pairs {
		for _, f := range p.delta.Funcs {
			gone(p, f.Orig, f.Patched)
		}
		for _, d := range p.delta.Data {
			gone(p, d.Orig, d.Patched)
		}
	}
	for _, p := range s.pairs {
		p.eachPatched(func(orig, patched int) {
			sym := p.Patched.Symbols[patched]
			if q := was[sym.Name]; q != nil && q != p && orig == 0 && sym.Bind != elf.STB_LOCAL {
				s.refusals = append(s.refusals, refusal.New(refusal.Unsupported, p.OrigName+": "+sym.Name,
					"it was in %s before the change; the rest of the target would go on with that one", q.OrigName))
			}
		})
	}
}

// cut takes what changed out of each after object and looks up what it needs
// from the target.
func (s *steps) cut() error {
	for _, p := range s.pairs {
		if p.proof == nil {
			continue
		}
		cut, err := p.delta.CutFor(diff.CutOptions{Elsewhere: p.elsewhere})
		if err != nil {
			if err := s.note(err); err != nil {
				return fmt.Errorf("cut %s: %w", p.PatchedName, err)
			}
			continue
		}
		p.cut = cut
		part := pobj.Part{Name: p.PatchedName, Object: cut.Object}
		for _, f := range cut.Funcs {
			part.Keep = append(part.Keep, f.Symbol)
		}
		for _, e := range cut.Externals {
			part.Externals = append(part.Externals, s.external(p, e))
		}
		s.parts = append(s.parts, part)
	}
	return nil
}

// external finds out where a name of the cut object lives.
func (s *steps) external(p *pairSteps, e diff.External) pobj.External {
	x := pobj.External{Symbol: e.Symbol, Name: e.Name}
	if e.Orig != 0 {
		x.Known, _ = p.proof.Resolve(e.Orig)
		x.Dynamic = p.proof.Preemptible(e.Orig)
	}
	if len(x.Known) == 0 && s.global(p, e) {
		if x.Known = s.elsewhere(p, e.Name); len(x.Known) == 0 {
			x.Known, _ = p.proof.Outside(e.Name)
		}
		// What the target has never heard of may be in one of its libraries.
		x.Dynamic = len(x.Known) == 0 && !e.TLS && s.dynamic()
	}
	// So may what it knows only how to call.
	x.Dynamic = x.Dynamic || !e.TLS && s.global(p, e) && s.dynamic()
	return x
}

// global reports whether a name may be looked up as one of the whole program.
// What the before object defines, or keeps to itself, may not.
func (s *steps) global(p *pairSteps, e diff.External) bool {
	if e.Orig == 0 {
		return true
	}
	sym := p.Orig.Symbols[e.Orig]
	return sym.Bind != elf.STB_LOCAL && sym.Section == elfpatch.Undefined
}

// elsewhere looks up a name that another pair has made global: what it was in
// that pair's before object is in the target.
func (s *steps) elsewhere(p *pairSteps, name string) match.Resolved {
	for _, q := range s.pairs {
		if q == p || q.proof == nil {
			continue
		}
		found := 0
		q.eachPatched(func(orig, patched int) {
			if sym := q.Patched.Symbols[patched]; sym.Name == name && sym.Bind != elf.STB_LOCAL {
				found = orig
			}
		})
		if found != 0 {
			known, _ := q.proof.Resolve(found)
			return known
		}
	}
	return nil
}

// dynamic reports whether the target is loaded together with libraries.
func (s *steps) dynamic() bool {
	d, err := s.target.File.Dynamic()
	return err == nil && d != nil && len(d.Needed) > 0
}

// planned is one function with its site and the writes that redirect it.
type planned struct {
	pair *pairSteps
	part int // index of the pair's part
	fn   match.Func
	repl int // symbol in the cut object
	site fentry.Func
	from trampoline.Redirected
	plan trampoline.Plan
	body [sha256.Size]byte
}

func (s *steps) plan() error {
	finder, err := fentry.NewFinder(s.target.File, fentry.Options{Debug: s.target.Debug})
	if err != nil {
		return fmt.Errorf("look for patch sites: %w", err)
	}
	part := 0
	for _, p := range s.pairs {
		if p.proof == nil {
			continue
		}
		replacement := map[int]int{}
		if p.cut != nil {
			for _, f := range p.cut.Funcs {
				replacement[f.Orig] = f.Symbol
			}
		}
		for _, fn := range p.proof.Funcs {
			pl, err := s.planOne(finder, p, fn)
			if err != nil {
				if err := s.note(err); err != nil {
					return err
				}
				continue
			}
			pl.repl, pl.part = replacement[fn.Symbol], part
			if p.cut != nil && pl.repl == 0 {
				return fmt.Errorf("cut %s: it has no replacement of %s", p.PatchedName, fn.Name)
			}
			s.plans = append(s.plans, pl)
		}
		if p.cut != nil {
			part++
		}
	}
	return s.between()
}

// planOne plans the redirect of one function. Its errors are refusals, but for
// files that contradict themselves.
func (s *steps) planOne(finder *fentry.Finder, p *pairSteps, fn match.Func) (planned, error) {
	where := p.OrigName + ": " + fn.Name
	site, err := finder.At(fn.Addr, fn.Size)
	if err != nil {
		return planned{}, fmt.Errorf("look for the patch site of %s: %w", fn.Name, err)
	}
	switch site.Verdict {
	case fentry.Yes:
	case fentry.BranchInto:
		return planned{}, refusal.New(refusal.BranchIntoSite, where, "%s", site.Reason)
	default:
		return planned{}, refusal.New(refusal.NoRoom, where, "%s", site.Reason)
	}
	at := site.TrampolineSite()
	strategy, err := trampoline.Choose(s.target.File.Machine, at)
	if err != nil {
		return planned{}, refusal.New(refusal.NoRoom, where, "%v", err)
	}
	body, ok := s.target.File.ReadAddr(fn.Addr, int(fn.Size))
	if !ok {
		return planned{}, errors.New("a proven function lies outside the file") // cannot happen: it was compared
	}
	pl := planned{pair: p, fn: fn, site: site, body: sha256.Sum256(body)}
	pl.from = trampoline.Redirected{Body: body[site.Site-fn.Addr:], Site: at, Nops: site.Nops}
	if site.Slot != nil {
		pl.from.Slot = *site.Slot
	}
	if pl.plan, err = s.redirect(where, pl.from, strategy); err != nil {
		return planned{}, err
	}
	if err := entersSite(p, fn, pl.plan); err != nil {
		return planned{}, err
	}
	return pl, s.entersMoved(where, pl, body)
}
