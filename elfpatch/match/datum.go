package match

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
)

// Code is not all that a program is: the tables, texts and initial values that
// it refers to have to be those of the object too. A section of the object
// moves as a whole, so the address of one field that leads into it is enough to
// compare all of it; where it holds addresses itself, those are followed.
// Sections that linkers take apart are compared piece by piece, with the field
// that leads to the piece.

// datumKey is a section of the object at a place of the target.
type datumKey struct {
	sec  int
	base uint64
}

// datum is a section of data that was compared.
type datum struct {
	sec    *elfpatch.Section
	base   uint64
	fields int      // relocations in it
	wrong  string   // why it is not what the target has; empty if it is
	next   []*datum // what its fields lead to
	pieces []piece
}

// Datum is data of the object that proven functions refer to, and that reads
// the same in the target.
type Datum struct {
	Section string // of the object
	Addr    uint64 // in the target
	Size    uint64
	Fields  int // relocations in it, whose fields linking fills in
}

// Data lists what was compared besides the functions, by address: sections,
// and pieces of sections that linkers merge.
func (p *Proof) Data() (out []Datum) {
	seen := map[*datum]bool{}
	add := func(x piece) {
		if len(x.want) > 0 {
			out = append(out, Datum{x.sec.Name, x.addr, uint64(len(x.want)), 0})
		}
	}
	for _, f := range p.Funcs {
		for _, r := range p.p.funcs[f.Symbol].refs {
			add(p.p.obj.pieceOf(r))
		}
		p.p.eachDatum(p.p.funcs[f.Symbol], seen, func(d *datum) {
			if d.sec.Type == elf.SHT_NOBITS {
				return // there is nothing to show
			}
			out = append(out, Datum{d.sec.Name, d.base, d.sec.Size, d.fields})
			for _, x := range d.pieces {
				add(x)
			}
		})
	}
	slices.SortFunc(out, func(a, b Datum) int {
		return cmp.Or(cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.Section, b.Section), cmp.Compare(a.Size, b.Size))
	})
	return slices.Compact(out)
}

// compareData compares what the proven functions refer to.
func (p *prover) compareData() error {
	wrong := false
	for _, f := range p.order {
		if !f.wanted || f.state != proven {
			continue
		}
		for _, r := range f.refs {
			d, err := p.datumOf(r)
			if err != nil {
				return err
			}
			if d != nil {
				f.data = append(f.data, d)
			}
		}
	}
	for _, d := range p.compared {
		wrong = wrong || d.wrong != ""
	}
	if !wrong {
		return nil
	}
	for _, f := range p.order {
		p.eachDatum(f, map[*datum]bool{}, func(d *datum) {
			if d.wrong != "" && f.wrong == "" {
				f.wrong = "it uses data that the target has not: " + d.wrong
			}
		})
	}
	return nil
}

// eachDatum calls fn with all data that a function leads to.
func (p *prover) eachDatum(f *function, seen map[*datum]bool, fn func(*datum)) {
	queue := f.data
	for len(queue) > 0 {
		d := queue[0]
		queue = queue[1:]
		if seen[d] {
			continue
		}
		seen[d] = true
		fn(d)
		queue = append(queue[:len(queue):len(queue)], d.next...)
	}
}

// datumOf compares the data that a field leads to, with all that this leads to;
// nil if it leads to none, or to a place that is not known.
func (p *prover) datumOf(r ref) (*datum, error) {
	first, ok := p.place(r)
	if !ok {
		return nil, nil
	}
	queue := []datumKey{first}
	for len(queue) > 0 {
		k := queue[0]
		queue = queue[1:]
		if p.compared[k] != nil {
			continue
		}
		d := &datum{sec: p.obj.f.Sections[k.sec], base: k.base}
		p.compared[k] = d
		leads, err := p.compareDatum(d)
		if err != nil {
			return nil, err
		}
		queue = append(queue, leads...)
		p.leads[d] = leads
	}
	for d, leads := range p.leads {
		for _, k := range leads {
			d.next = append(d.next, p.compared[k])
		}
		delete(p.leads, d)
	}
	return p.compared[first], nil
}

