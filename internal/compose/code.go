package compose

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"sort"

	"livepatch/elfpatch"
)

// code is an object, and what its symbols make of its sections.
type code struct {
	obj   *elfpatch.File
	units map[int][]unit // by section, in order
	rels  map[int][]elfpatch.Rela
}

// A unit is a stretch of a section that is one thing: a function, a variable, a
// group of constants that are reached from one another.
type unit struct {
	section int
	lo, hi  uint64
	name    string
}

// takeApart finds the units of an object and sorts its relocations.
func takeApart(obj *elfpatch.File) (*code, error) {
	c := &code{obj: obj, units: map[int][]unit{}, rels: map[int][]elfpatch.Rela{}}
	symbols := make([][]*elfpatch.Symbol, len(obj.Sections))
	for i := range obj.Symbols {
		if s := &obj.Symbols[i]; s.Section > 0 && s.Section < len(symbols) {
			symbols[s.Section] = append(symbols[s.Section], s)
		}
	}
	for _, s := range obj.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		list, err := obj.Relocations(s)
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
		slices.SortStableFunc(list, func(a, b elfpatch.Rela) int { return cmp.Compare(a.Offset, b.Offset) })
		c.rels[s.Index], c.units[s.Index] = list, unitsOf(s, symbols[s.Index])
	}
	return c, nil
}

// unitsOf lists the units of a section: the stretches that its symbols cover,
// those that overlap as one. What no symbol covers is of no unit.
func unitsOf(sec *elfpatch.Section, symbols []*elfpatch.Symbol) (out []unit) {
	for _, s := range symbols {
		if s.Size > 0 && s.Value <= sec.Size && s.Size <= sec.Size-s.Value {
			out = append(out, unit{sec.Index, s.Value, s.Value + s.Size, s.Name})
		}
	}
	slices.SortStableFunc(out, func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(b.hi, a.hi))
	})
	n := 0
	for _, u := range out {
		if n > 0 && u.lo < out[n-1].hi {
			out[n-1].hi = max(out[n-1].hi, u.hi)
			continue
		}
		out[n] = u
		n++
	}
	return out[:n]
}

// unitAt returns the unit that holds a place; the whole section if none does,
// since nothing says then where it begins and ends.
func (c *code) unitAt(section int, off uint64) unit {
	list := c.units[section]
	i := sort.Search(len(list), func(i int) bool { return list[i].hi > off })
	if i < len(list) && list[i].lo <= off {
		return list[i]
	}
	return unit{section, 0, c.obj.Sections[section].Size, c.obj.Sections[section].Name}
}
