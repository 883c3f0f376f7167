package diff

import (
	"slices"

	"livepatch/elfpatch/kernel"
)

// An Object is one of the two objects that were compared.
type Object uint8

const (
	Before Object = iota
	After
)

// A Body is the code of a function, or of an outlined part of it.
type Body struct {
	Symbol int
	Code   []byte
	Uses   []Use // in order
}

// A Use is one reference that code makes to something else.
type Use struct {
	Off    uint64 // of the field, in the body
	Symbol int    // what it refers to, 0 if that has no name
	Branch bool   // it is called or jumped to
}

// Bodies returns the code of a function of one of the objects: itself, then
// its outlined parts. Nil if the symbol is not that of a function.
func (d *Delta) Bodies(o Object, sym int) []Body {
	s := d.side(o)
	p := s.pieceOf(sym)
	if p == nil || p.kind != function {
		return nil
	}
	out := []Body{s.body(p)}
	for _, part := range p.parts {
		out = append(out, s.body(part))
	}
	return out
}

func (d *Delta) side(o Object) *side {
	if o == Before {
		return d.c.orig
	}
	return d.c.patched
}

func (s *side) pieceOf(sym int) *piece {
	if sym <= 0 || sym >= len(s.bySym) {
		return nil
	}
	return s.bySym[sym]
}

func (s *side) body(p *piece) Body {
	b := Body{Symbol: p.sym, Code: s.data(p)}
	for i := range p.refs {
		r := &p.refs[i]
		if r.to == p && r.implicit {
			continue
		}
		b.Uses = append(b.Uses, Use{Off: r.off, Symbol: s.named(r), Branch: s.isBranch(p, r)})
	}
	return b
}

// named is the symbol that a reference means, not that by which it is counted.
func (s *side) named(r *ref) int {
	if r.to != nil {
		return r.to.sym
	}
	return int(r.sym)
}

// A Taker is where the address of a function is taken.
type Taker struct {
	Symbol int    // the function
	In     int    // symbol of the function or variable that holds the address, 0 if it has no name
	Code   bool   // In is a function
	Off    uint64 // of the field, in In
}

// AddressTaken lists where one of the objects takes the addresses of functions
// that it defines, in the order of its contents. What tables about code say of
// functions does not count.
func (d *Delta) AddressTaken(o Object) (list []Taker) {
	s := d.side(o)
	for _, p := range s.pieces {
		if p.kind == entry || p.sec == 0 || s.secs[p.sec].row != nil || s.secs[p.sec].kind == supportSect || isMarker(p) {
			continue
		}
		for i := range p.refs {
			r := &p.refs[i]
			if r.to == nil || r.to.kind != function || r.to == p || r.to.parent != nil || r.to.sym == 0 || r.add != 0 || s.isBranch(p, r) {
				continue
			}
			list = append(list, Taker{Symbol: r.to.sym, In: p.sym, Code: p.kind == function, Off: r.off})
		}
	}
	return list
}

// isMarker reports variables that only keep a symbol from being dropped.
func isMarker(p *piece) bool {
	return kernel.HasPrefix(kernel.UniquePrefixes, p.name) != nil
}

// Reaches reports whether a function of the after object is part of a patch:
// changed, or new and referred to from what is, however far.
func (d *Delta) Reaches() map[int]bool {
	s := d.c.patched
	in := map[int]bool{}
	var queue []*piece
	add := func(p *piece) {
		if p.sym != 0 && !in[p.sym] && p.kind == function {
			in[p.sym] = true
			queue = append(queue, p)
		}
	}
	for _, p := range s.pieces {
		if p.kind == function && p.parent == nil && d.c.status(p) == Changed {
			add(p)
		}
	}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		for _, q := range slices.Concat([]*piece{p}, p.parts) {
			for i := range q.refs {
				if to := q.refs[i].to; to != nil && to.kind == function && to.parent == nil && d.c.status(to) == New {
					add(to)
				}
			}
		}
	}
	return in
}