// place is the section of data that a field leads into, and where it is.
func (p *prover) place(r ref) (datumKey, bool) {
	s := p.obj.defined(r.sym)
	if s == nil || s.Flags&elf.SHF_ALLOC == 0 || s.Flags&elf.SHF_EXECINSTR != 0 || s.Type == elf.SHT_NOBITS && p.img.kernel || s.Size == 0 ||
		pieces(s) || p.obj.replaceable(r.sym) || p.rewrittenByBuild(s) {
		return datumKey{}, false
	}
	if s.Flags&elf.SHF_TLS != 0 {
		base, ok := p.initialTLS(s.Index)
		return datumKey{s.Index, base}, ok
	}
	if a := p.facts[key{use: Address, sec: s.Index}]; a != nil {
		return datumKey{s.Index, a.value}, true
	}
	// A library reaches what it exports through its GOT, and says by a name where it is.
	if n, ok := p.unique(r.sym); ok && r.use == Slot && p.obj.plainName(r.sym) != "" {
		return datumKey{s.Index, n.addr - p.obj.f.Symbols[r.sym].Value}, true
	}
	return datumKey{}, false
}

// rewrittenByBuild reports tables that the build of a kernel sorts, fills in or
// puts together after compiling. What code itself uses is none of them.
func (p *prover) rewrittenByBuild(s *elfpatch.Section) bool {
	if !p.img.kernel {
		return false
	}
	row := kernel.Lookup(p.obj.f.Machine, s.Name)
	return s.Name == ".BTF_ids" || row != nil && row.Use != kernel.Descriptors
}

// initialTLS is where the file has the initial values of a section of
// thread-local variables.
func (p *prover) initialTLS(sec int) (uint64, bool) {
	for _, s := range p.img.f.Segments {
		if s.Type != elf.PT_TLS {
			continue
		}
		a, inBlock := p.facts[key{use: TPOffset, sec: sec}], p.facts[key{use: DTPOffset, sec: sec}]
		switch {
		case a == nil && inBlock == nil:
			return 0, false
		case a == nil && int64(inBlock.value) < 0:
			a = inBlock // programs have offsets from the thread pointer in its place
		case a == nil:
			return s.VAddr + inBlock.value, true
		}
		align := max(s.Align, 1)
		if p.obj.f.Machine == elf.EM_AARCH64 { // the block follows two words of the thread's
			return s.VAddr + a.value - (16+align-1)&^(align-1), true
		}
		return s.VAddr + a.value + (s.MemSize+align-1)&^(align-1), true
	}
	return 0, false
}

// compareDatum compares one section with the target and returns where its
// fields lead to more data.
func (p *prover) compareDatum(d *datum) (leads []datumKey, err error) {
	if d.sec.Type == elf.SHT_NOBITS {
		d.wrong = p.img.notZero(d.sec, d.base)
		return nil, nil
	}
	rels, err := p.obj.relocations(d.sec.Index)
	if err != nil {
		return nil, err
	}
	old := d.sec.Data
	cur, ok := p.img.f.ReadAddr(d.base, len(old))
	if !ok {
		d.wrong = fmt.Sprintf("%s would be at %#x, which the file does not hold", d.sec.Name, d.base)
		return nil, nil
	}
	pos := 0
	for _, r := range rels {
		info, _ := elfpatch.RelocInfo(p.obj.f.Machine, r.Type)
		lo, hi := int(r.Offset), int(r.Offset)+info.Size
		if r.Offset > uint64(len(old)) || hi > len(old) || lo < pos {
			d.wrong = fmt.Sprintf("a relocation of %s+%#x has no place of its own", d.sec.Name, r.Offset)
			return leads, nil
		}
		if d.differs(old, cur, pos, lo) {
			return leads, nil
		}
		pos = hi
		d.fields++
		x, ok := p.dataRef(d, r, info, cur[lo:hi])
		if !ok || d.wrong != "" {
			if d.wrong != "" {
				return leads, nil
			}
			continue
		}
		if d.wrong = p.learn(d, x); d.wrong != "" {
			return leads, nil
		}
		if piece := p.obj.pieceOf(x); len(piece.want) > 0 {
			d.pieces = append(d.pieces, piece)
		}
		if k, ok := p.place(x); ok {
			leads = append(leads, k)
		}
	}
	d.differs(old, cur, pos, len(old))
	return leads, nil
}

