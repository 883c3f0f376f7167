package diff

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// On arm64 gcc puts the address of a section into a register once and reaches
// all static variables of the section from there (-fsection-anchors). What such
// an access means is told by its immediate and by what the register holds, so
// the registers of each function are followed: every access through a known
// address becomes a reference of its own, and the address as such counts only
// where it goes to something else than accesses.

// Types of derived references, besides those of relocations: fields of
// instructions that no relocation fills.
const (
	arm64Imm9 = 0x10000 + iota // ldur, pre- and post-indexed
	arm64Imm7                  // pairs
)

// fieldMask returns the bits that a reference of a type owns.
func fieldMask(m elf.Machine, typ uint32) []byte {
	switch typ {
	case arm64Imm9:
		return []byte{0, 0xf0, 0x1f, 0}
	case arm64Imm7:
		return []byte{0, 0x80, 0x3f, 0}
	}
	return elfpatch.FieldMask(m, typ)
}

// An address is what is known of a register.
type address struct {
	known bool
	sec   int
	off   int64
	from  int // 1 + index of the reference that put it there, 0 if that is a derived one
}

type registers struct {
	set bool
	r   [32]address
}

// tracker follows the registers of one function.
type tracker struct {
	s       *side
	p       *piece
	list    []insn
	at      map[int64]int      // instruction at an offset
	saved   map[int]*registers // state on entry of instructions that are jumped to
	through registers          // state at indirect jumps
	escaped map[int]bool       // references whose value is used otherwise than for accesses
	spilled map[int]bool       // those whose value goes where it is not followed
	passed  map[int]bool       // those whose value may be an argument or result, or be left over
	served  map[int]bool       // those whose value served accesses
	derived []ref
	final   bool // the states have settled: note what they show
	changed bool
}

// maxPasses bounds how long states may take to settle; loops take two or three.
const maxPasses = 12

// deriveRefs adds the derived references of a function.
func (s *side) deriveRefs(p *piece) {
	if s.f.Machine != elf.EM_AARCH64 || p.kind != function {
		return
	}
	worth := false
	for i := range p.refs {
		worth = worth || s.isBase(&p.refs[i])
	}
	if !worth {
		return
	}
	t := &tracker{s: s, p: p, list: s.insns(p), at: map[int64]int{}, saved: map[int]*registers{}, escaped: map[int]bool{}, spilled: map[int]bool{}, passed: map[int]bool{}, served: map[int]bool{}}
	for i, in := range t.list {
		t.at[int64(in.off)] = i
	}
	for pass := 0; ; pass++ {
		t.changed = false
		t.pass()
		if !t.changed {
			break
		}
		if pass == maxPasses {
			return // nothing is derived; the addresses themselves are compared
		}
	}
	t.final = true
	t.pass()
	t.mark()
	p.forget()
}

// isBase reports a reference that puts the address of data into a register.
func (s *side) isBase(r *ref) bool {
	return elf.R_AARCH64(r.typ) == elf.R_AARCH64_ADD_ABS_LO12_NC && r.to != nil && r.to.kind != function && r.sec > 0 && s.secs[r.sec].kind == dataSect
}

func (t *tracker) pass() {
	var state registers
	state.set = true
	falls := true
	code := t.s.data(t.p)
	k := 0
	for i, in := range t.list {
		if old := t.saved[i]; old != nil {
			if falls {
				t.meet(old, &state)
			}
			state = *old
		} else if !falls {
			state = t.through
		}
		from := k
		for k < len(t.p.refs) && t.p.refs[k].off < uint64(in.off)+uint64(in.len) {
			k++
		}
		word := binary.LittleEndian.Uint32(append(code[in.off:in.off+uint32(in.len):in.off+uint32(in.len)], 0, 0, 0, 0))
		d, err := t.s.decode(t.p, int(in.off))
		t.step(&state, in, word, from, k)
		falls = err == nil
		switch d.Flow {
		case disasm.Call, disasm.IndirectCall, disasm.Syscall:
			t.hand(&state)
			for r := range 19 {
				state.r[r] = address{}
			}
			state.r[30] = address{}
		case disasm.Return, disasm.Trap:
			t.hand(&state)
			falls = false
		case disasm.IndirectJump:
			t.hand(&state)
			t.meet(&t.through, &state)
			falls = false
		case disasm.Jump, disasm.CondJump:
			if target, ok := t.at[int64(in.off)+d.PCOff]; ok && from == k {
				if t.saved[target] == nil {
					t.saved[target] = &registers{}
				}
				t.meet(t.saved[target], &state)
			} else {
				t.leave(&state, t.p.refs[from:k])
			}
			falls = d.Flow == disasm.CondJump
		}
	}
}

