package match

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
)

// Functions that come from a header, and those behind attributes in sysfs, are
// static in many objects of a kernel under the same name. Often nothing in the
// object's code refers to them: only tables in its data do. Where the image has
// a table is known by its name, or from a table that leads to it, and the
// image's copy holds the address.

// askData learns addresses from data of the object whose place in the image is
// known.
func (p *prover) askData() error {
	in := map[*elfpatch.Section][]*function{}
	for _, f := range p.order {
		in[f.sec] = append(in[f.sec], f)
	}
	var queue []*elfpatch.Section
	for _, s := range p.obj.f.Sections {
		if p.isTable(s) {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		base, name, ok := p.sectionAt(s)
		if !ok {
			continue
		}
		rels, err := p.obj.relocations(s.Index)
		if err != nil {
			return err
		}
		for _, r := range rels {
			if next := p.askPointer(r, pointer{base + r.Offset, name}, in); next != nil {
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// isTable reports a section of data that may hold pointers and moves as a
// whole.
func (p *prover) isTable(s *elfpatch.Section) bool {
	return s.Flags&elf.SHF_ALLOC != 0 && s.Flags&(elf.SHF_EXECINSTR|elf.SHF_TLS) == 0 && s.Type != elf.SHT_NOBITS && !pieces(s)
}

// pointer is a place in the image, and the name of the table that it is in.
type pointer struct {
	at    uint64
	table string
}

// askPointer looks at the image's copy of a pointer of the object. It returns the
// section of data that the pointer leads to if its place was not known before.
// in are the functions that may be placed, by section.
func (p *prover) askPointer(r elfpatch.Rela, ptr pointer, in map[*elfpatch.Section][]*function) *elfpatch.Section {
	info, ok := elfpatch.RelocInfo(p.obj.f.Machine, r.Type)
	if !ok || info.Kind != elfpatch.KindData || info.PCRel || info.Size != 8 || r.Symbol == 0 {
		return nil
	}
	k, off := p.obj.keyOf(Address, int(r.Symbol), 0)
	sec := p.obj.defined(int(r.Symbol))
	if sec == nil || k.sec == 0 || p.facts[k] != nil {
		return nil
	}
	v, ok := p.slotValue(ptr.at)
	if !ok {
		return nil
	}
	base := v - uint64(r.Addend) - off
	known := &fact{value: base, first: fmt.Sprintf("%s at %#x", ptr.table, ptr.at)}
	if p.isTable(sec) {
		if !p.img.holds(base, sec.Size, false) || p.obj.misplacedSection(sec, base, p.img) != "" {
			return nil
		}
		p.facts[k] = known
		return sec
	}
	for _, f := range in[sec] {
		for _, x := range f.fits {
			if x.addr-f.off == base {
				p.facts[k] = known
				return nil
			}
		}
	}
	return nil
}

// sectionAt returns where the image has a section of data, and a name for it.
func (p *prover) sectionAt(s *elfpatch.Section) (base uint64, name string, ok bool) {
	if a := p.facts[key{use: Address, sec: s.Index}]; a != nil {
		return a.value, s.Name, true
	}
	for _, i := range p.obj.inSection(s.Index) {
		if p.obj.replaceable(i) || p.obj.f.Symbols[i].Type != elf.STT_OBJECT {
			continue
		}
		if n, ok := p.unique(i); ok {
			return n.addr - p.obj.f.Symbols[i].Value, p.obj.f.Symbols[i].Name, true
		}
	}
	return 0, "", false
}
