package types

import (
	"cmp"
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
)

// A Copy is a function that is inlined into another one.
type Copy struct {
	Function string // as asked for
	Into     string // symbol of the function that has the copy
	Unit     string // source file of that, as the compiler was given it
}

// Inlined finds the copies of functions, given by the names of their symbols, that the
// DWARF of an object or of a linked file tells of. The error wraps ErrNoTypes if there is
// no DWARF.
func Inlined(f *elfpatch.File, names map[string]bool) ([]Copy, error) {
	if len(names) == 0 {
		return nil, nil
	}
	if n := infoSize(f); n > maxSearched {
		return nil, fmt.Errorf("%d bytes of debug information are more than the %d that are searched for inlined copies", n, maxSearched)
	}
	g, err := loadDWARF(f)
	if err != nil {
		return nil, err
	}
	s := &copies{g: g, names: names, known: map[ref]string{}}
	if err := s.scan(); err != nil {
		return nil, err
	}
	if err := s.resolve(); err != nil {
		return nil, err
	}
	slices.SortFunc(s.out, func(a, b Copy) int {
		return cmp.Or(strings.Compare(a.Function, b.Function), strings.Compare(a.Unit, b.Unit), strings.Compare(a.Into, b.Into))
	})
	return s.out, nil
}

// maxSearched bounds the .debug_info that is gone through from end to end: some
// seconds.
const maxSearched = 32 << 20

// infoSize is the size of .debug_info once it is unpacked.
func infoSize(f *elfpatch.File) uint64 {
	s := f.Section(".debug_info")
	switch {
	case s == nil || s.Type == elf.SHT_NOBITS:
		return 0
	case s.Flags&elf.SHF_COMPRESSED != 0 && len(s.Data) >= chdrSize:
		return le.Uint64(s.Data[8:])
	}
	return s.Size
}

type copies struct {
	g     *dwarfGraph
	names map[string]bool
	known map[ref]string // names of functions by their entries
	found []inlined
	out   []Copy
	unit  string
}

// inlined is a copy of the function of an entry.
type inlined struct {
	origin     ref
	into, unit string
}

// scan goes through the functions of all units.
func (s *copies) scan() error {
	top := s.g.data.Reader()
	var last dwarf.Offset
	for {
		e, err := s.g.after(top, &last)
		if err != nil || e == nil {
			return err
		}
		switch e.Tag {
		case dwarf.TagCompileUnit:
			s.unit, _ = e.Val(dwarf.AttrName).(string)
			continue
		case dwarf.TagPartialUnit, dwarf.TagNamespace, 0:
			continue
		case dwarf.TagSubprogram:
			if e.Val(dwarf.AttrLowpc) != nil || e.Val(dwarf.AttrRanges) != nil {
				if err := s.function(e); err != nil {
					return err
				}
			}
		}
		if err := s.g.skip(top, e, &last); err != nil {
			return err
		}
	}
}

// function notes what is inlined into a function.
func (s *copies) function(e *dwarf.Entry) error {
	into, err := s.g.linkName(e)
	if err != nil {
		return err
	}
	if symbols := s.g.symbols(e); len(symbols) > 0 && !slices.Contains(symbols, into) {
		into = stem(symbols[0])
	}
	if at, ok := completes(e); ok {
		s.known[at] = into // what its copies refer to
	}
	if e, err = s.g.entry(ref(e.Offset)); err != nil {
		return err
	}
	return s.g.children(e, func(c *dwarf.Entry) bool {
		if off, ok := c.Val(dwarf.AttrAbstractOrigin).(dwarf.Offset); ok && c.Tag == dwarf.TagInlinedSubroutine {
			s.found = append(s.found, inlined{ref(off), into, s.unit})
		}
		return c.Tag == dwarf.TagInlinedSubroutine || c.Tag == dwarf.TagLexDwarfBlock
	})
}

// resolve keeps the copies of functions that were asked for, each once.
func (s *copies) resolve() error {
	seen := map[Copy]bool{}
	for _, x := range s.found {
		name, err := s.nameOf(x.origin)
		if err != nil {
			return err
		}
		if c := (Copy{name, x.into, x.unit}); s.names[name] && !seen[c] {
			seen[c] = true
			s.out = append(s.out, c)
		}
	}
	return nil
}

func (s *copies) nameOf(at ref) (string, error) {
	if name, ok := s.known[at]; ok {
		return name, nil
	}
	e, err := s.g.entry(at)
	if err != nil {
		return "", err
	}
	name, err := s.g.linkName(e)
	s.known[at] = name
	return name, err
}
