package build

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"livepatch/disasm"
	"livepatch/internal/pobj"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// redirect plans the writes at one function and makes sure, while reasons are
// collected, that what they lead through can be made.
func (s *steps) redirect(where string, f trampoline.Redirected, st trampoline.Strategy) (trampoline.Plan, error) {
	m := s.target.File.Machine
	plan, err := trampoline.Redirect(m, s.way, f, st)
	if err == nil {
		_, err = trampoline.Pieces(m, s.way, []trampoline.Redirected{f}, []trampoline.Plan{plan})
	}
	var slot *trampoline.SlotError
	var fixed *trampoline.DisplaceError
	switch {
	case errors.As(err, &slot):
		return plan, refusal.New(refusal.NoSlot, where, "%v", err)
	case errors.As(err, &fixed):
		return plan, refusal.New(refusal.EntryMoves, where, "%v", err)
	case err != nil:
		return plan, refusal.New(refusal.NoRoom, where, "%v", err)
	}
	return plan, nil
}

// entersMoved refuses a function whose old body branches back to its own
// beginning, where it is to go on in the old body: a call that began there could
// change to the replacement in the middle.
func (s *steps) entersMoved(where string, pl planned, body []byte) error {
	if !s.way.Switched() {
		return nil
	}
	end := pl.from.Site.Addr
	for _, w := range pl.plan.Writes {
		end = max(end, w.Addr+uint64(len(w.Bytes)))
	}
	type stretch struct {
		addr uint64
		code []byte
	}
	code := []stretch{{pl.fn.Addr, body}}
	for _, r := range pl.fn.Extra {
		b, ok := s.target.File.ReadAddr(r.Addr, int(r.Size))
		if !ok {
			return refusal.New(refusal.BranchIntoSite, where, "no code at %#x, %#x bytes, of the part moved out of it", r.Addr, r.Size)
		}
		code = append(code, stretch{r.Addr, b})
	}
	for _, c := range code {
		var found error
		err := disasm.Walk(s.target.File.Machine, c.code, func(off int, in disasm.Inst) bool {
			at := c.addr + uint64(off)
			to, ok := in.Target(at)
			branch := in.Flow == disasm.Jump || in.Flow == disasm.CondJump
			if ok && branch && to >= pl.fn.Addr && to < end {
				found = refusal.New(refusal.BranchIntoSite, fmt.Sprintf("%s+%#x", where, to-pl.fn.Addr),
					"the branch at %#x leads there, and a call that goes on in the old body would change to the new one", at)
			}
			return found == nil
		})
		if err != nil {
			return refusal.New(refusal.BranchIntoSite, where, "its branches cannot be told: %v", err)
		}
		if found != nil {
			return found
		}
	}
	return nil
}

// between puts the functions in the order of the manifest, which places count
// by, and makes what stands between them and their replacements.
func (s *steps) between() error {
	slices.SortStableFunc(s.plans, func(a, b planned) int { return cmp.Compare(a.fn.Addr, b.fn.Addr) })
	var list []trampoline.Redirected
	var plans []trampoline.Plan
	for i := range s.plans {
		p := &s.plans[i]
		p.from.Index = i
		p.plan = p.plan.Of(i)
		list, plans = append(list, p.from), append(plans, p.plan)
	}
	if len(list) == 0 {
		return nil
	}
	var err error
	if s.pieces, err = trampoline.Pieces(s.target.File.Machine, s.way, list, plans); err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	return nil
}

// dispatch is what the linker adds to the payload.
func (s *steps) dispatch() pobj.Dispatch {
	d := pobj.Dispatch{Pieces: s.pieces}
	if s.way == trampoline.Gated {
		d.Rules = rules(s.target.File)
	}
	for _, p := range s.plans {
		d.Functions = append(d.Functions, pobj.Function{Part: p.part, Symbol: p.repl})
	}
	return d
}

// leadsTo is the symbol of the payload that the holes of a write refer to.
func leadsTo(to trampoline.Place, f manifest.Function, l *pobj.Linked) string {
	if to.Kind == trampoline.Replacement {
		return f.Replacement
	}
	return l.Pieces[to]
}
