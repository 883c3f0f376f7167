package diff

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
)

// comparison is the work of Compare.
type comparison struct {
	orig, patched *side
	opt           Options
	m             elf.Machine
	pairs         map[pairKey]*pairing // of pieces that are not twins
	queue         []*pairing
	ambiguous     []ambiguity
	why           map[*piece]*Difference // of pieces of the patched object that are not the same
	globals       map[string]int         // of the original object, by name
	removed       map[string][]*piece    // variables that are gone, by name
	layouts       map[[2]int]bool        // see sameLayout
	claimed       []*pairing             // those with claims
	witnesses     []claim                // lines that did not move
	ignored       map[string]bool        // sections that the author wants ignored
	mainFiles     map[string]bool        // see fileKey
	delta         *Delta
}

// ambiguity is a live variable whose twin is a guess.
type ambiguity struct{ user, orig, patched *piece }

type pairKey struct{ orig, patched *piece }

// pairing is a piece and what it may have become: whether their contents are
// the same. Contents of constants count for those that refer to them; what
// depends on what is noted, and inequality spreads along it, so that tables
// that refer to each other in circles are no trouble.
type pairing struct {
	pairKey
	why        *Difference // why they differ, nil if they do not
	through    *pairing    // the constant that why is about, nil if they differ themselves
	dependents []dependent
	claims     []claim // differences that may be of line numbers only
	lines      bool    // there are some, in it or in what it refers to, and they are
}

// dependent is a pairing that refers to another at a place.
type dependent struct {
	p   *pairing
	off uint64 // of the reference in the patched piece
}

// judge returns the pairing of two pieces, which is compared before run ends.
func (c *comparison) judge(a, b *piece) *pairing {
	k := pairKey{a, b}
	p := a.judged
	if a.twin != b {
		p = c.pairs[k]
	}
	if p != nil {
		return p
	}
	p = &pairing{pairKey: k}
	if a.twin == b {
		a.judged = p
	} else {
		c.pairs[k] = p
	}
	c.queue = append(c.queue, p)
	return p
}

// run compares all twins and what they depend on.
func (c *comparison) run() {
	for _, a := range c.orig.pieces {
		if a.twin != nil {
			c.judge(a, a.twin)
		}
	}
	var unequal []*pairing
	for len(c.queue) > 0 {
		p := c.queue[len(c.queue)-1]
		c.queue = c.queue[:len(c.queue)-1]
		if p.orig.kind == function {
			if p.why = c.compareCode(p); p.why == nil {
				p.why = c.compareHandlers(p)
			}
		} else {
			p.why = c.compareData(p)
		}
		if p.why != nil {
			unequal = append(unequal, p)
		} else if len(p.claims) > 0 {
			c.claimed = append(c.claimed, p)
		}
	}
	unequal = append(unequal, c.settleLines()...)
	// From here on each pairing knows of its own differences.
	for len(unequal) > 0 {
		p := unequal[len(unequal)-1]
		unequal = unequal[:len(unequal)-1]
		for _, d := range p.dependents {
			if d.p.why == nil {
				d.p.why = &Difference{Off: d.off, Old: p.why.Old, New: p.why.New, In: p.why.In}
				if d.p.why.In == "" && !p.why.whole {
					d.p.why.In = describe(c.patched, p.patched, int64(p.why.Off))
				}
				d.p.through = p
				unequal = append(unequal, d.p)
			}
		}
	}
}

// sameRef reports whether two references at the same place of two pieces mean
// the same. Where that depends on contents, p is made to depend on them.
func (c *comparison) sameRef(p *pairing, r, q *ref) bool {
	if refClass(c.m, r.typ) != refClass(c.m, q.typ) || r.derived != q.derived || r.anchor != q.anchor {
		return false
	}
	if r.to != nil && q.to != nil && r.to.kind != function && q.to.kind != function && r.anchor {
		return true // what is reached from there counts
	}
	if (r.spilled || q.spilled) && !(r.sec > 0 && q.sec > 0 && c.sameLayout(r.sec, q.sec)) {
		return false
	}
	if r.to == nil || q.to == nil {
		return r.to == nil && q.to == nil && r.add == q.add && c.outside(c.orig, r) == c.outside(c.patched, q)
	}
	if r.to.kind == function || q.to.kind == function {
		return r.to.twin == q.to && c.samePlace(r, q)
	}
	if r.to.kind == entry || q.to.kind == entry {
		return r.add == q.add && sameEntry(r.to, q.to)
	}
	if r.to.live || q.to.live {
		return r.to.twin == q.to && r.add == q.add
	}
	if r.to.twin != q.to && !anonymous(r.to, q.to) || r.add != q.add {
		return false
	}
	if r.to == p.orig && q.to == p.patched {
		return true
	}
	d := c.judge(r.to, q.to)
	d.dependents = append(d.dependents, dependent{p, q.off})
	return true
}

