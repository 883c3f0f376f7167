package diff

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch/kernel"
)

// compareEntries compares the entries of tables about two pieces of code that
// are the same themselves: as many, about the same places, that say the same.
func (c *comparison) compareEntries(p *pairing) *Difference {
	x, y := c.orig.judged(p.orig), c.patched.judged(p.patched)
	for i := range max(len(x), len(y)) {
		switch {
		case i == len(y):
			return c.missing(c.orig, x[i], func(text string) *Difference { return &Difference{Old: text, New: "none"} })
		case i == len(x):
			return c.missing(c.patched, y[i], func(text string) *Difference {
				return &Difference{Off: uint64(max(c.patched.codePlace(y[i]), 0)), Old: "none", New: text}
			})
		}
		if d := c.compareEntry(p, x[i], y[i]); d != nil {
			return d
		}
	}
	return nil
}

func (c *comparison) missing(s *side, e *piece, make func(string) *Difference) *Difference {
	d := make(fmt.Sprintf("entry at +%#x", s.codePlace(e)))
	d.In = s.f.Sections[e.sec].Name
	return d
}

// judged lists the entries that are compared: all but those that follow from
// the code.
func (s *side) judged(p *piece) []*piece {
	out := p.entries
	for i, e := range p.entries {
		if !s.secs[e.sec].row.Derived {
			continue
		}
		out = append([]*piece{}, p.entries[:i]...)
		for _, e := range p.entries[i:] {
			if !s.secs[e.sec].row.Derived {
				out = append(out, e)
			}
		}
		break
	}
	return out
}

func (c *comparison) compareEntry(p *pairing, a, b *piece) *Difference {
	x, y := &c.orig.secs[a.sec], &c.patched.secs[b.sec]
	at := uint64(max(c.patched.codePlace(b), 0))
	name := c.patched.f.Sections[b.sec].Name
	differ := func(old, now string) *Difference { return &Difference{Off: at, Old: old, New: now, In: name} }
	if x.row != y.row {
		return differ(c.orig.describeEntry(a), c.patched.describeEntry(b))
	}
	if x.layout != y.layout {
		return differ(fmt.Sprintf("%d bytes", x.layout.Size), fmt.Sprintf("%d bytes", y.layout.Size))
	}
	for _, f := range x.layout.Fields {
		switch {
		case f.Kind == kernel.FieldPadding:
		case f.Kind.IsRef():
			if d := c.compareField(p, entryPair{a, b, f, at}); d != nil {
				d.In = name
				return d
			}
		case f.Kind == kernel.FieldLine:
			old, now := c.orig.fieldValue(a, f), c.patched.fieldValue(b, f)
			c.claim(p, claim{
				old: int64(old), new: int64(now), strong: true, file: c.entryFile(a), orig: p.orig, oldOff: uint64(max(c.orig.codePlace(a), 0)), patched: p.patched, newOff: at,
				why: differ(fmt.Sprintf("line %d", old), fmt.Sprintf("line %d", now)),
			})
		default:
			if old, now := c.orig.fieldValue(a, f), c.patched.fieldValue(b, f); old != now {
				return differ(fmt.Sprintf("%s %#x", fieldNames[f.Kind], old), fmt.Sprintf("%s %#x", fieldNames[f.Kind], now))
			}
		}
	}
	return nil
}

var fieldNames = map[kernel.FieldKind]string{
	kernel.FieldFlags: "flags", kernel.FieldCodeLen: "length", kernel.FieldReplLen: "length of the replacement",
}

// entryPair is a field of two entries about corresponding code at a place.
type entryPair struct {
	a, b *piece
	f    kernel.Field
	at   uint64
}

func (c *comparison) compareField(p *pairing, e entryPair) *Difference {
	r, q := e.a.fieldRef(e.f), e.b.fieldRef(e.f)
	switch {
	case r == nil && q == nil:
		if old, now := c.orig.fieldValue(e.a, e.f), c.patched.fieldValue(e.b, e.f); old != now {
			return &Difference{Off: e.at, Old: fmt.Sprintf("%#x", old), New: fmt.Sprintf("%#x", now)}
		}
		return nil
	case r == nil:
		return &Difference{Off: e.at, Old: "none", New: c.patched.refText(q)}
	case q == nil:
		return &Difference{Off: e.at, Old: c.orig.refText(r), New: "none"}
	}
	if e.f.Kind == kernel.FieldReplacement && c.orig.replacedBy(e.a) == 0 && c.patched.replacedBy(e.b) == 0 {
		return nil // NOPs take the place; where the reference leads means nothing
	}
	there := *q
	there.off = e.at
	if !c.sameRef(p, r, &there) {
		return &Difference{Off: e.at, Old: c.orig.refText(r), New: c.patched.refText(q)}
	}
	return nil
}

// replacedBy is the number of bytes at the replacement of an alternative.
func (s *side) replacedBy(e *piece) uint64 {
	f, ok := s.secs[e.sec].layout.Field(kernel.FieldReplLen)
	if !ok {
		return 0
	}
	if s.f.Machine == elf.EM_AARCH64 {
		return max(s.fieldValue(e, f), 1) // of callbacks, which are functions, it is 0
	}
	return s.fieldValue(e, f)
}

// entryFile is the source file that an entry names, "" if it names none.
func (c *comparison) entryFile(e *piece) string {
	for _, f := range c.orig.secs[e.sec].layout.Fields {
		if f.Kind != kernel.FieldString {
			continue
		}
		if r := e.fieldRef(f); r != nil {
			if name := c.orig.sourceName(r); name != "" {
				return name
			}
		}
	}
	return ""
}

// sameEntry reports whether two entries, to which code refers, have the same
// place among those about functions that are twins. What they say is compared
// with the functions.
func sameEntry(a, b *piece) bool {
	if a.kind != entry || b.kind != entry || a.about == nil || b.about == nil || a.about.twin != b.about {
		return false
	}
	return entryRank(a) == entryRank(b)
}

// entryRank counts the entries of its table before an entry, about the same
// code.
func entryRank(e *piece) int {
	n := 0
	for _, x := range e.about.entries {
		if x == e {
			break
		}
		if x.sec == e.sec {
			n++
		}
	}
	return n
}
