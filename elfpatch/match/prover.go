package match

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// prover places functions one after the other. What the fields of the placed
// ones show decides between the places that fit others.
type prover struct {
	obj      *object
	img      *image
	opt      Options
	funcs    map[int]*function
	order    []*function
	facts    map[key]*fact
	compared map[datumKey]*datum   // data that was compared, by place
	leads    map[*datum][]datumKey // of data whose next are not filled in yet
	missed   []Missed
	helped   map[int]bool // symbols for which witnesses were called
	debug    *elfpatch.File
}

// newProver begins the proof of an object. all is the target with the names that
// it has; nil: only those of the object are read.
func newProver(orig, target, debug *elfpatch.File, all *image, opt Options) (*prover, error) {
	if err := checkObject(orig, target); err != nil {
		return nil, err
	}
	if opt.Object == "" {
		opt.Object = "object"
	}
	if opt.Target == "" {
		opt.Target = "the target"
	}
	obj := newObject(orig)
	if isKernel(target) {
		if err := obj.readSites(); err != nil {
			return nil, err
		}
	}
	var img *image
	if all != nil {
		own := *all
		own.checked = map[int]map[uint64]string{}
		img = &own
	} else {
		var err error
		if img, err = newImage(target, debug, obj.names()); err != nil {
			return nil, err
		}
	}
	return &prover{
		obj: obj, img: img, opt: opt, compared: map[datumKey]*datum{}, leads: map[*datum][]datumKey{},
		funcs: map[int]*function{}, facts: map[key]*fact{}, helped: map[int]bool{}, debug: debug,
	}, nil
}

// refuse notes why the function of a symbol is not proven; where is the place in it.
func (p *prover) refuse(code refusal.Code, sym int, where, format string, args ...any) {
	p.missed = append(p.missed, Missed{
		Symbol: sym, Name: p.obj.symbolName(sym), Refusal: refusal.New(code, p.opt.Object+": "+where, format, args...),
	})
}

// want adds a function to those that are placed.
func (p *prover) want(f *function, wanted bool) {
	f.wanted = f.wanted || wanted
	if p.funcs[f.sym] == nil {
		p.funcs[f.sym] = f
		p.order = append(p.order, f)
	}
}

// settle places functions until nothing more follows from what is known.
func (p *prover) settle() {
	p.searchAll()
	for progress := true; progress; {
		progress = false
		for _, f := range p.order {
			if f.state == open && p.decide(f) {
				progress = true
			}
		}
	}
}

// undecided reports whether a wanted function is still open.
func (p *prover) undecided() bool {
	return slices.ContainsFunc(p.order, func(f *function) bool { return f.wanted && f.state == open })
}

// helpAll adds every other function of the object as a witness.
func (p *prover) helpAll() {
	for i := range p.obj.f.Symbols {
		p.help(i)
	}
}

func (p *prover) help(i int) {
	if s := p.obj.f.Symbols[i]; s.Type != elf.STT_FUNC || p.funcs[i] != nil {
		return
	}
	if f, err := p.obj.function(i); err == nil && f != nil {
		p.want(f, false)
	}
}

// known returns where a function must be if it is anywhere.
func (p *prover) known(f *function) (uint64, bool) {
	k, off := p.obj.keyOf(Address, f.sym, 0)
	if a := p.facts[k]; a != nil {
		return a.value + off, true
	}
	return 0, false
}

// decide tries to place a function; it reports whether its state changed.
func (p *prover) decide(f *function) bool {
	if addr, ok := p.known(f); ok && !slices.ContainsFunc(f.fits, func(x fit) bool { return x.addr == addr }) {
		p.try(f, addr)
		if f.found == "" {
			f.found = ByReference
		}
	}
	var good *fit
	n := 0
	for i := range f.fits {
		if p.conflict(f, &f.fits[i]) == "" {
			good = &f.fits[i]
			n++
		}
	}
	switch {
	case n == 1 && (!f.many && !f.shared || f.anchored(p)):
		p.accept(f, good)
		return true
	case n == 0 && !f.many:
		f.state = failed
		return true
	}
	return false
}

// anchored reports whether something else than the search gave the address.
func (f *function) anchored(p *prover) bool {
	_, ok := p.known(f)
	return ok
}

// searchAll finds the places of all open functions: by name, else, for those
// that nothing else leads to, by their bytes.
func (p *prover) searchAll() {
	var pats []*pattern
	for _, f := range p.order {
		if f.asked {
			continue
		}
		f.asked = true
		if at, ok := p.opt.At[f.sym]; ok {
			f.found = at.Found
			p.try(f, at.Addr)
			continue
		}
		if p.byName(f) {
			continue
		}
		if _, ok := p.known(f); !ok {
			pats = append(pats, newPattern(p.obj.f.Machine, f))
		}
	}
	p.img.search(pats)
	for _, pat := range pats {
		p.takeHits(pat)
	}
}

