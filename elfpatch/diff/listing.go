package diff

import (
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
)

// A Row is one line of a function before and after, side by side.
type Row struct {
	Kind     RowKind
	Old, New Line // without Text on the side that has no instruction here
}

// Line is one instruction, with names for what it refers to.
type Line struct {
	Off  uint64 // from the start of the function
	Text string
}

// RowKind says what became of an instruction.
type RowKind uint8

const (
	RowSame    RowKind = iota
	RowPadding         // alignment, whatever it was
	RowChanged         // it does something else
	RowRemoved         // nothing is in its place
	RowAdded           // nothing was in its place
)

// Listing sets the instructions of a function before and after beside each
// other. A branch is the same if it leads to the same instruction, however far
// away that is now. A function that is only in one object has only one side.
func (d *Delta) Listing(f Func) []Row {
	l := &lister{c: d.c, ids: map[string]int32{}}
	if f.Orig != 0 && f.Orig < len(d.c.orig.bySym) {
		l.old = l.read(d.c.orig, d.c.orig.bySym[f.Orig])
	}
	if f.Patched != 0 && f.Patched < len(d.c.patched.bySym) {
		l.now = l.read(d.c.patched, d.c.patched.bySym[f.Patched])
	}
	return l.rows()
}

// Code lists the instructions of one object's functions.
type Code struct{ s *side }

// ReadCode reads a relocatable object for listings. The error is a wrapped
// *elfpatch.FormatError.
func ReadCode(f *elfpatch.File, kernel bool) (*Code, error) {
	s, err := newSide(f, "the object", kernel)
	if err != nil {
		return nil, err
	}
	return &Code{s}, nil
}

// Lines lists the function that a symbol names, nil if it names none.
func (c *Code) Lines(sym int) (out []Line) {
	if sym <= 0 || sym >= len(c.s.bySym) || c.s.bySym[sym] == nil || c.s.bySym[sym].kind != function {
		return nil
	}
	p := c.s.bySym[sym]
	defer p.forget()
	for _, in := range c.s.insns(p) {
		out = append(out, Line{uint64(in.off), c.s.text(p, in, c.s.refsOf(p, in))})
	}
	return out
}

// lister makes a listing.
type lister struct {
	c        *comparison
	ids      map[string]int32 // of what instructions do
	old, now []listed
}

// listed is one instruction of a listing.
type listed struct {
	Line
	id       int32 // equal ids: the same, but for where branches within the function lead
	mnemonic int32
	pad      bool
	number   int32    // among those that are not pad
	targets  []target // in the function
}

type target struct {
	number int32
	past   int64
}

func (l *lister) read(s *side, p *piece) (out []listed) {
	if p == nil || p.kind != function || p.bss {
		return nil
	}
	defer p.forget()
	for _, in := range s.insns(p) {
		refs := s.refsOf(p, in)
		x := listed{Line: Line{uint64(in.off), s.text(p, in, refs)}, pad: in.pad, number: in.number}
		word, _, _ := strings.Cut(x.Text, " ")
		x.mnemonic = l.intern("m" + word)
		key := "pad"
		if !in.pad {
			key = l.key(s, p, in, &x)
		}
		x.id = l.intern(key)
		out = append(out, x)
	}
	return out
}

func (l *lister) intern(s string) int32 {
	id, ok := l.ids[s]
	if !ok {
		id = int32(len(l.ids))
		l.ids[s] = id
	}
	return id
}

// key identifies what an instruction does.
func (l *lister) key(s *side, p *piece, in insn, x *listed) string {
	refs := s.refsOf(p, in)
	sh := s.shape(p, in, refs)
	b := append([]byte{'i'}, sh.key[:sh.n]...)
	if sh.target >= 0 {
		x.targets = append(x.targets, target{sh.target, sh.past})
		b = append(b, "branch"...)
	}
	for i := range refs {
		r := &refs[i]
		b = fmt.Appendf(b, "|%d.%d.%t.%t.", int(r.off)-int(in.off), refClass(l.c.m, r.typ), r.derived, r.anchor)
		switch {
		case r.to == p:
			n, past := s.place(p, r.add)
			x.targets = append(x.targets, target{n, past})
			b = append(b, "here"...)
		case r.to == nil:
			b = fmt.Appendf(b, "%+v%+d", l.c.outside(s, r), r.add)
		case r.anchor && r.to.kind != function:
			b = append(b, "anchor"...)
		default:
			b = fmt.Appendf(b, "%s%+d", l.identity(s, r.to), r.add)
		}
	}
	return string(b)
}

