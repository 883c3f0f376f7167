package match

import (
	"debug/elf"
	"encoding/binary"

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

// doubtful reports a weak function that a search found and that neither code of the
// object nor any branch of the target leads to: another object's may be the one that
// runs. Of COMDAT functions the linker keeps one and no other.
func (p *prover) doubtful(f *function) bool {
	if p.img.kernel || f.found != BySearch || p.obj.f.Symbols[f.sym].Bind != elf.STB_WEAK || f.sec.Flags&elf.SHF_GROUP != 0 {
		return false
	}
	k, _ := p.obj.keyOf(Address, f.sym, 0)
	return (p.facts[k] == nil || p.facts[k].uses == 0) && !p.img.branchesTo(f.addr, f.extent)
}

// branchesTo reports whether some place outside a function looks like a direct call
// or jump to its start. Instructions are not told from data: what looks like a branch
// to this very byte is hardly anything else.
func (img *image) branchesTo(addr, size uint64) bool {
	for _, s := range img.exec {
		for i := 0; i+5 <= len(s.data); i++ {
			at, to := s.addr+uint64(i), uint64(0)
			switch b := s.data[i:]; {
			case img.f.Machine == elf.EM_X86_64 && b[0]&^1 == 0xe8: // call, jmp
				to = at + 5 + uint64(int64(int32(binary.LittleEndian.Uint32(b[1:]))))
			case img.f.Machine == elf.EM_AARCH64 && i%4 == 0 && b[3]&0x7c == 0x14: // b, bl
				to = at + uint64(int64(int32(binary.LittleEndian.Uint32(b)<<6)>>6)*4)
			default:
				continue
			}
			if to == addr && at-addr >= size {
				return true
			}
		}
	}
	return false
}
