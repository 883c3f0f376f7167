package diff

import (
	"cmp"
	"debug/elf"
	"path"
	"slices"
)

// A patch that adds a line changes __LINE__ everywhere behind it, in kernels in
// nearly every function. Such differences are claims until all of the object
// has been compared; then each is judged by its value: it has to be the old one
// moved as that place of the source moved. How that moved is told by the patch
// itself, by the line tables of the two objects, or by the other claims.

// claim is a difference that looks like one of line numbers.
type claim struct {
	p             *pairing
	old, new      int64
	file          string // source file that stands beside the line, "" if none does
	strong        bool   // it is a line by its place: of a BUG, an argument that is a line
	beside        bool   // a file name stands beside it
	bare          bool   // nothing but its value says that it is one
	orig, patched *piece // code that it is in or about; nil for data
	oldOff        uint64
	newOff        uint64
	why           *Difference // if it turns out to be more than that
}

// maxShift is by how many lines a patch may move what it does not change.
const maxShift = 4096

// claim notes a difference; equal lines only bear witness.
func (c *comparison) claim(p *pairing, x claim) {
	if x.old == x.new {
		if x.strong && len(c.witnesses) < maxWitnesses {
			c.witnesses = append(c.witnesses, x)
		}
		return
	}
	x.p = p
	p.claims = append(p.claims, x)
}

// maxWitnesses bounds how many lines that did not move are kept.
const maxWitnesses = 1 << 16

// settleLines judges all claims and returns the pairings that differ after all.
func (c *comparison) settleLines() []*pairing {
	var unequal, same []*pairing
	j := c.newJudge()
	for _, p := range c.claimed {
		if p.why != nil {
			continue
		}
		for i := range p.claims {
			if !j.accepts(&p.claims[i]) {
				p.why = p.claims[i].why
				break
			}
		}
		if p.why != nil {
			unequal = append(unequal, p)
		} else {
			p.lines = true
			same = append(same, p)
		}
	}
	for len(same) > 0 {
		p := same[len(same)-1]
		same = same[:len(same)-1]
		for _, d := range p.dependents {
			if !d.p.lines {
				d.p.lines = true
				same = append(same, d.p)
			}
		}
	}
	return unequal
}

// lineJudge knows how lines moved.
type lineJudge struct {
	c      *comparison
	moves  map[string][]lineMove // by file, in order of old lines; of strong claims and witnesses
	strong map[lineKey]bool      // where strong claims say that lines went
	lines  [2]*lineTable         // of the objects, nil without
}

type lineMove struct {
	old, new int64
	bad      bool // it contradicts another one
}

func (c *comparison) newJudge() *lineJudge {
	j := &lineJudge{c: c, moves: map[string][]lineMove{}, strong: map[lineKey]bool{}}
	if len(c.claimed) == 0 {
		return j
	}
	for _, w := range c.witnesses {
		j.add(&w)
	}
	for _, p := range c.claimed {
		for i := range p.claims {
			if p.claims[i].strong || p.claims[i].beside {
				j.add(&p.claims[i])
			}
		}
	}
	for key, l := range j.moves {
		// Of two places that one line seems to have gone to, no order has both.
		slices.SortFunc(l, func(a, b lineMove) int { return cmp.Or(cmp.Compare(a.old, b.old), cmp.Compare(b.new, a.new)) })
		l = slices.Compact(l)
		markContradictions(l)
		j.moves[key] = l
	}
	if c.opt.Lines == nil {
		old, now := readLines(c.orig.f), readLines(c.patched.f)
		if old != nil && now != nil {
			j.lines = [2]*lineTable{old, now}
		}
	}
	return j
}

// markContradictions marks the moves that are not in every longest list of
// moves that keep the order of lines.
func markContradictions(l []lineMove) {
	before := longest(len(l), func(i int) int64 { return l[i].new })
	after := longest(len(l), func(i int) int64 { return -l[len(l)-1-i].new })
	most := 0
	for _, n := range before {
		most = max(most, n)
	}
	count := make([]int, most+1)
	in := func(i int) bool { return before[i]+after[len(l)-1-i]-1 == most }
	for i := range l {
		if in(i) {
			count[before[i]]++
		}
	}
	for i := range l {
		by := l[i].new - l[i].old
		l[i].bad = !in(i) || count[before[i]] > 1 || by > maxShift || by < -maxShift
	}
}

// longest tells, for each of n values, how long the longest list of increasing
// values is that ends with it.
func longest(n int, value func(int) int64) []int {
	out := make([]int, n)
	var ends []int64 // the least end of a list of each length
	for i := range n {
		k, _ := slices.BinarySearch(ends, value(i))
		if k == len(ends) {
			ends = append(ends, value(i))
		} else {
			ends[k] = value(i)
		}
		out[i] = k + 1
	}
	return out
}

