package diff

import (
	"debug/elf"
	"hash/fnv"
)

// correlate finds for every piece of one object the piece of the other that it
// became. Whatever it decides is consistent: a function counts as unchanged
// only if what it refers to corresponds too.
func (c *comparison) correlate() {
	c.pairFunctionNames()
	c.pairFunctionStems()
	c.pairParts()
	// From here on functions have their twins.
	c.pairDataNames()
	for range maxRounds {
		used := c.pairByUse()
		if !c.pairRest() && !used {
			break
		}
	}
	// From here on variables have theirs.
}

func (c *comparison) pair(a, b *piece) { a.twin, b.twin = b, a }

// group collects the pieces of both sides that have no twin under a key.
type group struct{ orig, patched []*piece }

func (c *comparison) groups(key func(*side, *piece) string) (map[string]*group, []string) {
	all := map[string]*group{}
	var order []string
	collect := func(s *side, add func(*group, *piece)) {
		for _, p := range s.pieces {
			if p.twin != nil {
				continue
			}
			k := key(s, p)
			if k == "" {
				continue
			}
			g := all[k]
			if g == nil {
				g = &group{}
				all[k] = g
				order = append(order, k)
			}
			add(g, p)
		}
	}
	collect(c.orig, func(g *group, p *piece) { g.orig = append(g.orig, p) })
	collect(c.patched, func(g *group, p *piece) { g.patched = append(g.patched, p) })
	return all, order
}

// pairFunctionNames pairs functions of the same name. Several static ones of
// one name are paired by source file, then by their code, then in order.
func (c *comparison) pairFunctionNames() {
	plain := func(s *side, p *piece) string {
		if p.kind != function || p.sym == 0 {
			return ""
		}
		if _, ok := parentName(p.name); ok {
			return ""
		}
		return "." + p.name
	}
	c.pairAll(plain)
}

// pairFunctionStems pairs what is left by names without the compiler's
// numbers: f.constprop.0 may have become f.constprop.1.
func (c *comparison) pairFunctionStems() {
	c.pairAll(func(s *side, p *piece) string {
		if p.kind != function || !isNumbered(p.name) {
			return ""
		}
		if _, ok := parentName(p.name); ok {
			return ""
		}
		return stem(p.name)
	})
}

// pairParts pairs code without a name, by section and order; then the outlined
// parts of functions that are twins; then those that belong to none, by name.
func (c *comparison) pairParts() {
	c.pairAll(func(s *side, p *piece) string {
		if p.kind != function || p.sym != 0 || p.parent != nil {
			return ""
		}
		return "." + s.f.Sections[p.sec].Name
	})
	for _, a := range c.orig.pieces {
		if a.twin == nil {
			continue
		}
		c.pairPartsOf(a)
	}
	c.pairAll(func(s *side, p *piece) string {
		if p.kind != function || p.parent != nil {
			return ""
		}
		return "." + p.name
	})
}

// pairPartsOf pairs the parts of two functions by order, those of each kind for
// themselves.
func (c *comparison) pairPartsOf(a *piece) {
	k := [2]int{}
	for _, part := range a.parts {
		if part.twin != nil {
			continue
		}
		n := &k[0]
		if part.replacement {
			n = &k[1]
		}
		for ; *n < len(a.twin.parts); *n++ {
			if other := a.twin.parts[*n]; other.twin == nil && other.replacement == part.replacement && other.prefix == part.prefix {
				c.pair(part, other)
				*n++
				break
			}
		}
	}
}

// pairAll pairs what has no twin by a key.
func (c *comparison) pairAll(key func(*side, *piece) string) {
	all, order := c.groups(key)
	for _, k := range order {
		c.pairGroup(all[k])
	}
}

// pairGroup pairs the members of a group: equal ones first.
func (c *comparison) pairGroup(g *group) {
	if len(g.orig) == 1 && len(g.patched) == 1 {
		c.pair(g.orig[0], g.patched[0])
		return
	}
	if len(g.orig) == 0 || len(g.patched) == 0 {
		return
	}
	type identity struct {
		file string
		hash uint64
	}
	left := map[identity][]*piece{}
	take := func(withFile, withCode bool) {
		clear(left)
		key := func(s *side, p *piece) (k identity) {
			if withFile {
				k.file = s.fileOf(p)
			}
			if withCode {
				k.hash = c.fingerprint(s, p)
			}
			return k
		}
		for _, b := range g.patched {
			if b.twin == nil {
				k := key(c.patched, b)
				left[k] = append(left[k], b)
			}
		}
		for _, a := range g.orig {
			if k := key(c.orig, a); a.twin == nil && len(left[k]) > 0 {
				c.pair(a, left[k][0])
				left[k] = left[k][1:]
			}
		}
	}
	take(true, true)
	take(false, true)
	take(true, false)
	take(false, false)
}

// fileOf is the source file that a local symbol belongs to, "" for a piece
// without a symbol.
func (s *side) fileOf(p *piece) string {
	if p.sym == 0 {
		return ""
	}
	if s.files == nil {
		s.files = make([]string, len(s.f.Symbols))
		name := ""
		for i, sym := range s.f.Symbols {
			if sym.Type == elf.STT_FILE {
				name = sym.Name
			}
			s.files[i] = name
		}
	}
	return s.files[p.sym]
}

// fingerprint is a hash of a function that moving it does not change.
func (c *comparison) fingerprint(s *side, p *piece) uint64 {
	h := fnv.New64a()
	r := 0
	for _, in := range s.insns(p) {
		from := r
		for r < len(p.refs) && p.refs[r].off < uint64(in.off)+uint64(in.len) {
			r++
		}
		if in.pad {
			continue
		}
		sh := s.shape(p, in, p.refs[from:r])
		h.Write(sh.key[:sh.n])
		h.Write([]byte{byte(sh.target)})
		for _, x := range p.refs[from:r] {
			if x.to != nil && x.to.sym != 0 {
				h.Write([]byte(stem(x.to.name)))
			} else if x.to == nil {
				h.Write([]byte(s.f.Symbols[x.sym].Name))
			}
		}
	}
	p.forget()
	return h.Sum64()
}

// maxRounds bounds how far one decision may lead to others.
const maxRounds = 16
