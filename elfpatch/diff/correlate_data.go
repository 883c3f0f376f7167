package diff

import (
	"cmp"
	"slices"
	"strings"
)

// dataKey is the name under which data is paired. A thread-local variable is
// never the twin of another one, nor a constant that of a variable.
func dataKey(p *piece, name string) string {
	switch {
	case p.tls:
		return "t" + name
	case p.live:
		return "w" + name
	}
	return "r" + name
}

// useKey is the key for data that compilers number or do not name: static
// variables of functions, and writable data without a name, which goes by its
// section. It is empty for what has another way.
func useKey(p *piece) string {
	switch {
	case p.kind == variable:
		return dataKey(p, stem(p.name))
	case p.kind == literal && p.live:
		name, _, _ := strings.Cut(p.name, "+")
		return dataKey(p, "section "+strings.TrimRight(name, "0123456789"))
	}
	return ""
}

// pairDataNames pairs variables whose names no compiler made up.
func (c *comparison) pairDataNames() {
	all, order := c.groups(func(s *side, p *piece) string {
		if p.kind != variable || p.sym == 0 || s.isStatic(p) && isNumbered(p.name) {
			return ""
		}
		return dataKey(p, p.name)
	})
	for _, k := range order {
		g := all[k]
		if len(g.orig) == 1 && len(g.patched) == 1 {
			c.pair(g.orig[0], g.patched[0])
		}
	}
}

// pairByUse pairs static variables of functions, whose numbers mean nothing:
// those that corresponding functions use. What one function settles may settle
// another one.
func (c *comparison) pairByUse() bool {
	paired := false
	var users []*piece
	for _, a := range c.orig.pieces {
		if a.twin != nil && a.parent == nil && c.hasOpen(a) {
			users = append(users, a)
		}
	}
	for range maxRounds {
		settled := false
		for _, a := range users {
			if c.pairUsed(a, true) {
				settled, paired = true, true
			}
		}
		if !settled {
			break
		}
		users = slices.DeleteFunc(users, func(a *piece) bool { return !c.hasOpen(a) })
	}
	for _, a := range users {
		if c.pairUsed(a, false) {
			paired = true
		}
	}
	return paired
}

func (c *comparison) hasOpen(a *piece) bool {
	open := false
	eachUse(a, func(p *piece) { open = open || p.twin == nil && useKey(p) != "" })
	return open
}

// eachUse calls fn with every piece that a piece or its outlined parts refer to.
func eachUse(p *piece, fn func(*piece)) {
	for i := range p.refs {
		if to := p.refs[i].to; to != nil && !p.refs[i].anchor {
			fn(to)
		}
	}
	for _, e := range p.entries {
		eachUse(e, fn)
	}
	for _, part := range p.parts {
		eachUse(part, fn)
	}
}

// openUses lists by stem the data without twin that a piece uses, in order.
func openUses(p *piece) (map[string][]*piece, []string) {
	all := map[string][]*piece{}
	seen := map[*piece]bool{}
	var order []string
	eachUse(p, func(to *piece) {
		k := useKey(to)
		if to.twin != nil || k == "" || seen[to] {
			return
		}
		seen[to] = true
		if len(all[k]) == 0 {
			order = append(order, k)
		}
		all[k] = append(all[k], to)
	})
	return all, order
}

// pairUsed pairs what a function and its twin use. With sure, only what has no
// alternative is paired; else variables of the same stem are paired in the
// order of use, and noted if the compiler's numbers say otherwise.
func (c *comparison) pairUsed(a *piece, sure bool) bool {
	old, order := openUses(a)
	now, _ := openUses(a.twin)
	done := false
	for _, k := range order {
		x, y := old[k], now[k]
		switch {
		case len(x) == 1 && len(y) == 1:
			c.pair(x[0], y[0])
			done = true
		case sure || len(y) == 0:
		default:
			c.pairInOrder(a, x, y)
			done = true
		}
	}
	return done
}

func (c *comparison) pairInOrder(user *piece, x, y []*piece) {
	rank := func(l []*piece) []int {
		idx := make([]int, len(l))
		for i := range idx {
			idx[i] = i
		}
		slices.SortStableFunc(idx, func(i, j int) int { return cmp.Compare(number(l[i].name), number(l[j].name)) })
		return idx
	}
	sure := len(x) == len(y) && slices.Equal(rank(x), rank(y))
	for i := range min(len(x), len(y)) {
		if !sure && x[i].live {
			c.ambiguous = append(c.ambiguous, ambiguity{user, x[i], y[i]})
		}
		c.pair(x[i], y[i])
	}
}

// number is the last number in a name.
func number(name string) uint64 {
	n, scale := uint64(0), uint64(1)
	i := len(name)
	for i > 0 && (name[i-1] < '0' || name[i-1] > '9') {
		i--
	}
	for ; i > 0 && name[i-1] >= '0' && name[i-1] <= '9' && scale < 1e18; i-- {
		n += uint64(name[i-1]-'0') * scale
		scale *= 10
	}
	return n
}

// pairRest pairs what is left: what stands alone under its stem when the
// function that used it is gone or is new (it was inlined, or outlined), and
// what no code is seen to use, by full name and order.
func (c *comparison) pairRest() bool {
	paired := false
	all, order := c.groups(func(s *side, p *piece) string { return useKey(p) })
	for _, k := range order {
		g := all[k]
		if len(g.orig) == 1 && len(g.patched) == 1 {
			a, b := g.orig[0], g.patched[0]
			if !c.kept(c.orig.usersOf(a)) || !c.kept(c.patched.usersOf(b)) {
				c.pair(a, b)
				paired = true
			}
			continue
		}
		byName := map[string][]*piece{}
		for _, b := range g.patched {
			if !c.kept(c.patched.usersOf(b)) {
				byName[b.name] = append(byName[b.name], b)
			}
		}
		for _, a := range g.orig {
			if l := byName[a.name]; len(l) > 0 && !c.kept(c.orig.usersOf(a)) {
				c.pair(a, l[0])
				byName[a.name] = l[1:]
				paired = true
			}
		}
	}
	return paired
}

// kept reports whether there are users, and all of them are in both objects.
func (c *comparison) kept(users []*piece) bool {
	for _, u := range users {
		if u.twin == nil {
			return false
		}
	}
	return len(users) > 0
}

// usersOf lists the pieces that refer to a piece.
func (s *side) usersOf(p *piece) []*piece {
	if s.users == nil {
		s.users = make([][]*piece, len(s.pieces))
		for _, p := range s.pieces {
			user := p
			if p.kind == entry && p.about != nil {
				user = p.about
			}
			for i := range p.refs {
				to := p.refs[i].to
				if to == nil || to == user || p.refs[i].anchor {
					continue
				}
				if l := s.users[to.id]; len(l) == 0 || l[len(l)-1] != user {
					s.users[to.id] = append(l, user)
				}
			}
		}
	}
	return s.users[p.id]
}