func (j *lineJudge) add(x *claim) {
	key := j.c.fileKey(x.file)
	if x.strong {
		j.strong[lineKey{key, x.old, x.new}] = true
	}
	j.moves[key] = append(j.moves[key], lineMove{old: x.old, new: x.new})
}

// fileKey puts claims about one file together: "" is the file that the object
// was made from.
func (c *comparison) fileKey(file string) string {
	if file == "" {
		return ""
	}
	base := path.Base(file)
	if c.mainFiles == nil {
		c.mainFiles = map[string]bool{}
		n := 0
		for _, sym := range c.orig.f.Symbols {
			if sym.Type == elf.STT_FILE {
				c.mainFiles[path.Base(sym.Name)] = true
				n++
			}
		}
		if n > 1 {
			c.mainFiles = map[string]bool{} // linked from several: each goes by its name
		}
	}
	if c.mainFiles[base] {
		return ""
	}
	return base
}

// accepts reports whether a claim is nothing but lines that moved.
func (j *lineJudge) accepts(x *claim) bool {
	shift := x.new - x.old
	if shift > maxShift || shift < -maxShift || x.old <= 0 || x.new <= 0 {
		return false
	}
	if x.bare {
		return j.isItsLine(x)
	}
	if j.c.opt.Lines != nil {
		return j.c.opt.Lines.fits(x, j.c.sourceFile())
	}
	if old, now, ok := j.linesOf(x); ok && now-old == shift {
		return true
	}
	switch {
	case x.strong:
		return j.sameMove(x)
	case x.beside:
		return j.sameMove(x) && j.neighbour(x)
	}
	return j.near(x)
}

// linesOf tells the lines of the code of a claim, from the line tables.
func (j *lineJudge) linesOf(x *claim) (old, now int64, ok bool) {
	if j.lines[0] == nil || x.orig == nil {
		return 0, 0, false
	}
	old, ok = j.lines[0].at(x.orig.sec, x.orig.off+x.oldOff)
	now, ok2 := j.lines[1].at(x.patched.sec, x.patched.off+x.newOff)
	return old, now, ok && ok2
}

// maxStatement is how many lines behind its start a statement may name as its
// own.
const maxStatement = 8

// isItsLine reports a number that is, before and after, the line of the very
// code that it is in.
func (j *lineJudge) isItsLine(x *claim) bool {
	old, now, ok := j.linesOf(x)
	return ok && x.old-old == x.new-now && x.old >= old && x.old-old <= maxStatement
}

// sameMove reports a claim that no other one contradicts.
func (j *lineJudge) sameMove(x *claim) bool {
	l := j.moves[j.c.fileKey(x.file)]
	k, _ := slices.BinarySearchFunc(l, x.old, func(m lineMove, old int64) int { return cmp.Compare(m.old, old) })
	for ; k < len(l) && l[k].old == x.old; k++ {
		if l[k].new == x.new && !l[k].bad {
			return true
		}
	}
	return false
}

// neighbour reports a claim beside which, in the order of lines, another one
// moved as far.
func (j *lineJudge) neighbour(x *claim) bool {
	l := j.moves[j.c.fileKey(x.file)]
	k, _ := slices.BinarySearchFunc(l, x.old, func(m lineMove, old int64) int { return cmp.Compare(m.old, old) })
	for _, i := range []int{k - 1, k + 1} {
		if i >= 0 && i < len(l) && !l[i].bad && l[i].old != x.old && l[i].new-l[i].old == x.new-x.old {
			return true
		}
	}
	// Or another place has the very same line: that of a WARN, for one.
	return j.strong[lineKey{j.c.fileKey(x.file), x.old, x.new}]
}

// lineKey is a line of a file and where it went.
type lineKey struct {
	file     string
	old, new int64
}

// vicinity is how many lines away another claim still says how a line moved.
const vicinity = 200

// near reports a claim with others near it, all of which moved as far.
func (j *lineJudge) near(x *claim) bool {
	if j.sameMove(x) {
		return true
	}
	l := j.moves[j.c.fileKey(x.file)]
	k, _ := slices.BinarySearchFunc(l, x.old-vicinity, func(m lineMove, old int64) int { return cmp.Compare(m.old, old) })
	found := false
	for ; k < len(l) && l[k].old <= x.old+vicinity; k++ {
		if l[k].bad || l[k].new-l[k].old != x.new-x.old {
			return false
		}
		found = true
	}
	return found
}
