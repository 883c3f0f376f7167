package diff

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// body is what belongs to a function: its code, and the bytes before its entry
// that serve it.
type body struct {
	p        *piece
	from, to uint64 // in the section
}

// spot is a place in the patched object.
type spot struct {
	sec int
	off uint64
}

// mostPrefix bounds how far before an entry bytes may belong to it: CALL_PADDING
// aligns functions to 64 bytes at most (arch/x86/Kconfig, 6.12).
const mostPrefix = 64

// bodiesOf lists the bodies of the functions of a section, in order.
func (u *kernelCutter) bodiesOf(sec int) []body {
	if list, ok := u.bodies[sec]; ok {
		return list
	}
	var list []body
	end := uint64(0)
	for _, p := range u.s.secs[sec].pieces {
		if p.kind != function || p.prefix {
			continue
		}
		b := body{p: p, from: p.off, to: p.off + p.size}
		if p.off > end {
			b.from = u.prefixStart(p, end)
		}
		end = b.to
		list = append(list, b)
	}
	u.bodies[sec] = list
	return list
}

// prefixStart finds where the bytes that belong to an entry begin: those with a
// name of their own, those that the list of patchable entries says, and in a
// section of the function's own all.
func (u *kernelCutter) prefixStart(p *piece, end uint64) uint64 {
	from := p.off
	for _, q := range p.parts {
		if q.prefix && q.sec == p.sec && q.off >= end && q.off < from {
			from = q.off
		}
	}
	for _, off := range u.patchable()[p.sec] {
		if off >= end && off < from && p.off-off <= mostPrefix {
			from = off
		}
	}
	code := u.s.f.Sections[p.sec].Data
	if end == 0 && p.off <= mostPrefix && u.isAlone(p) && isFiller(u.s.f.Machine, code[:p.off]) {
		return 0
	}
	return from
}

// isAlone reports a function that a section is named after.
func (u *kernelCutter) isAlone(p *piece) bool {
	name := u.s.f.Sections[p.sec].Name
	return p.sym != 0 && strings.HasPrefix(name, ".text.") && (strings.HasSuffix(name, "."+p.name) || strings.HasSuffix(name, "."+stem(p.name)))
}

// patchable lists, by section, the places of the list of patchable entries.
func (u *kernelCutter) patchable() map[int][]uint64 {
	if u.entered == nil {
		u.entered = map[int][]uint64{}
		for _, sec := range u.s.f.Sections {
			if sec.Name != pfeSection || sec.Type == elf.SHT_RELA {
				continue
			}
			rels, err := u.s.f.Relocations(sec)
			if err != nil {
				continue // sites reports it
			}
			for _, r := range rels {
				if at := u.s.explicit(r, 0); at.sec > 0 && at.add >= 0 {
					u.entered[at.sec] = append(u.entered[at.sec], uint64(at.add))
				}
			}
		}
	}
	return u.entered
}

// target finds the piece that a relocation of a table leads to, and the
// distance from its start; nil if there is none.
func (u *kernelCutter) target(r elfpatch.Rela) (*piece, int64) {
	at := u.s.explicit(r, 0)
	if at.sec <= 0 || at.add < 0 {
		return nil, 0
	}
	if u.s.secs[at.sec].kind == codeSect {
		if p := u.home(at.sec, uint64(at.add)); p != nil {
			return p, at.add - int64(p.off)
		}
		return nil, 0
	}
	if p := u.s.at(at.sec, uint64(at.add)); p != nil {
		return p, at.add - int64(p.off)
	}
	return nil, 0
}

// home finds the function that a place of a section belongs to. The end of a
// function is its own only if nothing follows it there.
func (u *kernelCutter) home(sec int, off uint64) *piece {
	list := u.bodiesOf(sec)
	k, _ := slices.BinarySearchFunc(list, off, func(b body, off uint64) int {
		if b.to <= off {
			return -1
		}
		return 1
	})
	if k < len(list) && list[k].from <= off {
		return list[k].p
	}
	if k > 0 && list[k-1].to == off {
		return list[k-1].p
	}
	return nil
}

// place gives every included piece its section and symbol. Functions and
// variables have sections of their own; what the kernel looks for by the name
// of a section is joined in one of that name.
func (u *kernelCutter) place() {
	var together []*piece
	for _, p := range u.k.order {
		switch {
		case p.prefix:
		case u.joins(p) != "":
			together = append(together, p)
		case p.kind == function && p.sec > 0:
			u.placeFunction(p)
		default:
			u.placeData(p)
		}
	}
	slices.SortStableFunc(together, func(a, b *piece) int {
		if c := cmp.Compare(a.sec, b.sec); c != 0 {
			return c
		}
		return cmp.Compare(a.off, b.off)
	})
	for _, p := range together {
		u.join(p, u.joins(p))
	}
}

