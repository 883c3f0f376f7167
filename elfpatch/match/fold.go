package match

import (
	"debug/elf"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// Linkers may keep one of several functions with the same code (--icf). Its
// entry then serves all of them, also those that do not change. Folded
// functions of other objects are seen only if a symbol table names them.

// refuseFolded refuses proven functions whose entry serves another function too.
func (p *prover) refuseFolded() {
	placed := map[uint64]*function{}
	for _, f := range p.order {
		if f.wanted && f.state == proven {
			placed[f.addr] = f
		}
	}
	folded := map[*function]string{}
	note := func(f *function, name string) {
		if old, ok := folded[f]; !ok || name < old {
			folded[f] = name
		}
	}
	for _, f := range placed {
		for _, g := range p.lookalikes(f) {
			p.want(g, false)
		}
	}
	p.settle()
	for _, g := range p.order {
		for _, x := range g.fits {
			f := placed[x.addr]
			if f == nil || f == g || g.wanted || samePlace(f, g) {
				continue
			}
			if g.state == proven && g.addr == f.addr || g.state != proven && onlyAt(g, f.addr) {
				note(f, g.name)
			}
		}
	}
	if !p.img.kernel { // where aliases across objects are common, and folding is not done
		p.eachName(func(s *elfpatch.Symbol) {
			if f := placed[s.Value]; f != nil && s.Type == elf.STT_FUNC && s.Size == f.size && !p.isNameOf(f, s.Name) {
				note(f, s.Name)
			}
		})
	}
	for _, f := range p.order {
		if name, ok := folded[f]; ok {
			p.refuse(refusal.AddressAmbiguous, f.sym, f.name, "is folded with %s at %#x of %s: one entry serves both", name, f.addr, p.opt.Target)
		}
	}
}

// lookalikes are the functions of the object that could be folded with f.
func (p *prover) lookalikes(f *function) (list []*function) {
	for i, s := range p.obj.f.Symbols {
		if s.Type != elf.STT_FUNC || s.Size != f.size || p.funcs[i] != nil {
			continue
		}
		if g, err := p.obj.function(i); err == nil && g != nil && !samePlace(f, g) {
			list = append(list, g)
		}
	}
	return list
}

// samePlace reports two names of one function.
func samePlace(f, g *function) bool { return f.sec == g.sec && f.off == g.off }

func onlyAt(g *function, addr uint64) bool {
	for _, x := range g.fits {
		if x.addr != addr {
			return false
		}
	}
	return len(g.fits) > 0
}

// isNameOf reports whether the object has a name for a function, or would have
// had: compilers and linkers add to names behind dots and signs.
func (p *prover) isNameOf(f *function, name string) bool {
	stem := func(s string) string {
		if i := strings.IndexAny(s, ".@"); i > 0 {
			return s[:i]
		}
		return s
	}
	own := p.obj.f.Symbols[f.sym]
	for i, s := range p.obj.f.Symbols {
		if s.Section == own.Section && s.Value == own.Value && stem(p.obj.plainName(i)) == stem(name) {
			return true
		}
	}
	return false
}

// eachName calls fn with every symbol that the target and its debug file define.
func (p *prover) eachName(fn func(*elfpatch.Symbol)) {
	files := []*elfpatch.File{p.img.f}
	if p.debug != nil {
		files = append(files, p.debug)
	}
	for _, f := range files {
		for i := range f.Symbols {
			if f.Symbols[i].Section != elfpatch.Undefined {
				fn(&f.Symbols[i])
			}
		}
	}
	dyn, err := p.img.f.DynSymbols()
	if err != nil {
		return
	}
	for i := range dyn {
		if s := dyn[i].Symbol; s.Section != elfpatch.Undefined {
			fn(&s)
		}
	}
}
