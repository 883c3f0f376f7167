package pobj

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/internal/unwind"
	"livepatch/trampoline"
)

// What stands between redirects and replacements is described as the functions
// are, so that whoever unwinds a stack gets through it, wherever a thread stands:
// debuggers, profilers, exceptions that handlers of signals throw.

// describe adds the entries of pieces and stubs to the section of frames.
func (l *linker) describe(d Dispatch) error {
	called, ok := unwind.Called(l.m)
	if !ok {
		return nil
	}
	e := entries{l: l}
	for _, p := range d.Pieces {
		if p.Area != trampoline.Text {
			continue
		}
		list, size := l.rules(d, p.Code)
		if err := e.add(l.pieces[p.Name], size, list); err != nil {
			return fmt.Errorf("describe the %s of function %d: %w", p.Name.Kind, p.Name.Function, err)
		}
	}
	for _, sym := range l.plain {
		if err := e.add(sym, int(l.syms[sym].Size), []unwind.Stretch{{Rules: called}}); err != nil {
			return fmt.Errorf("describe %s: %w", l.syms[sym].Name, err)
		}
	}
	return nil
}

// rules are those of a piece, up to where they are not known: moved instructions
// of a function that the target does not describe.
func (l *linker) rules(d Dispatch, c trampoline.Code) (list []unwind.Stretch, size int) {
	for _, row := range c.Rows {
		r, err := l.rulesOf(d, row)
		if err != nil {
			return list, row.Off
		}
		list = append(list, unwind.Stretch{Off: row.Off, Rules: r})
	}
	return list, len(c.Bytes)
}

func (l *linker) rulesOf(d Dispatch, row trampoline.Row) (r unwind.Rules, err error) {
	switch {
	case row.As == 0:
		r, _ = unwind.Called(l.m)
	case d.Rules == nil:
		return r, fmt.Errorf("the target tells nothing of its frames")
	default:
		if r, err = d.Rules(row.As); err != nil {
			return r, err
		}
	}
	if row.Return != 0 {
		r = r.ReturnIn(l.m, row.Return)
	}
	return r.Pushed(l.m, row.Pushed)
}

// entries are what is added to the section of frames.
type entries struct {
	l       *linker
	commons []common
}

// common is an entry that others share.
type common struct {
	unwind.Rules
	off uint64
}

// frameAlign is the alignment of entries: nothing may stand between them.
const frameAlign = 8

func (e *entries) write(b []byte) uint64 {
	return e.l.mem[frames].grow(uint64(len(b)), frameAlign, b, e.l.filler(frames))
}

// add describes the code at a symbol of the payload.
func (e *entries) add(sym, size int, list []unwind.Stretch) error {
	if len(list) == 0 {
		return nil
	}
	last := list[len(list)-1].Rules // those of a function that has been called fit with any
	at := e.common(last)
	m := &e.l.mem[frames]
	next := (m.size + frameAlign - 1) &^ (frameAlign - 1)
	b, err := unwind.Describe(e.l.m, int(next-at), size, list)
	if err != nil {
		return err
	}
	off := e.write(b)
	distance := uint32(elf.R_X86_64_PC32)
	if e.l.m == elf.EM_AARCH64 {
		distance = uint32(elf.R_AARCH64_PREL32)
	}
	m.rels = append(m.rels, elfpatch.Rela{Offset: off + unwind.DescribedAt, Type: distance, Symbol: uint32(sym)})
	return nil
}

// common returns the place of a common entry for rules.
func (e *entries) common(r unwind.Rules) uint64 {
	for _, c := range e.commons {
		if c.SharesCommon(r) {
			return c.off
		}
	}
	c := common{r, e.write(r.Common(e.l.m))}
	e.commons = append(e.commons, c)
	return c.off
}
