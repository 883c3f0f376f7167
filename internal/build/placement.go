package build

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
)

// placement is what a target has of a unit.
type placement struct {
	unit    int
	target  *heldTarget
	of      int      // functions that the patch changes; all if it changes none
	held    []uint64 // where the target has those of them that it has
	missing string   // why the first of the others is none
	doubt   string   // why the unit may not be part of the target, "" if it is
}

// place surveys a unit, as the target's own build compiles it, in a target.
func (a *assigner) place(unit int, delta *diff.Delta, t *heldTarget) (*placement, error) {
	if t.names == nil {
		var err error
		if t.names, err = match.NewTarget(t.File, t.Debug); err != nil {
			return nil, err
		}
	}
	u := a.units[unit]
	var funcs []int
	for i, sym := range u.Plain.Symbols {
		if sym.Type == elf.STT_FUNC && sym.Section > 0 && sym.Size > 0 && !strings.Contains(sym.Name, ".cold") {
			funcs = append(funcs, i)
		}
	}
	survey, err := t.names.Survey(u.Plain, funcs, match.Options{Object: u.Object, Target: t.Name})
	if err != nil {
		return nil, err
	}
	h := newHoldings(u.Plain, survey)
	p := &placement{unit: unit, target: t}
	for _, f := range delta.Funcs {
		if f.Status != diff.Changed || f.Parent != 0 {
			continue
		}
		p.count(h, u.Before.Symbols[f.Orig].Name)
	}
	if p.of == 0 {
		for _, i := range funcs {
			p.count(h, u.Plain.Symbols[i].Name)
		}
	}
	if len(p.held) > 0 {
		p.doubt, err = h.doubt()
	}
	return p, err
}

// count looks for a function of the unit.
func (p *placement) count(h *holdings, name string) {
	p.of++
	i, ok := h.byName[name]
	if f, proven := h.proven[i]; ok && proven {
		p.held = append(p.held, f.Addr)
		h.changed = append(h.changed, i)
		return
	}
	switch m := h.missed[i]; {
	case p.missing != "":
	case ok:
		_, p.missing, _ = strings.Cut(m.Refusal.Where+": "+m.Refusal.Text, ": ")
	default:
		p.missing = name + ": the target's own build makes no function of it"
	}
}

// holdings are the functions of an object that a target has, by symbol.
type holdings struct {
	object   *elfpatch.File
	byName   map[string]int
	proven   map[int]match.Func
	missed   map[int]match.Missed
	changed  []int        // proven ones that the patch changes
	sections map[int]bool // with a proven function
}

func newHoldings(object *elfpatch.File, s *match.Survey) *holdings {
	h := &holdings{object: object, byName: functionsByName(object), proven: map[int]match.Func{}, missed: map[int]match.Missed{}, sections: map[int]bool{}}
	for _, f := range s.Proof.Funcs {
		h.proven[f.Symbol] = f
		h.sections[object.Symbols[f.Symbol].Section] = true
	}
	for _, m := range s.Missed {
		h.missed[m.Symbol] = m
	}
	return h
}

// doubt says what speaks against that the proven functions are those of this
// object. A linker takes a section as a whole, and with it those that it refers
// to; what it may leave out (--gc-sections) are sections that nothing refers to,
// and copies of functions that other objects have too. Only its own object refers
// to a static function.
func (h *holdings) doubt() (string, error) {
	needed, known, err := h.references()
	if err != nil {
		return "", err
	}
	for i, sym := range h.object.Symbols {
		m, ok := h.missed[i]
		switch {
		case !ok, sym.Bind == elf.STB_WEAK, m.Refusal.Code == refusal.AddressAmbiguous:
			continue // the last is there, in several places
		case h.sections[sym.Section]:
			return fmt.Sprintf("it has functions of this source, but not %s, which is linked together with them (%s)", sym.Name, m.Refusal.Text), nil
		case needed[sym.Section]:
			return fmt.Sprintf("it has functions of this source, but not %s, which they refer to (%s)", sym.Name, m.Refusal.Text), nil
		}
	}
	for _, i := range h.changed {
		if sym := h.object.Symbols[i]; sym.Bind == elf.STB_LOCAL && !known[sym.Section] && !h.hasGlobal(sym.Section) {
			return fmt.Sprintf("it has the code of %s, but nothing of this source that refers to it", sym.Name), nil
		}
	}
	return "", nil
}

// hasGlobal reports whether a section defines a name that other objects know.
func (h *holdings) hasGlobal(section int) bool {
	return slices.ContainsFunc(h.object.Symbols, func(s elfpatch.Symbol) bool { return s.Section == section && s.Bind != elf.STB_LOCAL })
}

// references are the sections that those with proven functions refer to
// (needed), and these and those that data refers to (known).
func (h *holdings) references() (needed, known map[int]bool, err error) {
	needed, known = map[int]bool{}, map[int]bool{}
	for i, sec := range h.object.Sections {
		code := sec.Flags&elf.SHF_EXECINSTR != 0
		if sec.Flags&elf.SHF_ALLOC == 0 || sec.Name == ".eh_frame" || code && !h.sections[i] {
			continue
		}
		rels, err := h.object.Relocations(sec)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range rels {
			if to := h.object.Symbols[r.Symbol].Section; to > 0 && to != i {
				needed[to] = needed[to] || code
				known[to] = true
			}
		}
	}
	return needed, known, nil
}
