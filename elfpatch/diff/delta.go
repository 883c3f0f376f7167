package diff

import (
	"debug/elf"
	"encoding/binary"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// Options of Compare.
type Options struct {
	Name string // of the objects in refusals, "meminfo.o"; "object" if empty
	// Kernel applies the rules of kernel objects: tables about code, variables
	// that belong to places in code, line numbers, functions that cannot be
	// patched. kernel.IsObject tells which objects they are for.
	Kernel bool
	Lines  *LineShift // how lines moved from the original source to the patched one, nil if not known
}

// Compare tells what became of every function and variable of an object. That
// a change cannot be patched is not an error: the reasons are in
// Delta.Refusals. The error is a *elfpatch.FormatError (wrapped), or a
// refusal.List when the two files cannot be before and after of anything.
func Compare(orig, patched *elfpatch.File, opt Options) (*Delta, error) {
	if opt.Name == "" {
		opt.Name = "object"
	}
	if err := comparable(orig, patched, opt); err != nil {
		return nil, err
	}
	a, err := newSide(orig, "the original object", opt.Kernel)
	if err != nil {
		return nil, err
	}
	b, err := newSide(patched, "the patched object", opt.Kernel)
	if err != nil {
		return nil, err
	}
	c := &comparison{
		orig: a, patched: b, opt: opt, m: orig.Machine, pairs: map[pairKey]*pairing{}, layouts: map[[2]int]bool{},
		delta: &Delta{Orig: orig, Patched: patched},
	}
	c.delta.c = c
	c.correlate()
	// From here on everything that is in both objects has its twin.
	if err := c.unrelated(); err != nil {
		return nil, err
	}
	c.run()
	// From here on it is known which twins differ, and where.
	c.spread()
	// From here on a function is changed if any of its parts is.
	c.readRequests()
	// From here on what the author wants ignored counts as the same.
	c.report()
	c.refuseAll()
	return c.delta, nil
}

func comparable(orig, patched *elfpatch.File, opt Options) error {
	for _, f := range []*elfpatch.File{orig, patched} {
		if f.Type != elf.ET_REL {
			return refusal.List{refusal.New(refusal.Unsupported, opt.Name, "it is no relocatable object (%v)", f.Type)}
		}
	}
	if orig.Machine != patched.Machine {
		return refusal.List{refusal.New(refusal.ObjectsUnrelated, opt.Name, "one object is for %v, the other for %v", orig.Machine, patched.Machine)}
	}
	if opt.Kernel && (orig.OSABI != patched.OSABI || orig.ABIVersion != patched.ABIVersion || orig.Flags != patched.Flags) {
		return refusal.List{refusal.New(refusal.ObjectsUnrelated, opt.Name, "the ELF headers differ: OS ABI %d.%d and %d.%d, flags %#x and %#x",
			orig.OSABI, orig.ABIVersion, patched.OSABI, patched.ABIVersion, orig.Flags, patched.Flags)}
	}
	return nil
}

// spread makes a function changed when one of its outlined parts is, or when it
// gained or lost one: the old function would go on in the old part.
func (c *comparison) spread() {
	c.why = map[*piece]*Difference{}
	for _, a := range c.orig.pieces {
		if p := a.judged; p != nil && p.why != nil {
			c.why[p.patched] = p.why
		}
	}
	for _, b := range c.patched.pieces {
		for _, part := range b.parts {
			c.spreadPart(b, part)
		}
	}
}

func (c *comparison) spreadPart(b, part *piece) {
	if b.twin == nil || c.why[b] != nil {
		return
	}
	if part.prefix && part.sym == 0 {
		c.why[b] = c.otherHash(part)
	} else if d := c.why[part]; d != nil {
		c.why[b] = &Difference{Old: d.Old, New: d.New, In: describe(c.patched, part, int64(d.Off))}
	} else if part.twin == nil || part.twin.parent != b.twin {
		c.why[b] = &Difference{Old: "none", New: part.name, In: part.name}
	}
}

// otherHash says how the hash of a function's type differs; nil if it does not.
func (c *comparison) otherHash(hash *piece) *Difference {
	word := func(s *side, p *piece) string { return fmt.Sprintf("%#08x", binary.LittleEndian.Uint32(s.data(p))) }
	d := &Difference{Old: "none", New: word(c.patched, hash), In: "type hash"}
	if hash.twin != nil && hash.twin.prefix && hash.twin.sym == 0 {
		d.Old = word(c.orig, hash.twin)
	}
	if d.Old == d.New {
		return nil
	}
	return d
}

// onlyLines reports whether a function that is the same has other line numbers.
func (c *comparison) onlyLines(p *piece) bool {
	for _, part := range p.parts {
		if part.twin != nil && c.onlyLines(part) {
			return true
		}
	}
	j := p.twin.judged
	return j != nil && j.patched == p && j.lines
}

// status of a piece of the patched object.
func (c *comparison) status(p *piece) Status {
	switch {
	case p.twin == nil:
		return New
	case c.why[p] != nil:
		return Changed
	}
	return Same
}

// report fills the lists of the delta.
func (c *comparison) report() {
	d := c.delta
	for _, p := range c.patched.pieces {
		if p.prefix || p.replacement || p.special != nil || p.isCell() {
			continue
		}
		switch p.kind {
		case function:
			f := Func{Name: c.nameOf(p), Status: c.status(p), Patched: p.sym, Why: c.why[p], Size: p.size}
			if p.twin != nil {
				f.Orig, f.OldSize = p.twin.sym, p.twin.size
				f.Lines, f.Ignored = f.Status == Same && c.onlyLines(p), p.ignored
			}
			if p.parent != nil {
				f.Parent = p.parent.sym
			}
			d.Funcs = append(d.Funcs, f)
		case variable:
			v := Datum{Name: p.name, Status: c.status(p), Patched: p.sym, Size: p.size, Live: p.live, Why: c.why[p]}
			if p.twin != nil {
				v.Orig = p.twin.sym
			}
			d.Data = append(d.Data, v)
		}
	}
	for _, p := range c.orig.pieces {
		switch {
		case p.twin != nil, p.prefix, p.replacement, p.special != nil, p.isCell():
		case p.kind == function:
			d.Funcs = append(d.Funcs, Func{Name: p.name, Status: Removed, Orig: p.sym, OldSize: p.size})
		case p.kind == variable:
			d.Data = append(d.Data, Datum{Name: p.name, Status: Removed, Orig: p.sym, Size: p.size, Live: p.live})
		}
	}
}

// Changed reports whether anything at all is not the same.
func (d *Delta) Changed() bool {
	for _, f := range d.Funcs {
		if f.Status != Same {
			return true
		}
	}
	for _, v := range d.Data {
		if v.Status != Same {
			return true
		}
	}
	return false
}

func (c *comparison) refuse(code refusal.Code, where, format string, args ...any) {
	c.delta.Refusals = append(c.delta.Refusals, refusal.Refusal{
		Code: code, Where: c.opt.Name + ": " + where, Text: fmt.Sprintf(format, args...),
	})
}
