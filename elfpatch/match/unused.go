package match

import (
	"debug/elf"

	"livepatch/internal/refusal"
)

// A linker that takes another object's definition of a weak function leaves the
// code of this one where it is, with the rest of its section; only nothing that
// goes by the name leads there. Whether the target holds the object's code and
// whether it runs it are two questions then, and the answers differ.

// placeUnused places the weak functions that the target has under their name
// elsewhere: where their section is, else in the only place that holds their code.
func (p *prover) placeUnused() {
	for _, f := range p.order {
		if !f.wanted || f.state != failed || len(f.fits) > 0 || p.obj.f.Symbols[f.sym].Bind != elf.STB_WEAK ||
			pieces(f.sec) || len(p.candidates(f.sym)) == 0 {
			continue
		}
		f.unused = true
		if x := p.unusedFit(f); x != nil {
			k := key{use: Address, sec: f.sec.Index}
			if p.facts[k] == nil {
				p.facts[k] = &fact{value: x.addr - f.off, first: string(BySearch)}
			}
			p.accept(f, x)
		} else {
			f.unused = false
		}
	}
}

// unusedFit is the place of a function that no symbol leads to; nil if it has
// none or several.
func (p *prover) unusedFit(f *function) *fit {
	if a := p.facts[key{use: Address, sec: f.sec.Index}]; a != nil {
		f.found = ByReference
		p.try(f, a.value+f.off)
	} else if pat := newPattern(p.obj.f.Machine, f); pat.fixed >= minEvidence {
		p.img.search([]*pattern{pat})
		p.takeHits(pat)
	}
	var good []*fit
	for i := range f.fits {
		if p.conflict(f, &f.fits[i]) == "" {
			good = append(good, &f.fits[i])
		}
	}
	if len(good) != 1 || f.many {
		f.fits = nil
		return nil
	}
	return good[0]
}

// refuseUnused says that a function is there and not run.
func (p *prover) refuseUnused(f *function) {
	run := p.candidates(f.sym)[0].addr
	p.refuse(refusal.NotTheRunningCode, f.sym, f.name,
		"is weak, and %s runs another object's function of this name, at %#x; the code of this one stands unused at %#x",
		p.opt.Target, run, f.addr)
	if f.wrong == "" {
		unused := p.report(f)
		p.missed[len(p.missed)-1].Unused = &unused
	}
}

// doubtful reports a weak function that a search found and nothing of the object
// leads to: another object's may be the one that runs. Of COMDAT functions the
// linker keeps one and no other.
func (p *prover) doubtful(f *function) bool {
	if p.img.kernel || f.found != BySearch || p.obj.f.Symbols[f.sym].Bind != elf.STB_WEAK || f.sec.Flags&elf.SHF_GROUP != 0 {
		return false
	}
	k, _ := p.obj.keyOf(Address, f.sym, 0)
	return p.facts[k] == nil || p.facts[k].uses == 0
}