// joins names the section that a piece shares with others of its kind, "" if it
// has one of its own.
func (u *kernelCutter) joins(p *piece) string {
	if p.sec <= 0 {
		return ""
	}
	name := u.s.f.Sections[p.sec].Name
	switch {
	case p.kind == entry, u.s.secs[p.sec].kind == supportSect, u.isDescriptor(p), name == ".static_call.text":
		return name
	case strings.HasPrefix(name, percpuSection):
		// The module loader makes the copies of the section of this very name
		// (kernel/module/main.c: find_pcpusec, 6.12).
		return percpuSection
	}
	return ""
}

const (
	percpuSection = ".data..percpu"
	mcountSection = "__mcount_loc"
	pfeSection    = "__patchable_function_entries"
)

// sectionLike makes a section with the properties of one of the object.
func (u *kernelCutter) sectionLike(from *elfpatch.Section, name string) elfpatch.Section {
	return elfpatch.Section{
		Name: name, Type: from.Type, Align: max(from.Align, 1), EntSize: from.EntSize,
		Flags: from.Flags & (elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_EXECINSTR | elf.SHF_TLS),
	}
}

// join appends a piece to a section that several share.
func (u *kernelCutter) join(p *piece, name string) {
	from := u.s.f.Sections[p.sec]
	out := u.joined[name]
	if out == nil {
		sec := u.sectionLike(from, name)
		if sec.Type == elf.SHT_NOBITS {
			sec.Type = elf.SHT_PROGBITS
		}
		out = u.k.out.AddSection(sec)
		u.joined[name] = out
	}
	out.Align = max(out.Align, from.Align)
	switch l := u.s.secs[p.sec].layout; {
	case p.kind == entry:
		if want := u.opt.Strides[name]; want != 0 && want != l.Size && u.tables[name] == 0 {
			u.refuse(refusal.SpecialSection, name, "its entries have %d bytes, the target's have %d", l.Size, want)
		}
		if form := u.forms[name]; form != nil && form != l {
			u.refuse(refusal.SpecialSection, name, "there are two such tables, with entries of %d and of %d bytes", form.Size, l.Size)
		}
		u.forms[name] = l
		out.EntSize = l.Size // fewer entries may fit several forms
		pad(out, l.Size)     // an entry that lacks its padding may only be the last one
		u.tables[name]++
	case name == percpuSection:
		pad(out, alignOf(p.off, from.Align))
	case u.isDescriptor(p):
		u.tables[name]++
	case u.s.isSupportCode(p) && u.s.f.Machine == elf.EM_AARCH64:
		pad(out, 4)
	}
	off := uint64(len(out.Data))
	switch data := u.s.data(p); {
	case data != nil:
		out.Data = append(out.Data, data...)
	case p.size > mostZeros:
		u.refuse(refusal.Unsupported, p.name, "%d bytes are too many in section %s", p.size, name)
	default:
		out.Data = append(out.Data, make([]byte, p.size)...)
	}
	out.Size = uint64(len(out.Data))
	u.k.places[p] = place{out, off}
	if p.sym != 0 {
		u.k.included[p] = u.symbol(p, out, off)
	}
}

// mostZeros bounds what a file may claim to hold without holding it.
const mostZeros = 1 << 20

// pad fills a section with zeros up to a multiple of n.
func pad(sec *elfpatch.Section, n uint64) {
	for n > 1 && uint64(len(sec.Data))%n != 0 {
		sec.Data = append(sec.Data, 0)
	}
}

// mostAlign is the largest alignment of variables, a page (.data..percpu..page_aligned).
const mostAlign = 4096

// alignOf is the alignment that an offset in a section promises, at most that
// of the section.
func alignOf(off, most uint64) uint64 {
	a := min(max(most, 1), mostAlign)
	for a > 1 && off%a != 0 {
		a /= 2
	}
	return a
}

// placeFunction gives a function its section, with what stands before its
// entry.
func (u *kernelCutter) placeFunction(p *piece) {
	from := u.s.f.Sections[p.sec]
	start := p.off
	for _, b := range u.bodiesOf(p.sec) {
		if b.p == p {
			start = b.from
		}
	}
	code := u.k.contents(p)
	sec := u.sectionLike(from, "")
	sec.Data = append(slices.Clone(from.Data[start:p.off]), code...)
	base := p.name
	if p.sym == 0 {
		base = fmt.Sprintf(".Lcode.%d", len(u.k.out.Symbols))
	}
	name := u.k.unique(base)
	sec.Name = ".text." + strings.TrimPrefix(name, ".L")
	out := u.k.out.AddSection(sec)
	u.k.places[p] = place{out, p.off - start}
	sym := elfpatch.Symbol{Name: name, Type: elf.STT_FUNC, Bind: elf.STB_LOCAL, Section: out.Index, Value: p.off - start, Size: uint64(len(code))}
	if p.sym != 0 {
		like := u.s.symbol(p)
		sym.Type, sym.Other = like.Type, like.Other
		if p.twin == nil {
			sym.Bind = like.Bind // other objects of the patch may mean it
		}
	}
	for _, q := range p.parts {
		if q.prefix && q.sec == p.sec && q.off >= start && q.off < p.off {
			u.k.places[q] = place{out, q.off - start}
			if q.sym != 0 {
				u.k.included[q] = u.symbol(q, out, q.off-start)
			}
		}
	}
	u.k.included[p] = u.k.out.AddSymbol(sym)
	u.markData(p, start, out)
}

