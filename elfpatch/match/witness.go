package match

import (
	"fmt"

	"livepatch/internal/refusal"
)

// In a stripped target nothing but the fields of a function may say where the
// variables are that it uses, and one damaged field says it wrongly. The other
// functions of the object know better: where their code stands in one place only,
// what they say of the same variables has to be the same.

// crossExamine places the other functions of the object and holds them against
// those that are proven. Kernels have names for everything instead.
func (p *prover) crossExamine() {
	if p.img.kernel {
		return
	}
	p.helpAll()
	p.settle()
	bad := map[key]string{}
	for _, g := range p.order {
		if g.wanted || g.state != failed || len(g.fits) != 1 || g.many || p.obj.replaceable(g.sym) {
			continue
		}
		for _, r := range g.fits[0].refs {
			p.eachFact(r, func(k key, v uint64) {
				if a := p.facts[k]; a != nil && a.value != v {
					bad[k] = fmt.Sprintf("%s of %s is %#x by %s and %#x by %s+%#x", k.use, p.obj.symbolName(r.sym), a.value, a.first, v, g.name, r.off)
				}
			})
		}
		if k, off := p.obj.keyOf(Address, g.sym, 0); p.facts[k] != nil && p.facts[k].value+off != g.fits[0].addr {
			bad[k] = fmt.Sprintf("%s is at %#x by %s, its code stands at %#x", g.name, p.facts[k].value+off, p.facts[k].first, g.fits[0].addr)
		}
	}
	if len(bad) == 0 {
		return
	}
	for _, f := range p.order {
		for _, r := range f.refs {
			p.eachFact(r, func(k key, _ uint64) {
				if text, ok := bad[k]; ok && f.wrong == "" {
					f.wrong, f.wrongCode = text, refusal.AddressAmbiguous
				}
			})
		}
	}
}
