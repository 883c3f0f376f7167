package build

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
	"livepatch/internal/safety"
)

// A Unit is a source as one command of the program's build compiles it, before
// and after the patch. A source has several where it is compiled in several
// ways, for several programs.
type Unit struct {
	Source   string // below the source tree, for messages
	Object   string // base name
	LinkTime bool   // it is optimized when it is linked; it has no objects
	Profiled bool   // it is optimized by a profile
	New      bool   // the patch adds the source; Plain is nil

	Before, After, Plain *elfpatch.File // as of Pair
	Lines                *diff.LineShift
}

func (u *Unit) pair(name string) Pair {
	return Pair{OrigName: name, PatchedName: name, Orig: u.Before, Patched: u.After, Plain: u.Plain, Lines: u.Lines}
}

// Assignment says which targets the units of a program are linked into.
type Assignment struct {
	Targets  []Target     // those that have pairs
	Used     []Used       // the units of the pairs, in the order of the units
	Unused   []string     // new sources that no target refers to
	Findings []Finding    // what was allowed
	Refusals refusal.List // why some are not clear
}

// Used is a unit of a pair and the name of its object.
type Used struct {
	Unit *Unit
	Name string
}

// assigner is a run of Assign.
type assigner struct {
	Assignment
	units   []*Unit
	targets []*heldTarget
	allow   []refusal.Code
	names   map[int]string // objects of units, by index
}

// heldTarget is a target ready for the proofs of many units.
type heldTarget struct {
	*Target
	names   *match.Target   // made when first used
	units   []int           // its units, by index
	claimed map[uint64]bool // places of changed functions: whether a unit is clearly there
}

// Assign finds the targets that each unit is linked into. A unit is part of a
// target if the target has every function of it that the patch changes, and
// nothing says that these are another unit's: what the linker takes or leaves
// together is there together (see holdings.doubt). Whatever is not clear is
// refused, or left out where that is allowed.
func Assign(units []*Unit, targets []Target, allow []refusal.Code) (*Assignment, error) {
	a := &assigner{units: units, allow: allow, names: map[int]string{}}
	for _, t := range targets {
		a.targets = append(a.targets, &heldTarget{Target: &t, claimed: map[uint64]bool{}})
	}
	// From here on it is known which of the changed functions each target has.
	var sources []*source
	for i, u := range units {
		if u.New || slices.ContainsFunc(sources, func(s *source) bool { return s.name == u.Source }) {
			continue
		}
		s := &source{name: u.Source}
		sources = append(sources, s)
		for k := i; k < len(units); k++ {
			if units[k].Source == s.name && !units[k].New {
				s.units = append(s.units, k)
			}
		}
		if err := a.survey(s); err != nil {
			return nil, err
		}
	}
	// From here on each unit that was there before has its targets.
	for _, s := range sources {
		if err := a.choose(s); err != nil {
			return nil, err
		}
	}
	a.added()
	for _, t := range a.targets {
		slices.Sort(t.units)
		for _, i := range t.units {
			t.Pairs = append(t.Pairs, units[i].pair(a.name(i)))
		}
		if len(t.Pairs) > 0 {
			a.Targets = append(a.Targets, *t.Target)
		}
	}
	for i, u := range units {
		if a.names[i] != "" {
			a.Used = append(a.Used, Used{u, a.names[i]})
		}
	}
	return &a.Assignment, nil
}

// A source is the ways in which one source is compiled, and where they are.
type source struct {
	name   string
	units  []int
	placed []*placement // whatever a target has anything of, or might
	best   *placement   // where it is nowhere
}

// survey looks for the units of a source in all targets.
func (a *assigner) survey(s *source) error {
	for _, i := range s.units {
		switch u := a.units[i]; {
		case slices.Contains([]string{".s", ".S", ".sx"}, path.Ext(s.name)):
			a.refuse(refusal.Assembly, s.name, "it is assembler code")
			return nil
		case u.LinkTime:
			a.refuse(refusal.LinkTime, s.name, "it is compiled with optimization at link time: its code may be anywhere in the target")
			return nil
		}
	}
	for _, i := range s.units {
		delta, err := compare(a.units[i].pair(a.units[i].Object))
		if err != nil {
			return err
		}
		if !delta.Changed() && len(delta.Refusals) == 0 {
			continue
		}
		for _, t := range a.targets {
			p, err := a.place(i, delta, t)
			if err != nil {
				return fmt.Errorf("look for %s in %s: %w", s.name, t.Name, err)
			}
			if s.best == nil || len(p.held) > len(s.best.held) {
				s.best = p
			}
			if len(p.held) > 0 || p.of == 0 {
				s.placed = append(s.placed, p)
			}
			for _, addr := range p.held {
				t.claimed[addr] = t.claimed[addr] || p.doubt == ""
			}
		}
	}
	return nil
}

