package diff

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// isCell reports the word through which unwind tables refer to a name of another
// file. The patch makes its own.
func (p *piece) isCell() bool { return strings.HasPrefix(p.name, "DW.ref.") }

// followFrame includes what the frames of a function refer to and the target
// does not have: types that it catches.
func (k *cutter) followFrame(f *frame) {
	refs := []*ref{f.common.personality}
	if f.handlers != nil {
		for i := range f.handlers.refs {
			refs = append(refs, &f.handlers.refs[i])
		}
	}
	for _, r := range refs {
		if r != nil && r.to != nil && k.isOwn(r.to) {
			k.include(r.to)
		}
	}
}

// arm64GOTPCRel32 is R_AARCH64_GOTPCREL32, which package elf does not name.
const arm64GOTPCRel32 = 315

// frameTypes are the relocations of unwind tables: a distance in 32 bits to a
// symbol, and to a word that holds its address.
func frameTypes(m elf.Machine) (distance, word uint32) {
	if m == elf.EM_AARCH64 {
		return uint32(elf.R_AARCH64_PREL32), arm64GOTPCRel32
	}
	return uint32(elf.R_X86_64_PC32), uint32(elf.R_X86_64_GOTPCREL)
}

// How the cut's own tables encode pointers: functions and handlers by their
// distance, what may be in another file by the distance to a word. All take four
// bytes.
const (
	encodeNear = encodePCRel | encodeSdata4
	encodeWord = encodeIndirect | encodeNear
)

// frames describes the frames of the functions of the cut, whose places and
// relocations are known. In its tables everything is relative, so that they are
// right wherever they are loaded.
func (k *cutter) frames(rels map[*elfpatch.Section][]elfpatch.Rela) {
	k.unwinds = k.mayUnwind()
	t := &frameTable{k: k, commons: map[string]int{}}
	t.distance, t.word = frameTypes(k.c.m)
	for _, p := range k.order {
		if p.kind != function || k.places[p].sec == nil {
			continue
		}
		switch {
		case p.frame != nil:
			t.add(p, rels)
		case k.unwinds != "" && k.c.status(p) != Same:
			k.refusals = append(k.refusals, refusal.New(refusal.UnwindNeeded, k.c.opt.Name+": "+p.name, "nothing tells how its frames are unwound, and an exception may meet them"))
		}
	}
	if len(t.data) == 0 {
		return
	}
	sec := k.out.AddSection(elfpatch.Section{Name: ".eh_frame", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: frameAlign, Data: t.data, Size: uint64(len(t.data))})
	rels[sec] = t.rels
}

// frameAlign is the alignment of entries: nothing may stand between them.
const frameAlign = 8

// frameTable is .eh_frame of the cut.
type frameTable struct {
	k              *cutter
	distance, word uint32 // relocation types
	data           []byte
	rels           []elfpatch.Rela
	commons        map[string]int // offsets of common entries
}

// add describes one function.
func (t *frameTable) add(p *piece, rels map[*elfpatch.Section][]elfpatch.Rela) {
	c := p.frame.common
	program := p.frame.program
	if l := t.k.layouts[p]; l != nil {
		var ok bool
		if program, ok = movedProgram(program, c, l); !ok || p.frame.skip > 0 {
			t.refuse(p, "the description of its frames cannot be moved")
			return
		}
	}
	handlers, ok := t.handlers(p, rels)
	if !ok {
		return
	}
	common, ok := t.common(p)
	if !ok {
		return
	}
	size := t.k.out.Symbols[t.k.included[p]].Size
	if p.frame.skip > size {
		t.refuse(p, "the description of its frames begins behind it")
		return
	}
	at := len(t.data)
	b := binary.LittleEndian.AppendUint32(make([]byte, 4), uint32(at+4-common))
	t.relate(at+len(b), t.distance, t.k.included[p], int64(p.frame.skip))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(size-p.frame.skip))
	if c.handlers == encodeOmit {
		b = append(b, 0)
	} else {
		b = append(b, 4)
		if handlers != 0 {
			t.relate(at+len(b), t.distance, handlers, 0)
		}
		b = append(b, 0, 0, 0, 0)
	}
	t.entry(append(b, program...))
}

func (t *frameTable) relate(at int, typ uint32, sym int, add int64) {
	t.rels = append(t.rels, elfpatch.Rela{Offset: uint64(at), Type: typ, Symbol: uint32(sym), Addend: add})
}

func (t *frameTable) refuse(p *piece, format string, args ...any) {
	t.k.refusals = append(t.k.refusals, refusal.New(refusal.UnwindNeeded, t.k.c.opt.Name+": "+p.name, format, args...))
}

