package diff

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"slices"
)

// Several static variables of one name in one function (in its blocks, or of
// functions that were inlined) have only the order in which it uses them, and
// numbers in that order. Where the function changed, blocks may have changed
// places, so the order needs witnesses: uses among the same instructions before
// and after.

// around is how many instructions on either side of a use have to be the same.
const around = 3

// doubtNames notes the live static variables of a changed function that share a
// stem and of which nothing says what they became but that.
func (c *comparison) doubtNames(user *piece) {
	old, order := stems(c.orig, user)
	now, _ := stems(c.patched, user.twin)
	for _, k := range order {
		if len(old[k]) < 2 && len(now[k]) < 2 || c.isDistinct(old[k], now[k]) || c.isWitnessed(user, old[k], now[k]) {
			continue
		}
		for _, a := range old[k] {
			noted := slices.ContainsFunc(c.ambiguous, func(g ambiguity) bool { return g.user == user && g.orig == a })
			if a.twin != nil && !noted {
				c.ambiguous = append(c.ambiguous, ambiguity{user, a, a.twin})
			}
		}
	}
}

// stems lists by stem the live static variables that a function uses.
func stems(s *side, user *piece) (map[string][]*piece, []string) {
	all := map[string][]*piece{}
	var order []string
	eachUse(user, func(to *piece) {
		k := useKey(to)
		if k == "" || !to.live || !s.isStatic(to) || slices.Contains(all[k], to) {
			return
		}
		if len(all[k]) == 0 {
			order = append(order, k)
		}
		all[k] = append(all[k], to)
	})
	return all, order
}

// isWitnessed reports whether every one of some variables has a use that says
// what it became, and none says otherwise.
func (c *comparison) isWitnessed(user *piece, orig, patched []*piece) bool {
	old, now := map[uint64][]*piece{}, map[uint64][]*piece{}
	c.orig.collectUses(user, orig, old)
	c.patched.collectUses(user.twin, patched, now)
	seen := map[*piece]bool{}
	for k, l := range old {
		if len(now[k]) != len(l) {
			continue // nobody can tell which of them is which
		}
		for i, a := range l {
			if a.twin != now[k][i] {
				return false
			}
			seen[a] = true
		}
	}
	return !slices.ContainsFunc(orig, func(a *piece) bool {
		return a.twin != nil && !seen[a] && !slices.ContainsFunc(c.orig.usersOf(a), c.isSettled)
	})
}

// isSettled reports a function that is the same, and so is what it uses.
func (c *comparison) isSettled(a *piece) bool {
	return a.kind == function && a.twin != nil && !c.isReplaced(a)
}

// isDistinct reports whether the initial contents tell the variables apart, and
// agree.
func (c *comparison) isDistinct(orig, patched []*piece) bool {
	if len(orig) != len(patched) {
		return false
	}
	for i, a := range orig {
		if a.twin == nil || a.size != a.twin.size || len(a.refs) > 0 || len(a.twin.refs) > 0 || firstByte(c.orig.data(a), c.patched.data(a.twin), 0, a.size) >= 0 {
			return false
		}
		for _, b := range orig[:i] {
			if a.size == b.size && firstByte(c.orig.data(a), c.orig.data(b), 0, a.size) < 0 {
				return false
			}
		}
	}
	return true
}

// collectUses lists the uses of some variables in a function and its outlined
// parts, by a hash of what stands around them.
func (s *side) collectUses(p *piece, of []*piece, uses map[uint64][]*piece) {
	var hashes []uint64
	var used [][]*piece
	for _, in := range s.insns(p) {
		if in.pad {
			continue
		}
		refs := s.refsOf(p, in)
		hashes = append(hashes, s.hashInsn(p, in, refs))
		var l []*piece
		for i := range refs {
			if slices.Contains(of, refs[i].to) && !refs[i].anchor {
				l = append(l, refs[i].to)
			}
		}
		used = append(used, l)
	}
	p.forget()
	for i, l := range used {
		if len(l) == 0 {
			continue
		}
		h := fnv.New64a()
		for k := i - around; k <= i+around; k++ {
			word := uint64(0)
			if k >= 0 && k < len(hashes) {
				word = hashes[k]
			}
			h.Write(binary.LittleEndian.AppendUint64(nil, word))
		}
		uses[h.Sum64()] = append(uses[h.Sum64()], l...)
	}
	for _, part := range p.parts {
		s.collectUses(part, of, uses)
	}
}

// hashInsn is a hash of an instruction that neither moving code nor numbering
// variables changes.
func (s *side) hashInsn(p *piece, in insn, refs []ref) uint64 {
	h := fnv.New64a()
	sh := s.shape(p, in, refs)
	h.Write(sh.key[:sh.n])
	for i := range refs {
		r := &refs[i]
		switch {
		case r.to == nil:
			h.Write([]byte(s.f.Symbols[r.sym].Name))
		case r.to.sym != 0:
			h.Write([]byte(stem(r.to.name)))
		case r.to.kind == literal && !r.to.live:
			h.Write(bytes.TrimRight(s.data(r.to), "\x00"))
		}
		if r.to != nil && r.to.kind != function {
			h.Write(binary.LittleEndian.AppendUint64(nil, uint64(r.add)))
		}
	}
	return h.Sum64()
}
