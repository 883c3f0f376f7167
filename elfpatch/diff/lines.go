package diff

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"livepatch/elfpatch/kernel"
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

// sourceFile is the name of the file that the object was made from, "" if it
// was made from several.
func (c *comparison) sourceFile() string {
	name := ""
	for _, sym := range c.orig.f.Symbols {
		if sym.Type == elf.STT_FILE && sym.Name != name {
			if name != "" {
				return ""
			}
			name = sym.Name
		}
	}
	return name
}

// sourceName is the text of the string that a reference leads to, if it is the
// name of a source file; else "".
func (s *side) sourceName(r *ref) string {
	if r.to == nil || r.to.kind == function || r.to.bss || r.to.sec == 0 || r.add < 0 || uint64(r.add) >= r.to.size {
		return ""
	}
	b := s.data(r.to)[r.add:]
	if k := bytes.IndexByte(b, 0); k >= 0 {
		b = b[:k]
	}
	if len(b) < 3 || len(b) > 4096 {
		return ""
	}
	if text := string(b); hasSuffix(text, ".c", ".h", ".S", ".rs", ".cc", ".inc") {
		return text
	}
	return ""
}

// lineString notes a claim for two strings that differ in a line behind the
// name of a file only: "mm/slub.c:120".
func (c *comparison) lineString(p *pairing) bool {
	x, y := c.orig.data(p.orig), c.patched.data(p.patched)
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	for n > 0 && isDigit(x[n-1]) {
		n--
	}
	i, k := n, n
	for i < len(x) && isDigit(x[i]) {
		i++
	}
	for k < len(y) && isDigit(y[k]) {
		k++
	}
	if i == n || k == n || n < 4 || x[n-1] != ':' || !bytes.Equal(x[i:], y[k:]) {
		return false
	}
	head := string(x[:n-1])
	if !hasSuffix(head, ".c", ".h", ".S", ".rs") {
		return false
	}
	file := head[strings.LastIndexAny(head, " \t(\"'=,")+1:]
	old, err := strconv.ParseInt(string(x[n:i]), 10, 32)
	now, err2 := strconv.ParseInt(string(y[n:k]), 10, 32)
	if err != nil || err2 != nil || len(file) < 3 {
		return false
	}
	was, _ := c.orig.quote(p.orig, 0)
	is, _ := c.patched.quote(p.patched, 0)
	c.claim(p, claim{old: old, new: now, strong: true, file: file, why: &Difference{Old: was, New: is, whole: true}})
	return true
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// withoutLines returns the contents of two variables that describe a place in
// the code, without the line and the column there, and notes what differs in
// those.
func (c *comparison) withoutLines(p *pairing, x, y []byte) ([]byte, []byte) {
	if p.orig.special == nil || p.patched.special == nil || len(x) == 0 || len(y) == 0 {
		return x, y
	}
	for _, f := range kernel.LineFields {
		if f.Off+4 > uint64(min(len(x), len(y))) || !c.orig.hasField(p.orig, f) || !c.patched.hasField(p.patched, f) {
			continue
		}
		mask := uint32(1)<<f.Bits - 1
		if f.Bits == 32 {
			mask = ^uint32(0)
		}
		old, now := binary.LittleEndian.Uint32(x[f.Off:]), binary.LittleEndian.Uint32(y[f.Off:])
		if old&mask == now&mask {
			continue
		}
		x, y = bytes.Clone(x), bytes.Clone(y)
		binary.LittleEndian.PutUint32(x[f.Off:], old&^mask)
		binary.LittleEndian.PutUint32(y[f.Off:], now&^mask)
		if f.Column {
			continue
		}
		file := ""
		for i := range p.orig.refs {
			if file == "" {
				file = c.orig.sourceName(&p.orig.refs[i])
			}
		}
		old, now = old&mask, now&mask
		c.claim(p, claim{old: int64(old), new: int64(now), strong: true, file: file,
			why: &Difference{Off: f.Off, Old: fmt.Sprintf("line %d", old), New: fmt.Sprintf("line %d", now)}})
	}
	return x, y
}

// hasField reports data that a row of the table of line fields is about. What
// clang does not name has to look like a place: a file name, and no reference
// in the fields.
func (s *side) hasField(p *piece, f kernel.LineField) bool {
	if f.Data == "__unnamed_" || f.Data == "Lubsan_data" {
		if !strings.Contains(p.special.Name, f.Data) || len(p.refs) == 0 || p.refs[0].off != 0 || s.sourceName(&p.refs[0]) == "" {
			return false
		}
	} else if p.special.Name != f.Data {
		return false
	}
	k := p.refAt(f.Off)
	return k == len(p.refs) || p.refs[k].off >= f.Off+4
}

// fits reports whether a claim is what the patch did to its file. main is the
// file of the object, for claims that name none.
func (l *LineShift) fits(x *claim, main string) bool {
	file := x.file
	if file == "" {
		file = main
	}
	if file == "" {
		return false
	}
	for name, moves := range l.Files {
		if !sameFile(name, file) {
			continue
		}
		by := int64(0)
		for _, m := range moves {
			if int64(m.Line) <= x.old {
				by = int64(m.By)
			}
		}
		return x.new-x.old == by
	}
	return false
}

// sameFile reports whether one path ends as the other.
func sameFile(a, b string) bool {
	a, b = path.Clean(a), path.Clean(b)
	if len(a) < len(b) {
		a, b = b, a
	}
	return a == b || strings.HasSuffix(a, "/"+b)
}