// markData says where data is in the code of arm64, as the object does: the type hash
// before a function, tables in it. What is not marked is code, here and behind it.
func (u *kernelCutter) markData(p *piece, start uint64, out *elfpatch.Section) {
	inside, data := u.s.marksFrom(p.sec, start), false
	for k, m := range inside {
		if m.off >= p.off+p.size {
			inside = inside[:k]
			break
		}
		data = data || m.data
	}
	if !data {
		return
	}
	for _, m := range inside {
		u.mark(out, m.off-start, m.data)
	}
	if inside[len(inside)-1].data {
		u.mark(out, uint64(len(out.Data)), false)
	}
}

func (u *kernelCutter) mark(out *elfpatch.Section, at uint64, data bool) {
	name := "$x"
	if data {
		name = "$d"
	}
	u.k.out.AddSymbol(elfpatch.Symbol{Name: name, Bind: elf.STB_LOCAL, Section: out.Index, Value: at})
}

// symbol makes the symbol of a piece.
func (u *kernelCutter) symbol(p *piece, sec *elfpatch.Section, off uint64) int {
	like := u.s.symbol(p)
	return u.k.out.AddSymbol(elfpatch.Symbol{
		Name: u.k.unique(like.Name), Type: like.Type, Bind: like.Bind, Other: like.Other, Section: sec.Index, Value: off, Size: p.size,
	})
}

// placeData gives a variable or constant its section. What has no symbol gets
// none: it is reached by its section, as in the object.
func (u *kernelCutter) placeData(p *piece) {
	if c := u.k.cluster(p); c != nil {
		if c.out == nil {
			sec := u.sectionLike(u.s.f.Sections[p.sec], fmt.Sprintf(".rodata.cluster.%d", len(u.k.out.Sections)))
			sec.Data, sec.EntSize = slices.Clone(u.s.f.Sections[p.sec].Data[c.lo:c.hi]), 0
			c.out = u.k.out.AddSection(sec)
		}
		u.k.places[p] = place{c.out, p.off - c.lo}
		if p.sym != 0 {
			u.k.included[p] = u.symbol(p, c.out, p.off-c.lo)
		}
		return
	}
	sec := elfpatch.Section{Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 1, Size: p.size}
	prefix := ".bss."
	if p.sec > 0 {
		sec = u.sectionLike(u.s.f.Sections[p.sec], "")
		sec.EntSize = 0
		prefix = u.k.prefix(p)
		if sec.Flags&elf.SHF_WRITE != 0 && (p.live || p.special != nil) {
			prefix = ".data."
		}
		if p.bss {
			sec.Size, prefix = p.size, ".bss."
		} else {
			sec.Data = slices.Clone(u.s.data(p))
		}
	} else {
		sec.Align = max(u.s.symbol(p).Value, 1) // of a common symbol
	}
	if p.sym == 0 {
		sec.Name = fmt.Sprintf("%sconst.%d", prefix, len(u.k.out.Sections))
		u.k.places[p] = place{u.k.out.AddSection(sec), 0}
		return
	}
	like := u.s.symbol(p)
	name := u.k.unique(like.Name)
	sec.Name = prefix + name
	out := u.k.out.AddSection(sec)
	u.k.places[p] = place{out, 0}
	u.k.included[p] = u.k.out.AddSymbol(elfpatch.Symbol{
		Name: name, Type: like.Type, Bind: like.Bind, Other: like.Other, Section: out.Index, Size: p.size,
	})
}

// bySection reports a reference by way of a section symbol or a label that the
// assembler made one of.
func (u *kernelCutter) bySection(r *ref) bool {
	if r.sym == 0 {
		return false
	}
	sym := &u.s.f.Symbols[r.sym]
	return sym.Type == elf.STT_SECTION || isLabel(sym.Name)
}

// sectionSymbol is the symbol of a section of the cut, 0 for what has no place
// in it.
func (u *kernelCutter) sectionSymbol(sec *elfpatch.Section) int {
	if sec == nil {
		return 0
	}
	i, ok := u.symbols[sec]
	if !ok {
		i = u.k.out.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: sec.Index})
		u.symbols[sec] = i
	}
	return i
}

// isSupportCode reports code that only tables lead to.
func (s *side) isSupportCode(p *piece) bool {
	return p.sec > 0 && s.secs[p.sec].kind == supportSect && s.f.Sections[p.sec].Flags&elf.SHF_EXECINSTR != 0
}
