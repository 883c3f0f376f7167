package diff

import (
	"debug/elf"
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// cutter makes the object of a Cut.
type cutter struct {
	c        *comparison
	out      *elfpatch.File
	taken    map[string]bool
	opt      CutOptions
	included map[*piece]int // pieces of the patched object and their symbols in out, 0 if they have none
	places   map[*piece]place
	order    []*piece       // in the order of inclusion
	external map[extKey]int // symbols in out
	list     []External
	clusters map[int]*cluster   // by section of the patched object
	layouts  map[*piece]*layout // of functions whose code moves
	refusals refusal.List
	unwinds  string        // see Cut
	kern     *kernelCutter // nil for objects of programs
}

// place is where a piece went.
type place struct {
	sec *elfpatch.Section
	off uint64
}

// A cluster is a stretch of a section of constants that is copied as one,
// because code reaches some of them from the address of others.
type cluster struct {
	lo, hi uint64
	out    *elfpatch.Section
}

// extKey is what an External stands for: a symbol of the original object, or a
// name that it does not know.
type extKey struct {
	orig int
	name string
}

// Cut makes the object that a patch is made from. Its error is the list of
// refusals, those of Compare included.
func (d *Delta) Cut() (*Cut, error) { return d.CutFor(CutOptions{}) }

// CutFor is Cut with what is known of the target.
func (d *Delta) CutFor(opt CutOptions) (*Cut, error) {
	k := &cutter{
		c: d.c, out: elfpatch.New(elf.ET_REL, d.c.m), taken: map[string]bool{}, opt: opt,
		included: map[*piece]int{}, places: map[*piece]place{}, external: map[extKey]int{}, clusters: map[int]*cluster{}, layouts: map[*piece]*layout{},
		refusals: append(refusal.List(nil), d.Refusals...),
	}
	if d.c.opt.Kernel {
		k.kern = newKernelCutter(k, opt)
		k.kern.requests()
	}
	for _, p := range d.c.patched.pieces {
		if k.isRoot(p) {
			k.include(p)
		}
	}
	for done := 0; done < len(k.order); {
		for ; done < len(k.order); done++ {
			k.follow(k.order[done])
		}
		for _, p := range k.order[:done] {
			k.gather(p)
		}
	}
	// From here on everything that the patch has to bring along is in order.
	k.name()
	rels := map[*elfpatch.Section][]elfpatch.Rela{}
	for _, p := range k.order {
		k.emit(p, rels)
	}
	if k.kern != nil {
		k.kern.finish(rels)
	} else {
		k.frames(rels)
	}
	for _, sec := range k.out.Sections[:len(k.out.Sections):len(k.out.Sections)] {
		if err := k.out.SetRelocations(sec, rels[sec]); err != nil {
			return nil, fmt.Errorf("cut: %w", err)
		}
	}
	if err := k.refusals.Err(); err != nil {
		return nil, err
	}
	cut := &Cut{Object: k.out, Externals: k.list, Unwinds: k.unwinds}
	for _, p := range k.order {
		if p.kind == function && p.parent == nil && p.twin != nil && d.c.status(p) == Changed && !opt.Elsewhere[p.sym] {
			cut.Funcs = append(cut.Funcs, CutFunc{Name: d.c.nameOf(p), Symbol: k.included[p], Orig: p.twin.sym})
		}
	}
	if k.kern != nil {
		cut.Kernel = k.kern.result()
	}
	return cut, nil
}

// isRoot reports what the patch brings along for its own sake: changed
// functions, and what is new and other objects may refer to.
func (k *cutter) isRoot(p *piece) bool {
	if k.kern != nil && !k.kern.mayBeRoot(p) {
		return false
	}
	switch k.c.status(p) {
	case Changed:
		return p.kind == function && p.parent == nil && !k.opt.Elsewhere[p.sym]
	case New:
		return p.kind != literal && !p.isCell() && p.parent == nil && p.sym != 0 && !k.c.patched.isStatic(p)
	}
	return false
}

func (k *cutter) include(p *piece) {
	if _, ok := k.included[p]; ok {
		return
	}
	k.included[p] = 0
	k.order = append(k.order, p)
	if k.kern != nil {
		k.kern.check(p)
	}
	for _, part := range p.parts {
		k.include(part)
	}
	if p.parent != nil {
		k.include(p.parent)
	}
}

// follow includes what a piece refers to and the target does not have.
func (k *cutter) follow(p *piece) {
	for i := range p.refs {
		r := &p.refs[i]
		if r.to != nil && !r.anchor && k.isOwn(r.to) {
			k.include(r.to)
		}
	}
	if k.kern != nil {
		k.kern.followEntries(p)
	}
	if p.frame != nil {
		k.followFrame(p.frame)
	}
}

// gather puts constants that a function reaches from each other's addresses
// into one cluster, if the patch has a copy of any.
func (k *cutter) gather(p *piece) {
	for i := range p.refs {
		r := &p.refs[i]
		k.gatherStray(p, r)
		if !r.derived || r.how.base == nil || r.how.base == r.to || r.how.base.live || r.to.live || r.to.bss || r.how.base.sec != r.to.sec ||
			!k.isOwn(r.how.base) && !k.isOwn(r.to) {
			continue
		}
		lo, hi := min(r.how.base.off, r.to.off), max(r.how.base.off+r.how.base.size, r.to.off+r.to.size)
		c := k.clusters[r.to.sec]
		if c == nil {
			c = &cluster{lo: lo, hi: hi}
			k.clusters[r.to.sec] = c
		} else if lo >= c.lo && hi <= c.hi {
			continue
		}
		c.lo, c.hi = min(c.lo, lo), max(c.hi, hi)
		for _, q := range k.c.patched.secs[r.to.sec].pieces {
			if q.off >= c.lo && q.off < c.hi {
				k.include(q)
			}
		}
	}
}

// cluster returns the cluster that a piece is in, nil if it stands alone.
func (k *cutter) cluster(p *piece) *cluster {
	if c := k.clusters[p.sec]; c != nil && p.sec > 0 && p.kind != function && p.off >= c.lo && p.off < c.hi {
		return c
	}
	return nil
}

// isOwn reports whether the patch has a copy of a piece of its own. The target
// has everything that is the same, but for literals, whose addresses in it
// nobody can tell, and tables of places in code that is replaced.
func (k *cutter) isOwn(p *piece) bool {
	if _, ok := k.included[p]; ok {
		return true
	}
	switch {
	case p.kind == entry:
		return false // it comes with the code that it is about
	case p.special != nil:
		return true
	case p.live:
		return p.twin == nil
	case p.kind == literal:
		return true
	case p.kind == function && k.opt.Elsewhere[p.sym]:
		return false
	case p.kind == function:
		return k.c.status(p) != Same
	case k.c.status(p) != Same:
		return true
	}
	for i := range p.refs {
		if r := &p.refs[i]; r.to != nil && r.to.kind == function && r.add != 0 && k.c.status(r.to) != Same {
			return true
		}
	}
	return false
}

// name gives every included piece its section and symbol. The sections are
// named after the pieces, as compilers do for -ffunction-sections.
func (k *cutter) name() {
	if k.kern != nil {
		k.kern.place()
		return
	}
	for _, p := range k.order {
		sec := elfpatch.Section{Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1}
		sym := elfpatch.Symbol{Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Size: p.size}
		var contents []byte
		if p.sec > 0 {
			from := k.c.patched.f.Sections[p.sec]
			sec.Align = max(from.Align, 1)
			sec.Flags = from.Flags & (elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_EXECINSTR | elf.SHF_TLS)
			contents = k.contents(p)
		} else {
			sec.Align = max(k.c.patched.symbol(p).Value, 1)
			sec.Flags |= elf.SHF_WRITE
		}
		base := p.name
		if p.sym != 0 {
			from := k.c.patched.symbol(p)
			sym.Type, sym.Bind, sym.Other = from.Type, from.Bind, from.Other
		} else if p.kind == function {
			sym.Type = elf.STT_FUNC
		} else {
			base = fmt.Sprintf(".Lconst.%d", len(k.out.Symbols))
		}
		sym.Name = k.unique(base)
		sec.Name = k.prefix(p) + strings.TrimPrefix(sym.Name, ".L")
		if p.bss {
			sec.Type, sec.Size = elf.SHT_NOBITS, p.size
		} else {
			sec.Data = append([]byte{}, contents...)
			if k.layouts[p] != nil {
				sym.Size = uint64(len(contents))
			}
		}
		if c := k.cluster(p); c != nil {
			if c.out == nil {
				sec.Data = append([]byte{}, k.c.patched.f.Sections[p.sec].Data[c.lo:c.hi]...)
				c.out = k.out.AddSection(sec)
			}
			sym.Section, sym.Value = c.out.Index, p.off-c.lo
		} else {
			sym.Section = k.out.AddSection(sec).Index
		}
		k.included[p] = k.out.AddSymbol(sym)
		k.places[p] = place{k.out.Sections[sym.Section], sym.Value}
	}
}

// contents returns the code or data of a piece as the patch has it.
func (k *cutter) contents(p *piece) []byte {
	l, ok := k.c.patched.widen(p)
	if !ok {
		k.refusals = append(k.refusals, refusal.New(refusal.Unsupported, k.c.opt.Name+": "+p.name,
			"a jump to another function has no long form (compile with -ffunction-sections)"))
	}
	if l == nil {
		return k.c.patched.data(p)
	}
	k.layouts[p] = l
	return l.code
}

func (k *cutter) prefix(p *piece) string {
	switch {
	case p.kind == function:
		return ".text."
	case p.tls && p.bss:
		return ".tbss."
	case p.tls:
		return ".tdata."
	case p.bss:
		return ".bss."
	case p.live:
		return ".data."
	case p.sec > 0 && k.c.patched.f.Sections[p.sec].Flags&elf.SHF_WRITE != 0:
		return ".data.rel.ro."
	}
	return ".rodata."
}

// unique returns a name that no other symbol of the cut has.
func (k *cutter) unique(name string) string {
	try := name
	for n := 2; k.taken[try]; n++ {
		try = fmt.Sprintf("%s#%d", name, n)
	}
	k.taken[try] = true
	return try
}