// byName tries the places that the symbol tables give a function; false when
// they know none.
func (p *prover) byName(f *function) bool {
	all := p.candidates(f.sym)
	for _, n := range all {
		// Static functions from headers are in many objects of a kernel, with the same
		// code. That one of them has it does not say that it is this object's.
		f.shared = f.shared || p.img.kernel && n.addr != all[0].addr
		if p.try(f, n.addr) || f.found == "" {
			f.found = n.found
		}
	}
	if len(f.fits) > 1 && p.obj.file != "" {
		// Same-named static functions of several files, with the same code.
		var same []fit
		for _, x := range f.fits {
			for _, n := range all {
				if n.addr == x.addr && n.file == p.obj.file {
					same = append(same, x)
				}
			}
		}
		if len(same) == 1 {
			f.fits = same
		}
	}
	return len(all) > 0
}

// candidates returns the symbols of the target that can be symbol i.
func (p *prover) candidates(i int) []named {
	s := p.obj.f.Symbols[i]
	var local, global []named
	for _, n := range p.img.named[p.obj.plainName(i)] {
		if n.typ == elf.STT_TLS != (s.Type == elf.STT_TLS) {
			continue
		}
		if n.local {
			local = append(local, n)
		} else {
			global = append(global, n)
		}
	}
	switch {
	case s.Bind == elf.STB_LOCAL:
		return local
	case len(global) > 0:
		return global
	case s.Section == elfpatch.Undefined && len(local) > 1:
		return nil
	}
	return local // hidden, or made local by a version script
}

// takeHits compares the whole function at each place that holds its run.
func (p *prover) takeHits(pat *pattern) {
	f := pat.f
	f.found = BySearch
	f.many = pat.many
	for _, addr := range pat.hits {
		p.try(f, addr)
	}
	// Short code also stands inside other functions by chance.
	begins := func(x fit) bool { return p.img.begins(x.addr) }
	if slices.ContainsFunc(f.fits, begins) {
		f.fits = slices.DeleteFunc(f.fits, func(x fit) bool { return !begins(x) })
	} else if pat.fixed < minEvidence && len(f.fits) > 0 {
		f.many = true
	}
}

// try compares a function at an address and remembers the outcome.
func (p *prover) try(f *function, addr uint64) bool {
	code, ok := p.img.text(addr, len(f.code))
	if !ok {
		if p.tryElastic(f, addr) {
			return true
		}
		p.noteCut(f, addr)
		return false
	}
	w := p.window(f, addr, code)
	refs, m := w.compare()
	if m != nil {
		if p.tryElastic(f, addr) {
			return true
		}
		if f.nearest == nil || m.off > f.nearest.off {
			f.nearest = m
		}
		return false
	}
	f.fits = append(f.fits, fit{addr: addr, size: f.size, refs: refs, masked: w.masked})
	return true
}

// noteCut notes where a function parts from text that ends before the function
// would.
func (p *prover) noteCut(f *function, addr uint64) {
	code, ok := p.img.textAtMost(addr, len(f.code))
	if !ok {
		return
	}
	m := &miss{addr: addr, off: len(code), text: fmt.Sprintf("the text ends before its %d bytes", f.size)}
	for _, r := range fixedRuns(p.obj.f.Machine, f) {
		for k := r[0]; k < min(r[1], len(code)); k++ {
			if code[k] != f.code[k] {
				f.cut = &miss{addr: addr, off: k}
				return
			}
		}
	}
	f.cut = m
}

func (p *prover) window(f *function, addr uint64, code []byte) window {
	return window{
		m: p.obj.f.Machine, old: f.code, new: code, addr: addr,
		rels: f.rels, obj: p.obj, img: p.img, f: f, sites: f.sites,
	}
}

// tryElastic compares a function of a kernel with jumps of other lengths. Only
// names, and Options.At, lead here: an elastic search would find too much.
func (p *prover) tryElastic(f *function, addr uint64) bool {
	_, told := p.opt.At[f.sym]
	if !p.img.kernel && !told || p.obj.f.Machine != elf.EM_X86_64 || !f.stretches(p.obj) {
		return false
	}
	code, ok := p.img.textAtMost(addr, 2*len(f.code)+maxStretch)
	if !ok {
		return false
	}
	w := p.window(f, addr, code)
	x, m := w.elastic()
	if m != nil {
		return false
	}
	f.fits = append(f.fits, *x)
	return true
}

