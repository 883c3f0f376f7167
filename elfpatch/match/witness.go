package match

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/internal/refusal"
)

// In a stripped target nothing but the fields of a function may say where the
// variables are that it uses, and one damaged field says it wrongly. The other
// functions of the object know better: where their code stands in one place only,
// what they say of the same variables has to be the same.

// mustStand reports a function that has to be where a proven one leads to: an
// outlined part of it, and any that only one field and no table names.
func (p *prover) mustStand(g *function) bool {
	if p.wants(g.name) {
		return true
	}
	k, _ := p.obj.keyOf(Address, g.sym, 0)
	return !p.img.kernel && p.facts[k].uses <= 1 && len(p.candidates(g.sym)) == 0
}

// helpParts adds the outlined parts of functions as witnesses.
func (p *prover) helpParts() {
	for i, s := range p.obj.f.Symbols {
		if dot := strings.Index(s.Name, ".cold"); dot > 0 && s.Type == elf.STT_FUNC && p.wants(s.Name) {
			p.help(i)
		}
	}
}

// wants reports a part of a function that is asked for.
func (p *prover) wants(part string) bool {
	return slices.ContainsFunc(p.order, func(f *function) bool { return f.wanted && isPartOf(part, f.name) })
}

// crossExamine places the other functions of the object and holds them against
// those that are proven. Kernels have names for everything instead.
func (p *prover) crossExamine() {
	if len(p.opt.At) > 0 {
		return // done in the proof that said so; jumps may have other lengths here
	}
	if p.img.kernel {
		p.helpParts()
	} else {
		p.helpAll()
	}
	p.settle()
	bad := map[key]string{}
	for _, g := range p.order {
		if addr, ok := p.known(g); ok && !g.wanted && g.state != proven && !p.obj.replaceable(g.sym) && p.mustStand(g) {
			k, _ := p.obj.keyOf(Address, g.sym, 0)
			bad[k] = fmt.Sprintf("%s would be at %#x by %s, where its code is not", g.name, addr, p.facts[k].first)
		}
	}
	for _, g := range p.order {
		if p.img.kernel {
			break
		}
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