// anonymous reports constants whose names, if any, mean nothing, so that they
// are the same if their contents are.
func anonymous(a, b *piece) bool {
	return a.kind == literal && b.kind == literal ||
		a.kind == variable && b.kind == variable && isNumbered(a.name) && stem(a.name) == stem(b.name) ||
		a.special != nil && a.special == b.special && a.kind == b.kind
}

// samePlace compares two references into functions that are twins: labels
// count by the instruction they stand before.
func (c *comparison) samePlace(r, q *ref) bool {
	if r.add == q.add && (r.add == 0 || r.to.size == q.to.size) {
		return true
	}
	n, x := c.orig.place(r.to, r.add)
	m, y := c.patched.place(q.to, q.add)
	return n == m && x == y
}

// outside identifies what a reference to no piece leads to.
func (c *comparison) outside(s *side, r *ref) elfpatch.Symbol {
	sym := s.f.Symbols[r.sym]
	if r.sym == 0 {
		return elfpatch.Symbol{Section: r.sec}
	}
	id := elfpatch.Symbol{Name: sym.Name}
	if sym.Section == elfpatch.Absolute {
		id.Value, id.Section = sym.Value, elfpatch.Absolute
	}
	if sym.Section > 0 && sym.Type == elf.STT_SECTION {
		id.Name = s.f.Sections[sym.Section].Name
	}
	return id
}

// compareData compares the contents of two variables or constants. Constants
// without a name may have filler behind them.
func (c *comparison) compareData(p *pairing) *Difference {
	a, b := p.orig, p.patched
	if old, ok := c.orig.quote(a, 0); ok && a.kind == literal && b.kind == literal {
		if now, ok := c.patched.quote(b, 0); ok {
			if a.size == b.size && string(c.orig.data(a)) == string(c.patched.data(b)) {
				return nil
			}
			if c.opt.Kernel && c.lineString(p) {
				return nil
			}
			if n := firstByte(c.orig.data(a), c.patched.data(b), 0, max(a.size, b.size)); n > maxQuote/2 {
				old, now = c.orig.quoteFrom(a, n-maxQuote/4), c.patched.quoteFrom(b, n-maxQuote/4)
			}
			return &Difference{Old: old, New: now, whole: true}
		}
	}
	n := min(a.size, b.size)
	if a.size != b.size && (a.kind != literal || b.kind != literal || !c.orig.emptyFrom(a, n) || !c.patched.emptyFrom(b, n)) {
		return &Difference{Off: n, Old: fmt.Sprintf("%d bytes", a.size), New: fmt.Sprintf("%d bytes", b.size)}
	}
	x, y := c.withoutLines(p, c.orig.data(a), c.patched.data(b))
	i, k := 0, 0
	for off := uint64(0); off < n || i < len(a.refs) || k < len(b.refs); {
		next := n
		if i < len(a.refs) {
			next = min(next, a.refs[i].off)
		}
		if k < len(b.refs) {
			next = min(next, b.refs[k].off)
		}
		if d := firstByte(x, y, off, next); d >= 0 {
			return &Difference{Off: uint64(d), Old: dataText(x, d, int(n)), New: dataText(y, d, int(n))}
		}
		if next >= n {
			break
		}
		switch {
		case i == len(a.refs) || a.refs[i].off > next:
			return &Difference{Off: next, Old: dataText(x, int(next), int(n)), New: c.patched.refText(&b.refs[k])}
		case k == len(b.refs) || b.refs[k].off > next:
			return &Difference{Off: next, Old: c.orig.refText(&a.refs[i]), New: dataText(y, int(next), int(n))}
		case !c.sameRef(p, &a.refs[i], &b.refs[k]):
			return &Difference{Off: next, Old: c.orig.refText(&a.refs[i]), New: c.patched.refText(&b.refs[k])}
		}
		off = next + fieldSize(c.m, a.refs[i].typ)
		i++
		k++
	}
	return c.compareEntries(p)
}

func fieldSize(m elf.Machine, typ uint32) uint64 {
	info, _ := elfpatch.RelocInfo(m, typ)
	return uint64(info.Size)
}

// firstByte is the offset in [from, to) of the first byte that differs, -1 if
// none does. Zeros are read behind the end of a slice.
func firstByte(x, y []byte, from, to uint64) int {
	to = min(to, uint64(max(len(x), len(y)))) // behind them are zeros, however many the file claims
	for i := from; i < to; i++ {
		if byteAt(x, i) != byteAt(y, i) {
			return int(i)
		}
	}
	return -1
}

func byteAt(b []byte, i uint64) byte {
	if i < uint64(len(b)) {
		return b[i]
	}
	return 0
}

// emptyFrom reports whether nothing but zeros is behind an offset of a piece.
func (s *side) emptyFrom(p *piece, off uint64) bool {
	if p.refAt(off) < len(p.refs) {
		return false
	}
	d := s.data(p)
	return d == nil || isZero(d[min(off, p.size):])
}

