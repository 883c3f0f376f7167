package kmod

import (
	"bytes"
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
)

// differentModules says where two modules differ, beyond the order of sections,
// symbols and relocations and the build-id; "" if nowhere.
func differentModules(a, b *elfpatch.File) string {
	ids := map[string]int{}
	x, y := numberSymbols(a, ids), numberSymbols(b, ids)
	if n, ok := moreOften(x, y); ok {
		return "symbol " + textOf(ids, n)
	}
	s, t := sortedSections(a), sortedSections(b)
	for i := range max(len(s), len(t)) {
		switch {
		case i >= len(s) || i < len(t) && t[i].head < s[i].head:
			return t[i].head
		case i >= len(t) || s[i].head < t[i].head:
			return s[i].head
		}
		if !sameContents(s[i].sec, t[i].sec, x, y) {
			return "contents of " + s[i].sec.Name
		}
	}
	return ""
}

// numberSymbols returns the symbols of a module as numbers: the same for two
// that are the same in all but their place in the table.
func numberSymbols(f *elfpatch.File, ids map[string]int) []int {
	out := make([]int, len(f.Symbols))
	for i, s := range f.Symbols {
		sec := fmt.Sprint(s.Section)
		if s.Section > 0 && s.Section < len(f.Sections) {
			sec = f.Sections[s.Section].Name
		}
		text := fmt.Sprintf("%q of %q+%#x, size %d, %v %v %d", s.Name, sec, s.Value, s.Size, s.Type, s.Bind, s.Other)
		n, ok := ids[text]
		if !ok {
			n = len(ids)
			ids[text] = n
		}
		out[i] = n
	}
	return out
}

// moreOften returns the least number that one list has more often than the
// other.
func moreOften(x, y []int) (int, bool) {
	x, y = slices.Sorted(slices.Values(x)), slices.Sorted(slices.Values(y))
	for i := range max(len(x), len(y)) {
		switch {
		case i >= len(x) || i < len(y) && y[i] < x[i]:
			return y[i], true
		case i >= len(y) || x[i] < y[i]:
			return x[i], true
		}
	}
	return 0, false
}

func textOf(ids map[string]int, n int) string {
	for text, id := range ids {
		if id == n {
			return text
		}
	}
	return ""
}

// headed is a section and what its header says.
type headed struct {
	head string
	sec  *elfpatch.Section
}

func sortedSections(f *elfpatch.File) []headed {
	var list []headed
	for _, s := range f.Sections {
		about := ""
		switch {
		case s.Type == elf.SHT_RELA && int64(s.Info) < int64(len(f.Sections)):
			about = f.Sections[s.Info].Name
		case s.Flags&elf.SHF_LINK_ORDER != 0 && int64(s.Link) < int64(len(f.Sections)):
			about = f.Sections[s.Link].Name
		}
		head := fmt.Sprintf("section %q, %v, flags %#x, aligned to %d, entries of %d", s.Name, s.Type, uint64(s.Flags), s.Align, s.EntSize)
		if about != "" {
			head += fmt.Sprintf(", for %q", about)
		}
		list = append(list, headed{head, s})
	}
	slices.SortStableFunc(list, func(a, b headed) int { return cmp.Compare(a.head, b.head) })
	return list
}

// sameContents compares two sections with equal headers, those of relocations
// by the numbers of their symbols.
func sameContents(a, b *elfpatch.Section, x, y []int) bool {
	switch {
	case a.Type == elf.SHT_STRTAB || a.Type == elf.SHT_SYMTAB || a.Name == ".note.gnu.build-id":
		return true
	case a.Type != elf.SHT_RELA:
		return a.Size == b.Size && bytes.Equal(a.Data, b.Data)
	}
	return slices.Equal(numberedRelocations(a, x), numberedRelocations(b, y))
}

type numberedRelocation struct {
	offset, addend uint64
	typ            uint32
	symbol         int
}

func numberedRelocations(sec *elfpatch.Section, symbols []int) (list []numberedRelocation) {
	for d := sec.Data; len(d) >= relaSize; d = d[relaSize:] {
		r := numberedRelocation{le.Uint64(d), le.Uint64(d[16:]), le.Uint32(d[8:]), -1}
		if i := le.Uint32(d[12:]); int64(i) < int64(len(symbols)) {
			r.symbol = symbols[i]
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b numberedRelocation) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.typ, b.typ), cmp.Compare(a.symbol, b.symbol), cmp.Compare(a.addend, b.addend))
	})
	return list
}