// leave follows a jump out of the function. Outlined parts go on with all
// registers, other functions with arguments.
func (t *tracker) leave(s *registers, refs []ref) {
	t.hand(s)
	for i := range refs {
		if refs[i].to == nil {
			continue
		}
		_, part := parentName(refs[i].to.name)
		if _, from := parentName(t.p.name); !part && !from {
			continue
		}
		for r := range s.r {
			t.spill(s.r[r])
		}
	}
}

// spill notes that an address goes where it is not followed, and may come back.
func (t *tracker) spill(a address) {
	t.lose(a)
	if a.known && a.from > 0 {
		t.spilled[a.from-1] = true
	}
}

// meet keeps in a what it has in common with b.
func (t *tracker) meet(a, b *registers) {
	if !b.set {
		return
	}
	if !a.set {
		*a = *b
		t.changed = true
		return
	}
	for i := range a.r {
		if a.r[i] != b.r[i] {
			t.lose(a.r[i])
			t.lose(b.r[i])
			if a.r[i].known {
				a.r[i] = address{}
				t.changed = true
			}
		}
	}
}

func (t *tracker) lose(a address) {
	if a.known && a.from > 0 {
		t.escaped[a.from-1] = true
	}
}

// hand notes the registers that may hold arguments or results. An address there
// that served accesses is most likely left over; were it not, these would still
// be compared.
func (t *tracker) hand(s *registers) {
	for r := range 8 {
		if a := s.r[r]; a.known && a.from > 0 {
			t.passed[a.from-1] = true
		}
	}
}

// step follows one instruction; its references are refs[from:to] of the piece.
func (t *tracker) step(s *registers, in insn, x uint32, from, to int) {
	rd, rn, rm := int(x&31), int(x>>5&31), int(x>>16&31)
	switch {
	case x&0x7f800000 == 0x11000000, x&0x7f800000 == 0x51000000: // add, sub immediate
		t.addImmediate(s, in, x, from, to)
	case x&0xffe0ffe0 == 0xaa0003e0: // mov
		s.r[rd] = s.r[rm]
		s.r[31] = address{}
	case x&0xff200000 == 0x8b000000, x&0xffe00000 == 0x8b200000: // add register
		a, b := s.r[rn], s.r[rm]
		s.r[31] = address{}
		switch {
		case a.known && b.known:
			t.lose(a)
			t.lose(b)
			a = address{}
		case b.known:
			a = b
		}
		s.r[rd] = a
		s.r[31] = address{}
	case x>>25&5 == 4: // loads and stores
		t.access(s, in, x, from != to)
	case x>>26&7 == 5 && x&0x7e000000 != 0x34000000 && x&0x7e000000 != 0x36000000: // branches, exceptions, system
	default:
		if x>>26&7 == 5 { // cbz, tbz: they read rd
			t.lose(s.r[rd])
			return
		}
		switch {
		case x&0x1f000000 == 0x10000000: // adr, adrp
		case x>>26&7 == 4: // immediates
			t.lose(s.r[rn])
		case x>>25&7 == 5: // registers
			t.lose(s.r[rn])
			t.lose(s.r[rm])
			if x>>24&31 == 0x1b { // three of them
				t.lose(s.r[x>>10&31])
			}
		default:
			t.lose(s.r[rn])
		}
		if x&0x1f800000 == 0x12800000 || x&0x1e000000 == 0x1e000000 && x>>26&1 == 1 { // movk keeps a part; floating point
			t.lose(s.r[rd])
		}
		s.r[rd] = address{}
	}
}

func (t *tracker) addImmediate(s *registers, in insn, x uint32, from, to int) {
	rd, rn := int(x&31), int(x>>5&31)
	old := s.r[rn]
	if rn == 31 {
		old = address{}
	}
	s.r[rd] = address{}
	for i := from; i < to; i++ {
		r := &t.p.refs[i]
		if t.s.isBase(r) {
			s.r[rd] = address{true, r.sec, int64(r.to.off) + r.add, i + 1}
		}
	}
	if to > from || !old.known || x>>31 == 0 {
		if to == from {
			t.lose(old)
		}
		s.r[31] = address{}
		return
	}
	imm := int64(x >> 10 & 0xfff)
	if x>>22&1 == 1 {
		imm <<= 12
	}
	if x>>30&1 == 1 {
		imm = -imm
	}
	t.note(in, uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), old, imm, x>>30&1 == 0 && x>>22&1 == 0)
	s.r[rd] = address{true, old.sec, old.off + imm, 0}
	s.r[31] = address{}
}