// notZero words the first byte that the file sets of variables that begin as
// zero.
func (img *image) notZero(sec *elfpatch.Section, base uint64) string {
	typ := elf.PT_LOAD
	if sec.Flags&elf.SHF_TLS != 0 { // its addresses are those of other sections too
		typ = elf.PT_TLS
	}
	for _, s := range img.f.Segments {
		if s.Type != typ {
			continue
		}
		lo, hi := max(base, s.VAddr), min(base+sec.Size, s.VAddr+s.FileSize)
		if lo >= hi {
			continue
		}
		b, ok := img.f.ReadAddr(lo, int(hi-lo))
		if i := slices.IndexFunc(b, func(c byte) bool { return c != 0 }); ok && i >= 0 {
			return fmt.Sprintf("%s+%#x is 0 in the object, %x at %#x of the target", sec.Name, lo+uint64(i)-base, b[i], lo+uint64(i))
		}
	}
	return ""
}

// differs compares [lo, hi) and words the first difference.
func (d *datum) differs(old, cur []byte, lo, hi int) bool {
	const shown = 8
	for i := lo; i < hi; i++ {
		if old[i] != cur[i] {
			end := min(i+shown, hi)
			d.wrong = fmt.Sprintf("%s+%#x is % x in the object, % x at %#x of the target", d.sec.Name, i, old[i:end], cur[i:end], d.base+uint64(i))
			return true
		}
	}
	return false
}

// dataRef is what a linked field of data says; false where it says nothing that
// can be compared.
func (p *prover) dataRef(d *datum, r elfpatch.Rela, info elfpatch.Reloc, field []byte) (ref, bool) {
	use, ok := useOfKind(info.Kind)
	if !ok || use != Address && use != Branch && use != Slot || r.Symbol == 0 {
		return ref{}, false
	}
	at := d.base + r.Offset
	x := ref{off: int(r.Offset), sym: int(r.Symbol), addend: r.Addend, use: use, mask: whole}
	if s, ok := p.img.slotAt(at); ok && info.Size == 8 && !info.PCRel {
		// What the file has there is overwritten when it is loaded. Linkers leave
		// nothing there, or the addend once more.
		if v := binary.LittleEndian.Uint64(field); v != 0 && v != uint64(s.addend) {
			d.wrong = fmt.Sprintf("%s+%#x has a dynamic relocation in the target, and holds %#x", d.sec.Name, r.Offset, v)
			return ref{}, false
		}
		switch {
		case s.name == "" && isRelative(p.obj.f.Machine, s.typ):
			x.value = uint64(s.addend)
			return x, true
		case s.name == "":
			return ref{}, false // the resolver of an indirect function, or thread-local
		case s.name != p.obj.plainName(x.sym) || s.addend != r.Addend:
			d.wrong = fmt.Sprintf("%s+%#x is the address of %s in the object, of %s in the target", d.sec.Name, r.Offset, p.obj.symbolName(x.sym), s.name)
		}
		return ref{}, false
	}
	v, ok := elfpatch.LinkedTarget(p.obj.f.Machine, r.Type, field, at)
	x.value = v
	if p.obj.weakUndefined(x.sym) && x.symbolValue() == 0 {
		return ref{}, false // nobody defines it
	}
	return x, ok
}

// learn checks a field of data against all that is known, and takes over what is
// new. It returns what contradicts it.
func (p *prover) learn(d *datum, r ref) (text string) {
	where := fmt.Sprintf("%s+%#x", d.sec.Name, r.off)
	if f, off, ok := p.stretched(r); ok {
		if info := f.at[off]; info < 0 || f.addr+uint64(info) != r.value {
			return where + " leads elsewhere in " + f.name
		}
		return ""
	}
	if text := p.obj.contradicts(r, p.img); text != "" {
		return where + ": " + text
	}
	p.eachFact(r, func(k key, v uint64) {
		switch a := p.facts[k]; {
		case a == nil:
			p.facts[k] = &fact{value: v, first: where}
		case a.value != v && text == "":
			text = fmt.Sprintf("%s of %s is %#x by %s and %#x by %s", k.use, p.obj.symbolName(r.sym), a.value, a.first, v, where)
		}
	})
	return text
}

// stretched finds the function, and the offset in it, that a field leads to when
// the target has the function with other lengths of jumps.
func (p *prover) stretched(r ref) (*function, int, bool) {
	sec := p.obj.defined(r.sym)
	if sec == nil || sec.Flags&elf.SHF_EXECINSTR == 0 {
		return nil, 0, false
	}
	to := p.obj.f.Symbols[r.sym].Value + uint64(r.addend)
	for _, i := range p.obj.inSection(sec.Index) {
		if f := p.funcs[i]; f != nil && f.at != nil && f.state == proven && to > f.off && to-f.off < uint64(len(f.at)) {
			return f, int(to - f.off), true
		}
	}
	return nil, 0, false
}