// compareCode compares two functions instruction by instruction.
func (c *comparison) compareCode(p *pairing) *Difference {
	a, b := p.orig, p.patched
	if c.identical(p) {
		return c.compareEntries(p)
	}
	x, y := c.orig.insns(a), c.patched.insns(b)
	defer a.forget()
	defer b.forget()
	var branch *Difference // the first branch that only leads elsewhere, because of something behind it
	i, k := 0, 0
	for {
		for i < len(x) && x[i].pad {
			i++
		}
		for k < len(y) && y[k].pad {
			k++
		}
		if i == len(x) || k == len(y) {
			break
		}
		rx, ry := c.orig.refsOf(a, x[i]), c.patched.refsOf(b, y[k])
		verdict := c.sameInsn(p, instance{x[i], rx}, instance{y[k], ry})
		if verdict == otherInsn && (c.opt.Kernel || c.opt.Lines != nil) && len(rx) == 0 && len(ry) == 0 && c.lineInsn(p, x, y, i, k) {
			verdict = sameInsn
		}
		if verdict == otherInsn || verdict == otherTarget && branch == nil {
			d := &Difference{Off: uint64(y[k].off), Old: c.orig.text(a, x[i], rx), New: c.patched.text(b, y[k], ry)}
			if verdict == otherInsn {
				return d
			}
			branch = d
		}
		i++
		k++
	}
	switch {
	case branch != nil:
		return branch
	case i < len(x):
		return &Difference{Off: b.size, Old: c.orig.text(a, x[i], c.orig.refsOf(a, x[i])), New: endText}
	case k < len(y):
		return &Difference{Off: uint64(y[k].off), Old: endText, New: c.patched.text(b, y[k], c.patched.refsOf(b, y[k]))}
	}
	return c.compareEntries(p)
}

// identical compares two functions of the same size byte by byte and
// reference by reference, which settles most of them without decoding.
func (c *comparison) identical(p *pairing) bool {
	a, b := p.orig, p.patched
	if a.size != b.size || len(a.refs) != len(b.refs) {
		return false
	}
	x, y := c.orig.data(a), c.patched.data(b)
	off := uint64(0)
	for i := range a.refs {
		r, q := &a.refs[i], &b.refs[i]
		if r.off != q.off || r.typ != q.typ || r.off < off && !r.derived {
			return false
		}
		if firstByte(x, y, off, r.off) >= 0 {
			return false
		}
		mask := fieldMask(c.m, r.typ)
		for n, m := range mask {
			at := r.off + uint64(n)
			if at < a.size && x[at]&^m != y[at]&^m {
				return false
			}
		}
		off = r.off + uint64(len(mask))
		if r.to != nil && r.to.kind != function && !r.to.live {
			// It may depend on contents; note that only once it is certain.
			continue
		}
		if !c.sameRef(p, r, q) {
			return false
		}
	}
	if firstByte(x, y, off, a.size) >= 0 {
		return false
	}
	for i := range a.refs {
		r, q := &a.refs[i], &b.refs[i]
		if r.to != nil && r.to.kind != function && !r.to.live && !c.sameRef(p, r, q) {
			return false
		}
	}
	return true
}

func (s *side) refsOf(p *piece, in insn) []ref {
	i, k := p.refAt(uint64(in.off)), p.refAt(uint64(in.off)+uint64(in.len))
	return p.refs[i:k]
}

// instance is one instruction of a function with what it refers to.
type instance struct {
	insn insn
	refs []ref
}

type verdict uint8

const (
	sameInsn    verdict = iota
	otherTarget         // a branch that leads to another instruction of the function
	otherInsn
)

func (c *comparison) sameInsn(p *pairing, x, y instance) verdict {
	s := c.orig.shape(p.orig, x.insn, x.refs)
	t := c.patched.shape(p.patched, y.insn, y.refs)
	if s.n != t.n || s.key != t.key || len(x.refs) != len(y.refs) {
		return otherInsn
	}
	for i := range x.refs {
		if !c.sameRef(p, &x.refs[i], &y.refs[i]) {
			return otherInsn
		}
	}
	if s != t {
		return otherTarget
	}
	return sameInsn
}

// sameLayout reports whether two sections hold the same variables at the same
// places.
func (c *comparison) sameLayout(orig, patched int) bool {
	k := [2]int{orig, patched}
	same, ok := c.layouts[k]
	if !ok {
		x, y := c.orig.secs[orig].pieces, c.patched.secs[patched].pieces
		same = len(x) == len(y)
		for i := 0; same && i < len(x); i++ {
			same = x[i].off == y[i].off && (x[i].twin == y[i] || x[i].twin == nil && y[i].twin == nil)
		}
		c.layouts[k] = same
	}
	return same
}