// entry appends an entry, whose first word becomes its length.
func (t *frameTable) entry(b []byte) {
	for len(b)%frameAlign != 0 {
		b = append(b, 0) // DW_CFA_nop
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	t.data = append(t.data, b...)
}

// common returns the offset of the common entry of a function; those that say
// the same are one.
func (t *frameTable) common(p *piece) (int, bool) {
	c := p.frame.common
	letters, size := "z", 1
	if c.personality != nil {
		letters, size = letters+"P", size+5
	}
	if c.handlers != encodeOmit {
		letters, size = letters+"L", size+1
	}
	letters += "R"
	if c.signal {
		letters += "S"
	}
	if c.keyB {
		letters += "B"
	}
	b := append(make([]byte, 8), 1)
	b = append(append(b, letters...), 0)
	b = append(append(b, c.align...), c.register, byte(size))
	field, rel := 0, elfpatch.Rela{}
	if c.personality != nil {
		b = append(b, encodeWord)
		field = len(b)
		b = append(b, 0, 0, 0, 0)
		var ok bool
		if rel, ok = t.named(p, c.personality); !ok {
			return 0, false
		}
	}
	if c.handlers != encodeOmit {
		b = append(b, encodeNear)
	}
	b = append(append(b, encodeNear), c.program...)
	key := fmt.Sprintf("%d %x", rel.Symbol, b)
	at, ok := t.commons[key]
	if !ok {
		at = len(t.data)
		t.commons[key] = at
		if field != 0 {
			rel.Offset = uint64(at + field)
			t.rels = append(t.rels, rel)
		}
		t.entry(b)
	}
	return at, true
}

// named makes the relocation of a word that leads to what a table refers to.
func (t *frameTable) named(p *piece, r *ref) (elfpatch.Rela, bool) {
	x := *r
	x.typ, x.bias, x.implicit, x.derived, x.anchor = t.word, 0, false, false, false
	rel, ok := t.k.relocation(p, &x)
	if !ok || rel.Symbol == 0 || rel.Addend != 0 {
		t.refuse(p, "its handlers refer to %s, which has no name", t.k.c.patched.refText(r))
		return rel, false
	}
	return rel, true
}

// handlers copies the handlers of a function and returns their symbol, 0 if there
// are none.
func (t *frameTable) handlers(p *piece, rels map[*elfpatch.Section][]elfpatch.Rela) (sym int, ok bool) {
	from := p.frame.handlers
	if from == nil {
		return 0, true
	}
	s := t.k.c.patched
	h, err := s.readHandlers(from)
	switch {
	case err != nil:
		t.refuse(p, "its handlers for exceptions cannot be read: %v", err)
		return 0, false
	case h.typeCode != encodeOmit && h.typeSize != 4 && len(from.refs) > 0:
		t.refuse(p, "its handlers name types by %d bytes (compile with another -mcmodel)", h.typeSize)
		return 0, false
	}
	data := append([]byte{}, s.data(from)...)
	shift := 0
	if l := t.k.layouts[p]; l != nil {
		data = h.moved(s.data(from), l)
		shift = len(data) - int(from.size)
	}
	if len(from.refs) > 0 {
		data[1] = encodeWord
	}
	var list []elfpatch.Rela
	for i := range from.refs {
		rel, ok := t.named(p, &from.refs[i])
		if !ok {
			return 0, false
		}
		rel.Offset = uint64(int64(from.refs[i].off) + int64(shift))
		clear(data[rel.Offset:][:4])
		list = append(list, rel)
	}
	name := t.k.unique(".Lhandlers." + p.name)
	sec := t.k.out.AddSection(elfpatch.Section{
		Name: ".gcc_except_table." + p.name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4, Data: data, Size: uint64(len(data)),
	})
	rels[sec] = list
	return t.k.out.AddSymbol(elfpatch.Symbol{Name: name, Type: elf.STT_OBJECT, Bind: elf.STB_LOCAL, Section: sec.Index, Size: uint64(len(data))}), true
}

// movedProgram adapts a program for frames to code that was laid out anew: its
// advances, in units of the code alignment, which is 1 where code moves.
func movedProgram(program []byte, c *common, l *layout) (out []byte, ok bool) {
	if c.align[0] != 1 {
		return nil, false
	}
	loc := int64(0)
	for at := 0; at < len(program); {
		n, advance, ok := programStep(program[at:])
		if !ok {
			return nil, false
		}
		if advance >= 0 {
			out = appendAdvance(out, l.at(loc+advance)-l.at(loc))
			loc += advance
		} else {
			out = append(out, program[at:at+n]...)
		}
		at += n
	}
	return out, true
}

// programStep returns the length of an instruction for frames, and how far it
// advances, -1 if it does not. Operands: DWARF 5, 6.4.2.
func programStep(b []byte) (n int, advance int64, ok bool) {
	d := bytesReader{data: b}
	op := d.byte()
	advance = -1
	switch op >> 6 {
	case 1: // DW_CFA_advance_loc
		return 1, int64(op & 0x3f), true
	case 2: // DW_CFA_offset
		d.uleb()
		return d.at, -1, !d.bad
	case 3: // DW_CFA_restore
		return 1, -1, true
	}
	switch op {
	case 0x00, 0x0a, 0x0b, 0x2d: // nop, remember_state, restore_state, AARCH64_negate_ra_state
	case 0x02: // advance_loc1
		advance = int64(d.byte())
	case 0x03: // advance_loc2
		advance = int64(d.byte())
		advance |= int64(d.byte()) << 8
	case 0x04: // advance_loc4
		advance = int64(d.u32())
	case 0x06, 0x07, 0x08, 0x0d, 0x0e, 0x13, 0x2e: // restore_extended, undefined, same_value, def_cfa_register, def_cfa_offset(_sf), GNU_args_size
		d.uleb()
	case 0x05, 0x09, 0x0c, 0x11, 0x12, 0x14, 0x15, 0x2f: // offset_extended(_sf), register, def_cfa(_sf), val_offset(_sf)
		d.uleb()
		d.uleb()
	case 0x0f: // def_cfa_expression
		d.at += int(min(d.uleb(), uint64(len(b))))
	case 0x10, 0x16: // expression, val_expression
		d.uleb()
		d.at += int(min(d.uleb(), uint64(len(b))))
	default: // set_loc, and what is not known
		return 0, 0, false
	}
	return d.at, advance, !d.bad && d.at <= len(b)
}

func appendAdvance(b []byte, by int64) []byte {
	switch {
	case by < 0x40:
		return append(b, 0x40|byte(by))
	case by < 0x100:
		return append(b, 0x02, byte(by))
	case by < 0x10000:
		return append(b, 0x03, byte(by), byte(by>>8))
	}
	return binary.LittleEndian.AppendUint32(append(b, 0x04), uint32(by))
}
