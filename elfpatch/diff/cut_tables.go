package diff

import (
	"cmp"
	"debug/elf"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// Some tables do not list entries that stand for themselves: unwind data covers
// ranges, patch sites are made by the compiler or not at all, and notes for
// objtool have forms that no header tells. They are made anew here for the
// code of the patch.

// tableMaker adds tables to a cut.
type tableMaker struct {
	u    *kernelCutter
	rels map[*elfpatch.Section][]elfpatch.Rela
}

// tableRow is an entry of a table.
type tableRow struct {
	data []byte
	rels []elfpatch.Rela // offsets from the start of the row, symbols of the cut
}

// put makes a section of rows, nil of none.
func (b *tableMaker) put(sec elfpatch.Section, rows []tableRow) *elfpatch.Section {
	if len(rows) == 0 {
		return nil
	}
	out := b.u.joined[sec.Name]
	if out == nil || sec.Flags&elf.SHF_LINK_ORDER != 0 {
		out = b.u.k.out.AddSection(sec)
		b.u.joined[sec.Name] = out
	}
	for _, row := range rows {
		for _, r := range row.rels {
			r.Offset += uint64(len(out.Data))
			b.rels[out] = append(b.rels[out], r)
		}
		out.Data = append(out.Data, row.data...)
	}
	out.Size = uint64(len(out.Data))
	b.u.tables[sec.Name] += len(rows)
	return out
}

// convert makes a relocation of a table lead to the same place in the cut.
func (b *tableMaker) convert(r elfpatch.Rela, base uint64) (elfpatch.Rela, bool) {
	k, u := b.u.k, b.u
	out := elfpatch.Rela{Offset: r.Offset - base, Type: r.Type, Addend: r.Addend}
	p, delta := u.target(r)
	x := &ref{sym: r.Symbol, to: p, add: delta}
	switch {
	case p != nil && k.isIncluded(p):
		out.Addend = b.moved(p, delta)
		k.bind(&out, x, p)
	case p != nil:
		out.Addend = delta
		out.Symbol = uint32(k.original(p, x))
		if p.twin != nil && p.twin.sym == 0 {
			out.Addend += int64(p.twin.off)
		}
	case r.Symbol != 0:
		out.Symbol = uint32(k.undefined(x))
	}
	return out, out.Symbol != 0
}

// moved is where an offset of an included piece went.
func (b *tableMaker) moved(p *piece, delta int64) int64 {
	if l := b.u.k.layouts[p]; l != nil {
		return l.at(delta)
	}
	return delta
}

// relocationsOf returns those of a table in order. A table that is damaged is
// refused and has none.
func (b *tableMaker) relocationsOf(sec *elfpatch.Section) ([]elfpatch.Rela, bool) {
	rels, err := sortedRelocations(b.u.s.f, sec)
	if err == nil && sec.Type != elf.SHT_NOBITS && uint64(len(sec.Data)) == sec.Size {
		return rels, true
	}
	b.u.refuse(refusal.SpecialSection, sec.Name, "it cannot be read")
	return nil, false
}

// words returns the relocations of a table of one reference each; ok is false,
// and the table refused, if that is not what it is.
func (b *tableMaker) words(sec *elfpatch.Section, size uint64) ([]elfpatch.Rela, bool) {
	rels, ok := b.relocationsOf(sec)
	if !ok {
		return nil, false
	}
	fits := sec.Size%size == 0 && uint64(len(rels)) == sec.Size/size
	for i, r := range rels {
		fits = fits && r.Offset == uint64(i)*size
	}
	if !fits {
		b.u.refuse(refusal.SpecialSection, sec.Name, "%d bytes and %d relocations are no table of references of %d bytes", sec.Size, len(rels), size)
	}
	return rels, fits
}

// tablesNamed lists the sections of a name that are no relocations.
func (b *tableMaker) tablesNamed(name string) []*elfpatch.Section {
	var all []*elfpatch.Section
	for _, sec := range b.u.s.f.Sections {
		if sec.Name == name && sec.Type != elf.SHT_RELA && sec.Type != elf.SHT_NULL && sec.Size > 0 {
			all = append(all, sec)
		}
	}
	return all
}

// orcRow is an entry of the unwind tables: what holds from a place on.
type orcRow struct {
	p     *piece
	delta int64  // of the place, from the start of p
	sec   int    // and as offset of a section
	off   uint64 //
	rel   elfpatch.Rela
	data  []byte
}

// unwind keeps the entries of .orc_unwind for the code of the patch. An entry
// holds up to the next one, and functions that shared a section may share
// entries: each gets one for its start and one for its end.
func (b *tableMaker) unwind() {
	ips, orcs := b.tablesNamed(".orc_unwind_ip"), b.tablesNamed(".orc_unwind")
	if len(ips) == 0 && len(orcs) == 0 {
		return
	}
	if len(ips) != 1 || len(orcs) != 1 {
		b.u.refuse(refusal.SpecialSection, ".orc_unwind", "%d tables of places, %d of entries", len(ips), len(orcs))
		return
	}
	rels, ok := b.words(ips[0], 4)
	if !ok {
		return
	}
	size := orcs[0].Size / uint64(len(rels))
	if orcs[0].Size%uint64(len(rels)) != 0 || size < 6 || size > 8 || uint64(len(orcs[0].Data)) != orcs[0].Size ||
		orcs[0].EntSize > 1 && orcs[0].EntSize != size || b.u.opt.Strides[".orc_unwind"] != 0 && b.u.opt.Strides[".orc_unwind"] != size {
		b.u.refuse(refusal.SpecialSection, ".orc_unwind", "its %d bytes are no %d entries", orcs[0].Size, len(rels))
		return
	}
	of, all := map[*piece][]orcRow{}, make([]orcRow, 0, len(rels))
	for i, r := range rels {
		at := b.u.s.explicit(r, 0)
		p, delta := b.u.target(r)
		row := orcRow{p, delta, at.sec, uint64(max(at.add, 0)), r, orcs[0].Data[uint64(i)*size:][:size]}
		all = append(all, row)
		if p != nil && b.u.k.isIncluded(p) {
			of[p] = append(of[p], row)
		}
	}
	slices.SortStableFunc(all, func(x, y orcRow) int {
		if c := cmp.Compare(x.sec, y.sec); c != 0 {
			return c
		}
		return cmp.Compare(x.off, y.off)
	})
	var places, entries []tableRow
	for _, p := range b.u.k.order {
		for _, row := range b.completed(p, of[p], all) {
			rel := elfpatch.Rela{Type: row.rel.Type, Addend: b.moved(p, row.delta)}
			b.u.k.bind(&rel, &ref{sym: row.rel.Symbol}, p)
			places = append(places, tableRow{make([]byte, 4), []elfpatch.Rela{rel}})
			entries = append(entries, tableRow{data: row.data})
		}
	}
	if b.put(b.u.sectionLike(orcs[0], orcs[0].Name), entries) == nil {
		return
	}
	b.put(b.u.sectionLike(ips[0], ips[0].Name), places)
	if h := b.u.s.f.Section(".orc_header"); h != nil && h.Type != elf.SHT_NOBITS {
		sec := b.u.sectionLike(h, h.Name)
		sec.Data = slices.Clone(h.Data)
		b.u.k.out.AddSection(sec)
	}
}

// completed adds to the entries of a piece of code the one that holds at its
// start, if that began before it, and the one that ends it: nothing is known
// behind a section's code.
func (b *tableMaker) completed(p *piece, rows, all []orcRow) []orcRow {
	u := b.u
	if p.kind != function && !u.s.isSupportCode(p) || p.prefix || p.sec <= 0 {
		return nil
	}
	from := p.off
	for _, x := range u.bodiesOf(p.sec) {
		if x.p == p {
			from = x.from
		}
	}
	slices.SortStableFunc(rows, func(x, y orcRow) int { return cmp.Compare(x.delta, y.delta) })
	if len(rows) == 0 || rows[0].off > from {
		k, _ := slices.BinarySearchFunc(all, orcRow{sec: p.sec, off: from}, func(x, y orcRow) int {
			if c := cmp.Compare(x.sec, y.sec); c != 0 {
				return c
			}
			return cmp.Compare(x.off, y.off)
		})
		if k > 0 && all[k-1].sec == p.sec {
			before := all[k-1]
			before.delta = int64(from) - int64(p.off)
			rows = append([]orcRow{before}, rows...)
		}
	}
	if len(rows) > 0 && rows[len(rows)-1].delta < int64(p.size) {
		last := rows[len(rows)-1]
		last.delta, last.data = int64(p.size), make([]byte, len(last.data))
		rows = append(rows, last)
	}
	return rows
}
