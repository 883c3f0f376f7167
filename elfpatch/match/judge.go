package match

import (
	"cmp"
	"fmt"
	"strings"

	"livepatch/disasm"
	"livepatch/internal/refusal"
)

// judge turns what is not proven into refusals.
func (p *prover) judge() {
	at := map[uint64]*function{}
	for _, f := range p.order {
		if !f.wanted {
			continue
		}
		switch {
		case f.state == proven && f.unused:
			p.refuseUnused(f)
		case f.state == proven && f.wrong != "":
			p.refuse(cmp.Or(f.wrongCode, refusal.NotTheRunningCode), f.sym, f.name, "%s", f.wrong)
		case f.state == proven && at[f.addr] != nil && !samePlace(f, at[f.addr]):
			p.refuse(refusal.AddressAmbiguous, f.sym, f.name, "is folded with %s at %#x of %s: one entry serves both",
				at[f.addr].name, f.addr, p.opt.Target)
		case f.state == proven && p.doubtful(f):
			p.refuse(refusal.AddressAmbiguous, f.sym, f.name, "is weak, its code stands at %#x of %s, and nothing shows that this one is run, not another object's of this name",
				f.addr, p.opt.Target)
		case f.state == proven:
			at[f.addr] = f
		case f.state == open:
			p.refuse(refusal.AddressAmbiguous, f.sym, f.name, "%s", p.several(f))
		case len(f.fits) > 0:
			p.refuse(refusal.AddressAmbiguous, f.sym, f.name, "%s", p.conflict(f, &f.fits[0]))
		default:
			where, text := p.differs(f)
			p.refuse(refusal.NotTheRunningCode, f.sym, where, "%s", text)
			p.missed[len(p.missed)-1].Difference = p.difference(f)
		}
	}
}

// several words that more than one place fits.
func (p *prover) several(f *function) string {
	const shown = 4
	switch {
	case len(f.fits) == 0 || f.many && len(f.fits) == maxFits:
		return fmt.Sprintf("its %d bytes are too common in %s to be searched for", f.size, p.opt.Target)
	case len(f.fits) == 1 && f.shared:
		return fmt.Sprintf("%s has several functions of this name, and nothing says that the one at %#x, whose code it has, is meant",
			p.opt.Target, f.fits[0].addr)
	case len(f.fits) == 1:
		return fmt.Sprintf("its %d bytes are too few to be sure that they stand at %#x of %s", f.size, f.fits[0].addr, p.opt.Target)
	}
	var list []string
	for _, x := range f.fits {
		if p.conflict(f, &x) == "" {
			list = append(list, fmt.Sprintf("%#x", x.addr))
		}
	}
	more := ""
	if len(list) > shown {
		more = fmt.Sprintf(" and %d more places", len(list)-shown)
		list = list[:shown]
	}
	return fmt.Sprintf("its code stands at %s%s of %s, and nothing says which is meant", strings.Join(list, ", "), more, p.opt.Target)
}

// differs words where the best place parts from the object's code.
func (p *prover) differs(f *function) (where, text string) {
	if f.nearest == nil {
		if addr, ok := p.mostAlike(f); ok {
			p.try(f, addr)
		}
	}
	if f.nearest == nil {
		f.nearest = f.cut
	}
	m := f.nearest
	if m == nil {
		return f.name, fmt.Sprintf("no place in the text of %s resembles its %d bytes", p.opt.Target, f.size)
	}
	off := p.instruction(f, m.off)
	where = fmt.Sprintf("%s+%#x", f.name, off)
	if m.text != "" {
		return where, fmt.Sprintf("%s (%s+%#x)", m.text, p.opt.Target, m.addr+uint64(off))
	}
	old, cur := p.texts(f, m.addr, off)
	if old == cur {
		off, old, cur = p.rawDifference(f, m)
	}
	return where, fmt.Sprintf("the object has %q, %s has %q at %#x", old, p.opt.Target, cur, m.addr+uint64(off))
}

// mostAlike is the place that shares the most fixed bytes with a function, if
// it shares half of them.
func (p *prover) mostAlike(f *function) (addr uint64, ok bool) {
	runs := fixedRuns(p.obj.f.Machine, f)
	total, best := 0, 0
	for _, r := range runs {
		total += r[1] - r[0]
	}
	for _, a := range p.img.near(f, runs) {
		code, in := p.img.text(a, len(f.code))
		if !in {
			continue
		}
		equal := 0
		for _, r := range runs {
			for k := r[0]; k < r[1]; k++ {
				if code[k] == f.code[k] {
					equal++
				}
			}
		}
		if equal > best {
			addr, best = a, equal
		}
	}
	return addr, 2*best >= total && best > 0
}

// instruction returns the start of the instruction of the object that covers an
// offset; the offset itself in data.
func (p *prover) instruction(f *function, off int) int {
	start := off
	_ = disasm.Walk(p.obj.f.Machine, f.code, func(at int, in disasm.Inst) bool {
		if at <= off {
			start = at
		}
		return at+in.Len <= off
	})
	return start
}

// texts disassembles the object's instruction and what the target has there.
func (p *prover) texts(f *function, addr uint64, off int) (old, cur string) {
	code, _ := p.img.textAtMost(addr, len(f.code))
	one := func(b []byte, pc uint64) string {
		in, err := disasm.Decode(p.obj.f.Machine, b)
		n := min(len(b), 1)
		if err == nil {
			n = in.Len
		}
		return disasm.Text(p.obj.f.Machine, b[:n], pc, nil)
	}
	return one(f.code[off:], uint64(off)), one(code[off:], addr+uint64(off))
}

// rawDifference shows bytes where the text of both instructions is the same.
func (p *prover) rawDifference(f *function, m *miss) (int, string, string) {
	code, _ := p.img.textAtMost(m.addr, len(f.code))
	n := min(4, len(code)-m.off)
	return m.off, fmt.Sprintf("% x", f.code[m.off:m.off+n]), fmt.Sprintf("% x", code[m.off:m.off+n])
}