// access follows a load or store: the address it takes, what it overwrites, and
// what it changes its base to.
func (t *tracker) access(s *registers, in insn, x uint32, relocated bool) {
	rt, rn, rt2 := int(x&31), int(x>>5&31), int(x>>10&31)
	s.r[31] = address{}
	if x&0x3b000000 == 0x18000000 { // literal
		s.r[rt] = address{}
		return
	}
	imm, typ, back := arm64Access(x)
	vector, pair := x>>26&1 == 1, x>>27&7 == 5
	plain := pair || x&0x3b000000 == 0x39000000 || x&0x3b200000 == 0x38000000 || x&0x3b200c00 == 0x38200800
	load := !plain || x>>22&1 == 1 || !pair && x>>23&1 == 1
	base := s.r[rn]
	if base.known && !relocated {
		t.note(in, typ, base, imm, typ != 0)
	}
	if !vector {
		used := []int{rt}
		if pair {
			used = append(used, rt2)
		}
		if !plain || x&0x3b200c00 == 0x38200800 {
			used = append(used, int(x>>16&31))
		}
		for _, r := range used {
			switch {
			case load && r != int(x>>16&31) || !plain:
				t.lose(s.r[r])
				s.r[r] = address{}
			case rn == 31 && !load:
				t.spill(s.r[r])
			default:
				t.lose(s.r[r])
			}
		}
	}
	if back {
		t.lose(base)
		s.r[rn] = address{}
	}
	s.r[31] = address{}
}

// arm64Access tells the immediate of a load or store, the type of its field (0
// if it has none), and whether the base is written back.
func arm64Access(x uint32) (imm int64, typ uint32, back bool) {
	vector := x>>26&1 == 1
	switch {
	case x&0x3b000000 == 0x39000000: // unsigned offset
		scale := x >> 30
		if vector && x>>23&1 == 1 {
			scale = 4
		}
		types := [...]elf.R_AARCH64{
			elf.R_AARCH64_LDST8_ABS_LO12_NC, elf.R_AARCH64_LDST16_ABS_LO12_NC, elf.R_AARCH64_LDST32_ABS_LO12_NC,
			elf.R_AARCH64_LDST64_ABS_LO12_NC, elf.R_AARCH64_LDST128_ABS_LO12_NC,
		}
		return int64(x>>10&0xfff) << scale, uint32(types[scale]), false
	case x&0x3b200000 == 0x38000000: // imm9
		imm = int64(int32(x<<11) >> 23)
		switch x >> 10 & 3 {
		case 1: // post
			return 0, 0, true
		case 3: // pre
			return imm, 0, true
		}
		return imm, arm64Imm9, false
	case x&0x3a000000 == 0x28000000: // pairs
		scale := 2 + x>>31
		if vector {
			scale = 2 + x>>30
		}
		imm = int64(int32(x<<10)>>25) << scale
		switch x >> 23 & 3 {
		case 1:
			return 0, 0, true
		case 3:
			return imm, 0, true
		}
		return imm, arm64Imm7, false
	case x&0xbf800000 == 0x0c800000, x&0xbf800000 == 0x0d800000: // vectors, post-indexed
		return 0, 0, true
	}
	return 0, 0, false
}

// note keeps a derived reference. What the immediate of an access without a
// field is made of cannot be rewritten; its address is then one that escaped.
func (t *tracker) note(in insn, typ uint32, a address, imm int64, field bool) {
	if !field {
		t.lose(a)
		return
	}
	if !t.final {
		return
	}
	r := ref{off: uint64(in.off), typ: typ, sec: a.sec, add: a.off + imm, derived: true, implicit: true, mem: true}
	t.s.settle(&r)
	if r.to == nil {
		t.lose(a)
		return
	}
	r.how = &derivation{imm: imm, base: t.s.at(a.sec, uint64(max(a.off, 0)))}
	if r.how.base != nil {
		r.how.baseAdd = a.off - int64(r.how.base.off)
	}
	if a.from > 0 {
		t.served[a.from-1] = true
	}
	t.derived = append(t.derived, r)
}

// mark sets what was found: addresses that only served accesses count no more,
// and the accesses count instead.
func (t *tracker) mark() {
	for i := range t.p.refs {
		r := &t.p.refs[i]
		if t.s.isBase(r) {
			r.anchor = !t.escaped[i] && !(t.passed[i] && !t.served[i])
			r.spilled = t.spilled[i]
		}
	}
	merged := make([]ref, 0, len(t.p.refs)+len(t.derived))
	i := 0
	for _, d := range t.derived {
		for i < len(t.p.refs) && t.p.refs[i].off <= d.off {
			merged = append(merged, t.p.refs[i])
			i++
		}
		merged = append(merged, d)
	}
	t.p.refs = append(merged, t.p.refs[i:]...)
}