// identity is equal for two pieces of different objects if they are the same to
// who refers to them.
func (l *lister) identity(s *side, p *piece) string {
	const plain = 256 // bytes that are worth comparing each time
	if data := s.data(p); p.kind == literal && len(p.refs) == 0 && data != nil && len(data) <= plain {
		return "=" + strings.TrimRight(string(data), "\x00")
	}
	orig := p
	if s == l.c.patched {
		orig = p.twin
	}
	if orig == nil {
		return fmt.Sprintf("new%d", p.id)
	}
	j := orig.judged
	if s == l.c.patched && !orig.live && orig.kind != function && j != nil && j.why != nil {
		return fmt.Sprintf("new%d", p.id)
	}
	return fmt.Sprintf("old%d", orig.id)
}

// rows pairs the two sides.
func (l *lister) rows() []Row {
	ids := func(all []listed) []int32 {
		out := make([]int32, len(all))
		for i := range all {
			out[i] = all[i].id
		}
		return out
	}
	var rows []Row
	at := [2]map[int32]int{{}, {}} // the row of each instruction, by number
	put := func(kind RowKind, i, k int) {
		r := Row{Kind: kind}
		pad := true
		for side, n := range [2]int{i, k} {
			if n < 0 {
				continue
			}
			x := &[2][]listed{l.old, l.now}[side][n]
			*[2]*Line{&r.Old, &r.New}[side] = x.Line
			pad = pad && x.pad
			if _, ok := at[side][x.number]; !ok && !x.pad {
				at[side][x.number] = len(rows)
			}
		}
		if pad {
			r.Kind = RowPadding
		}
		rows = append(rows, r)
	}
	var pairs []pairedRow
	i, k := 0, 0
	for n, m := range append(align(ids(l.old), ids(l.now)), len(l.now)) {
		if m < 0 {
			continue
		}
		l.gap(i, n, k, m, put)
		if n < len(l.old) {
			pairs = append(pairs, pairedRow{len(rows), n, m})
			put(RowSame, n, m)
		}
		i, k = n+1, m+1
	}
	l.judgeBranches(rows, pairs, at)
	return rows
}

// gap pairs what differs: first instructions of one mnemonic, then, in order,
// what is left between those.
func (l *lister) gap(i, n, k, m int, put func(kind RowKind, i, k int)) {
	mnemonics := func(all []listed) []int32 {
		out := make([]int32, len(all))
		for i := range all {
			out[i] = all[i].mnemonic
		}
		return out
	}
	between := func(n, m int) {
		for ; i < n || k < m; i, k = i+1, k+1 {
			switch {
			case i >= n:
				put(RowAdded, -1, k)
			case k >= m:
				put(RowRemoved, i, -1)
			case l.old[i].pad != l.now[k].pad:
				put(RowRemoved, i, -1)
				put(RowAdded, -1, k)
			default:
				put(RowChanged, i, k)
			}
		}
		i, k = n, m
	}
	first, base := i, k
	for off, to := range align(mnemonics(l.old[i:n]), mnemonics(l.now[k:m])) {
		if to < 0 || l.old[first+off].pad != l.now[base+to].pad {
			continue
		}
		between(first+off, base+to)
		put(RowChanged, i, k)
		i, k = i+1, k+1
	}
	between(n, m)
}

// pairedRow is a row whose two instructions do the same but for where they
// branch to.
type pairedRow struct{ row, old, now int }

// judgeBranches marks branches that lead to another instruction than before.
func (l *lister) judgeBranches(rows []Row, pairs []pairedRow, at [2]map[int32]int) {
	// Two targets that are each on one side only are the same if nothing that
	// is on both lies between them.
	next := make([]int, len(rows)+1)
	next[len(rows)] = len(rows)
	for i, r := range slices.Backward(rows) {
		next[i] = i
		if r.Old.Text == "" || r.New.Text == "" {
			next[i] = next[i+1]
		}
	}
	same := func(x, y target) bool {
		i, ok := at[0][x.number]
		k, ok2 := at[1][y.number]
		if !ok || !ok2 { // the end of the function
			return ok == ok2 && x.past == y.past
		}
		return x.past == y.past && (i == k || next[i] == next[k] && next[i] != i && next[k] != k)
	}
	for _, p := range pairs {
		x, y := l.old[p.old].targets, l.now[p.now].targets
		for i := range x {
			if i >= len(y) || !same(x[i], y[i]) {
				rows[p.row].Kind = RowChanged
			}
		}
	}
}