// choose gives a source to the targets that have it.
func (a *assigner) choose(s *source) error {
	// Code that a unit has which is clearly part of the target says nothing for
	// another: a static function of a header is in both.
	s.placed = slices.DeleteFunc(s.placed, func(p *placement) bool {
		return p.doubt != "" && !slices.ContainsFunc(p.held, func(addr uint64) bool { return !p.target.claimed[addr] })
	})
	if len(s.placed) == 0 && s.best != nil {
		a.nowhere(s.best)
	}
	for _, t := range a.targets {
		var clear []*placement
		var doubtful *placement
		for _, p := range s.placed {
			switch {
			case p.target != t:
			case p.doubt == "":
				clear = append(clear, p)
			case doubtful == nil:
				doubtful = p
			}
		}
		switch same, err := a.alike(clear); {
		case err != nil:
			return err
		case len(clear) > 0 && same:
			t.units = append(t.units, clear[0].unit)
		case len(clear) > 0:
			a.doubtful(clear[0], "it is compiled in several ways, which differ, and more than one may be the one that it is linked from")
		case doubtful != nil:
			a.doubtful(doubtful, doubtful.doubt)
		}
	}
	return nil
}

// alike reports whether units have the same code, before and after.
func (a *assigner) alike(list []*placement) (bool, error) {
	for i := 1; i < len(list); i++ {
		u, v := a.units[list[0].unit], a.units[list[i].unit]
		for _, files := range [][2]*elfpatch.File{{u.Before, v.Before}, {u.After, v.After}} {
			delta, err := compare(Pair{OrigName: u.Object, Orig: files[0], Patched: files[1]})
			var list refusal.List
			switch {
			case errors.As(err, &list):
				return false, nil // they have nothing in common
			case err != nil:
				return false, err
			case delta.Changed() || len(delta.Refusals) > 0:
				return false, nil
			}
		}
	}
	return true, nil
}

func compare(p Pair) (*diff.Delta, error) {
	delta, err := diff.Compare(p.Orig, p.Patched, diff.Options{Name: p.OrigName, Lines: p.Lines})
	if err != nil {
		return nil, fmt.Errorf("compare %s before and after: %w", p.OrigName, err)
	}
	return delta, nil
}

// nowhere refuses a source that no target has.
func (a *assigner) nowhere(p *placement) {
	u := a.units[p.unit]
	if u.Profiled {
		a.refuse(refusal.ProfileUse, u.Source, "it is compiled by a profile, and the target does not have what the patch changes as it comes out here (%s)", p.missing)
		return
	}
	r := refusal.New(refusal.UnitNotInTarget, u.Source, "the target does not have what the patch changes: it is not linked from it, or it was compiled otherwise (%s)", p.missing)
	if !a.allowed(r) {
		a.Refusals = append(a.Refusals, r)
	}
}

// doubtful refuses a unit of which it is not clear whether a target has it. Where
// that is allowed it is taken: what it changes has to be proven all the same.
func (a *assigner) doubtful(p *placement, text string) {
	u, t := a.units[p.unit], p.target
	code := refusal.UnitDoubtful
	if u.Profiled {
		code = refusal.ProfileUse
	}
	r := refusal.New(code, u.Source, "%s: %s", t.Name, text)
	if code == refusal.UnitDoubtful && a.allowed(r) {
		t.units = append(t.units, p.unit)
		return
	}
	a.Refusals = append(a.Refusals, r)
}

func (a *assigner) refuse(code refusal.Code, where, format string, args ...any) {
	a.Refusals = append(a.Refusals, refusal.New(code, where, format, args...))
}

// allowed reports whether a refusal is allowed, and puts that on record.
func (a *assigner) allowed(r refusal.Refusal) bool {
	if !slices.Contains(a.allow, r.Code) {
		return false
	}
	a.Findings = append(a.Findings, Finding{safety.Finding{Code: r.Code, Level: safety.Refuse, Where: r.Where, Text: r.Text}, true})
	return true
}

// added gives each new source to the targets whose new code refers to it.
func (a *assigner) added() {
	for _, t := range a.targets {
		for again := true; again; {
			again = false
			for i, u := range a.units {
				if u.New && !slices.Contains(t.units, i) && slices.ContainsFunc(t.units, func(k int) bool { return refers(a.units[k].After, u.After) }) {
					t.units = append(t.units, i)
					again = true
				}
			}
		}
	}
	for i, u := range a.units {
		if u.New && !slices.ContainsFunc(a.targets, func(t *heldTarget) bool { return slices.Contains(t.units, i) }) {
			a.Unused = append(a.Unused, u.Source)
		}
	}
}

// refers reports whether an object needs a name that another defines.
func refers(f, to *elfpatch.File) bool {
	needs := map[string]bool{}
	for _, s := range f.Symbols {
		if s.Section == elfpatch.Undefined && s.Name != "" {
			needs[s.Name] = true
		}
	}
	return slices.ContainsFunc(to.Symbols, func(s elfpatch.Symbol) bool { return s.Section != elfpatch.Undefined && needs[s.Name] })
}

// name is what the object of a unit is called: its base name, with the
// directory of the source before it where another has that name, and a number
// where the source is compiled in several ways.
func (a *assigner) name(i int) string {
	if a.names[i] != "" {
		return a.names[i]
	}
	name := a.units[i].Object
	long := strings.ReplaceAll(path.Dir(a.units[i].Source), "/", "_") + "_" + name
	for n := 1; a.taken(name); n++ {
		if name = long; n > 1 {
			name = fmt.Sprintf("%d_%s", n, long)
		}
	}
	a.names[i] = name
	return name
}

func (a *assigner) taken(name string) bool {
	for _, other := range a.names {
		if other == name {
			return true
		}
	}
	return false
}
