package modcheck

import (
	"debug/elf"
	"sort"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// text is what is known of the code of one section: where instructions begin.
type text struct {
	starts []uint64 // a bit for each byte
	ends   []uint64
}

func (t *text) mark(set []uint64, off uint64) { set[off/64] |= 1 << (off % 64) }

func (t *text) has(set []uint64, off uint64) bool {
	return off/64 < uint64(len(set)) && set[off/64]&(1<<(off%64)) != 0
}

// begins reports an instruction that begins at off.
func (t *text) begins(off uint64) bool { return t != nil && t.has(t.starts, off) }

// bounds reports a place between instructions: one ends or begins there.
func (t *text) bounds(off uint64) bool {
	return t != nil && (t.has(t.starts, off) || t.has(t.ends, off))
}

// instruction decodes the instruction at a place.
func (c *checker) instruction(at place) (disasm.Inst, []byte, bool) {
	s := c.section(at.sec)
	if s == nil || at.off >= uint64(len(s.Data)) {
		return disasm.Inst{}, nil, false
	}
	b := s.Data[at.off:]
	in, err := disasm.Decode(c.f.Machine, b)
	if err != nil || in.Len > len(b) {
		return disasm.Inst{}, nil, false
	}
	return in, b[:in.Len], true
}

// readText finds where the instructions of a section begin: in its functions,
// and in what lies outside of them (replacements of alternatives, fix-ups,
// functions without a symbol), where bytes that are no instructions are let pass.
func (c *checker) readText(s *elfpatch.Section, visit func(at place, in disasm.Inst)) {
	n := uint64(len(s.Data))/64 + 2
	t := &text{starts: make([]uint64, n), ends: make([]uint64, n)}
	c.text[s.Index] = t
	data := c.dataInText(s)
	done := uint64(0)
	read := func(name string, to uint64) {
		for _, d := range append(data.within(done, to), span{to, to}) {
			if d.from > done {
				c.readCode(t, s, name, span{done, d.from}, visit)
			}
			done = max(done, d.to)
		}
	}
	for _, f := range c.funcs[s.Index] {
		read("", f.start)
		read(f.name, f.end) // less what an alias or a size that overlaps had
	}
	read("", s.Size)
}

// readCode reads a part of a section, which is of the function of a name or of none.
func (c *checker) readCode(t *text, s *elfpatch.Section, name string, part span, visit func(place, disasm.Inst)) {
	if part.to > uint64(len(s.Data)) {
		return // SHT_NOBITS: the loader fills it
	}
	err := disasm.Walk(c.f.Machine, s.Data[part.from:part.to], func(off int, in disasm.Inst) bool {
		at := part.from + uint64(off)
		t.mark(t.starts, at)
		t.mark(t.ends, at+uint64(in.Len))
		visit(place{s.Index, at}, in)
		return true
	})
	if err != nil && name != "" {
		c.refuse(refusal.Unsupported, whatEntry, name, "the code cannot be read: %v", err)
	}
}

type span struct{ from, to uint64 }

type spans []span

// within returns the spans that overlap a range, cut to it. They are in order.
func (s spans) within(from, to uint64) []span {
	var list []span
	i := sort.Search(len(s), func(i int) bool { return s[i].to > from })
	for ; i < len(s) && s[i].from < to; i++ {
		list = append(list, span{max(s[i].from, from), min(s[i].to, to)})
	}
	return list
}

// dataInText is what the mapping symbols of arm64 call data ($d up to $x):
// AAELF64, 5.5.4.
func (c *checker) dataInText(s *elfpatch.Section) spans {
	if c.f.Machine != elf.EM_AARCH64 {
		return nil
	}
	return c.mapping()[s.Index]
}

// mapping reads the mapping symbols of all sections.
func (c *checker) mapping() map[int]spans {
	if c.mapped != nil {
		return c.mapped
	}
	c.mapped = map[int]spans{}
	marks := map[int][]mark{}
	for _, s := range c.f.Symbols {
		if s.Section <= 0 || len(s.Name) < 2 || s.Name[0] != '$' || len(s.Name) > 2 && s.Name[2] != '.' {
			continue
		}
		if kind := s.Name[1]; kind == 'd' || kind == 'x' {
			marks[s.Section] = append(marks[s.Section], mark{s.Value, kind == 'd'})
		}
	}
	for i, list := range marks {
		if s := c.section(i); s != nil {
			c.mapped[i] = dataSpans(list, s.Size)
		}
	}
	return c.mapped
}

// behind returns how many bytes lie between the beginning of a PC-relative
// field of x86-64 code and the end of its instruction.
func (c *checker) behind(at place) (uint64, bool) {
	for back := uint64(1); back <= 14 && back <= at.off; back++ {
		if !c.text[at.sec].begins(at.off - back) {
			continue
		}
		in, _, ok := c.instruction(place{at.sec, at.off - back})
		if !ok || in.PCRel.Size == 0 || uint64(in.PCRel.Off) != back {
			return 0, false
		}
		return uint64(in.Len) - back, true
	}
	return 0, false
}

// thunk reports the names of functions that stand for an indirect branch or a
// return (arch/x86/lib/retpoline.S, 6.12).
func isReturnThunk(name string) bool { return name == "__x86_return_thunk" }

func isBranchThunk(name string) bool {
	return strings.HasPrefix(name, "__x86_indirect_thunk_") || strings.HasPrefix(name, "__x86_indirect_call_thunk_") ||
		strings.HasPrefix(name, "__x86_indirect_jump_thunk_")
}
