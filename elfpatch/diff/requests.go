package diff

import (
	"bytes"
	"debug/elf"

	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// readRequests does what the author of a patch asks for by macros: changes of
// some functions and sections do not count.
func (c *comparison) readRequests() {
	if !c.opt.Kernel {
		return
	}
	s := c.patched
	for i, sec := range s.f.Sections {
		kind := kernel.RequestOf(sec.Name)
		if row := s.secs[i].row; kind == 0 && row != nil && row.Use == kernel.Request && sec.Type != elf.SHT_RELA && c.orig.f.Section(sec.Name) == nil {
			c.refuse(refusal.Unsupported, sec.Name, "the source asks for something by a macro that livepatch does not know")
		}
		if kind != kernel.IgnoreFunction && kind != kernel.IgnoreSection && kind != kernel.ForceUnsafe {
			continue
		}
		rels, err := sortedRelocations(s.f, s.f.Sections[i])
		if err != nil {
			continue
		}
		for _, r := range rels {
			ref := s.explicit(r, 0)
			s.settle(&ref)
			switch kind {
			case kernel.IgnoreFunction:
				c.ignoreFunction(&ref)
			case kernel.IgnoreSection:
				c.ignoreSection(&ref)
			case kernel.ForceUnsafe:
				if c.orig.f.Section(sec.Name) != nil {
					continue // the patch does not ask for it
				}
				c.refuse(refusal.ForceUnsafe, s.refText(&ref), "it is to be switched while tasks are in it, which the livepatch core does not do")
			}
		}
	}
}

func (c *comparison) ignoreFunction(r *ref) {
	if r.to == nil || r.to.kind != function {
		c.refuse(refusal.Unsupported, c.patched.refText(r), "it is to be ignored, but it is no function of the object")
		return
	}
	p := owner(r.to)
	if c.why[p] == nil {
		c.delta.Warnings = append(c.delta.Warnings, p.name+" is to be ignored, but it did not change")
	}
	c.ignore(p)
	for _, part := range p.parts {
		c.ignore(part)
	}
	c.delta.Ignored = append(c.delta.Ignored, c.nameOf(p))
}

// ignore makes a piece count as the same. What is new stays new.
func (c *comparison) ignore(p *piece) {
	delete(c.why, p)
	if p.twin != nil {
		p.ignored, p.twin.ignored = true, true
	}
}

func (c *comparison) ignoreSection(r *ref) {
	name := ""
	if r.to != nil && r.to.kind != function && r.add >= 0 && !r.to.bss && uint64(r.add) < r.to.size {
		name, _, _ = cutString(c.patched.data(r.to)[r.add:])
	}
	found := false
	for i, sec := range c.patched.f.Sections {
		if sec.Name != name || name == "" || i == 0 {
			continue
		}
		found = true
		for _, p := range c.patched.secs[i].pieces {
			c.ignore(p)
		}
	}
	if !found {
		c.refuse(refusal.Unsupported, c.patched.refText(r), "a section of that name is to be ignored, but there is none")
		return
	}
	if c.ignored == nil {
		c.ignored = map[string]bool{}
	}
	c.ignored[name] = true
	c.delta.Ignored = append(c.delta.Ignored, name)
}

func cutString(b []byte) (string, []byte, bool) {
	before, after, ok := bytes.Cut(b, []byte{0})
	return string(before), after, ok
}

// nameOf is the name that a function has in the target.
func (c *comparison) nameOf(p *piece) string {
	if p.twin != nil && p.twin.sym != 0 {
		return p.twin.name
	}
	return p.name
}