// accept makes a place the place of a function, and its fields known.
func (p *prover) accept(f *function, x *fit) {
	f.state, f.addr, f.extent, f.masked, f.refs, f.at = proven, x.addr, x.size, x.masked, x.refs, x.at
	if k, off := p.obj.keyOf(Address, f.sym, 0); p.facts[k] == nil && !f.unused {
		p.facts[k] = &fact{value: x.addr - off, first: string(f.found)}
	}
	for _, r := range x.refs {
		p.eachFact(r, func(k key, value uint64) {
			a := p.facts[k]
			if a == nil {
				a = &fact{value: value, first: fmt.Sprintf("%s+%#x", f.name, r.off)}
				p.facts[k] = a
			} else if a.uses == 0 {
				a.first = fmt.Sprintf("%s+%#x", f.name, r.off)
			}
			a.uses++
		})
	}
}

// eachFact calls fn with everything that a complete ref says.
func (p *prover) eachFact(r ref, fn func(key, uint64)) {
	if r.mask != whole || r.sym == 0 {
		return
	}
	if sec := p.obj.defined(r.sym); sec != nil && pieces(sec) {
		return // each piece has its own address
	}
	s := r.symbolValue()
	sym := p.obj.f.Symbols[r.sym]
	if r.use == Branch {
		_, stub := p.img.stub(s)
		// A call of what may be missing says nothing about where it is.
		missing := sym.Bind == elf.STB_WEAK && sym.Section == elfpatch.Undefined
		if sym.Bind == elf.STB_LOCAL || !stub && !missing {
			k, off := p.obj.keyOf(Address, r.sym, 0)
			fn(k, s-off)
		}
		if sym.Bind == elf.STB_LOCAL {
			return
		}
	}
	k, off := p.obj.keyOf(r.use, r.sym, r.entryOf())
	fn(k, s-off)
}

// conflict says what about a place contradicts what is known; empty if nothing
// does.
func (p *prover) conflict(f *function, x *fit) string {
	own := map[key]uint64{}
	text := ""
	check := func(off int, k key, value uint64, name string) {
		old, ok := own[k]
		where := fmt.Sprintf("%s at %#x", f.name, x.addr)
		if a := p.facts[k]; a != nil {
			old, ok, where = a.value, true, a.first
		}
		if ok && old != value && text == "" {
			text = fmt.Sprintf("%s of %s is %#x by %s and %#x by %s+%#x", k.use, name, old, where, value, f.name, off)
		}
		own[k] = value
	}
	if k, off := p.obj.keyOf(Address, f.sym, 0); !f.unused {
		check(0, k, x.addr-off, f.name)
	}
	for _, r := range x.refs {
		if r.mask != whole {
			p.checkPartial(r, f, &text)
			continue
		}
		p.eachFact(r, func(k key, value uint64) {
			name := p.obj.symbolName(r.sym)
			if k.sec != 0 && k.at == 0 {
				name = p.obj.f.Sections[k.sec].Name
			}
			check(r.off, k, value, name)
		})
	}
	return text
}

// checkPartial compares the half of an address with the whole one.
func (p *prover) checkPartial(r ref, f *function, text *string) {
	k, off := p.obj.keyOf(r.use, r.sym, r.entryOf())
	a := p.facts[k]
	if sec := p.obj.defined(r.sym); a == nil || sec != nil && pieces(sec) {
		return
	}
	if want := a.value + off + uint64(r.addend-r.entryOf()); (want^r.value)&r.mask != 0 && *text == "" {
		*text = fmt.Sprintf("%s is at %#x by %s, not by %s+%#x", p.obj.symbolName(r.sym), a.value+off, a.first, f.name, r.off)
	}
}

// report describes a proven function.
func (p *prover) report(f *function) Func {
	out := Func{Symbol: f.sym, Name: f.name, Addr: f.addr, Size: f.extent, Found: f.found, Masked: f.masked}
	for k, n := range f.atBoot {
		out.Masked[k] += n
	}
	for i, s := range p.obj.f.Symbols {
		if s.Type != elf.STT_FUNC || s.Size == 0 || !isPartOf(s.Name, f.name) || p.obj.defined(i) == nil {
			continue
		}
		k, off := p.obj.keyOf(Address, i, 0)
		if a := p.facts[k]; a != nil {
			out.Extra = append(out.Extra, Range{a.value + off, s.Size})
		}
	}
	return out
}

// isPartOf reports whether a symbol is a stretch that the compiler moved out of
// a function: "f.cold", "f.cold.3".
func isPartOf(name, of string) bool {
	rest, ok := strings.CutPrefix(name, of)
	return ok && (rest == ".cold" || strings.HasPrefix(rest, ".cold."))
}
