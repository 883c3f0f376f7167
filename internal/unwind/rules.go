package unwind

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math"
)

// Rules say how the caller of a function is found from one of its instructions,
// as far as it takes general registers.
type Rules struct {
	row
	keyB bool // signatures are of key B (arm64)
}

// Called are the rules of a function that has just been called. ok is false for a
// machine that is not known.
func Called(m elf.Machine) (r Rules, ok bool) {
	t, ok := machines[m]
	if !ok {
		return r, false
	}
	r.cfa = rule{kind: ruleRegister, register: t.sp}
	if !t.leaf { // the call has pushed the return address
		r.cfa.offset = wordLen
		r.rules[t.ra] = rule{kind: ruleOffset, offset: -wordLen}
	}
	return r, true
}

const (
	wordLen     = 8
	dataFactor  = -wordLen // of offsets, in the entries that are written
	advanceMask = 0x3f     // what an advance of one byte has room for
)

// At returns the rules of an instruction. The error says why there are none.
func (t *Table) At(addr uint64) (Rules, error) {
	if addr < t.start || addr >= t.end {
		return Rules{}, fmt.Errorf("the table is not about %#x", addr)
	}
	d, err := t.find(addr)
	if err != nil {
		return Rules{}, err
	}
	if d.signal {
		return Rules{}, fmt.Errorf("the frame at %#x is the kernel's", addr)
	}
	row, err := d.row(addr)
	if err != nil {
		return Rules{}, err
	}
	return Rules{*row, d.keyB}, nil
}

// String shows rules as readelf does: where the frame ends, by a register, and
// where other registers of the caller are, by their DWARF numbers, counted from
// there (c-16).
func (r Rules) String() string {
	s := r.cfa.String()
	for n, rule := range r.rules {
		if rule.kind != ruleSame {
			s += fmt.Sprintf(" r%d=%v", n, rule)
		}
	}
	if r.signed {
		s += " signed"
	}
	return s
}

func (r rule) String() string {
	switch r.kind {
	case ruleSame:
		return "s"
	case ruleUndefined:
		return "u"
	case ruleOffset:
		return fmt.Sprintf("c%+d", r.offset)
	case ruleValue:
		return fmt.Sprintf("v%+d", r.offset)
	case ruleRegister:
		return fmt.Sprintf("r%d%+d", r.register, r.offset)
	}
	return fmt.Sprintf("exp(%x)", r.code)
}

// Pushed are the rules with n more bytes on the stack.
func (r Rules) Pushed(m elf.Machine, n int) (Rules, error) {
	switch sp := machines[m].sp; {
	case n == 0 || r.cfa.kind == ruleRegister && r.cfa.register != sp:
	case r.cfa.kind != ruleRegister:
		return r, fmt.Errorf("an expression tells where its frame is")
	default:
		r.cfa.offset += int64(n)
	}
	return r, nil
}

// ReturnIn are the rules while a register has the return address.
func (r Rules) ReturnIn(m elf.Machine, register uint64) Rules {
	r.rules[machines[m].ra] = rule{kind: ruleRegister, register: register}
	return r
}

// SharesCommon reports whether functions with these rules can be described with the same common entry.
func (r Rules) SharesCommon(other Rules) bool { return r.keyB == other.keyB }

// Common returns an entry of .eh_frame that all descriptions of code with such
// rules can share.
func (r Rules) Common(m elf.Machine) []byte {
	t, first := machines[m], Rules{}
	b := append([]byte{0, 0, 0, 0, 1}, "zR"...)
	if r.keyB {
		b = append(b, 'B')
	}
	b = appendSigned(append(b, 0, byte(t.unit)), dataFactor)
	b = append(b, byte(t.ra), 1, pePCRel|peS4)
	called, _ := Called(m)
	return entryOf(append(b, first.become(t, called)...))
}

// A Stretch is where rules begin to hold, so many bytes from the start of code.
type Stretch struct {
	Off int
	Rules
}

// The place of the start of the code in what Describe returns: four bytes that
// the distance of the code from them is to be added to.
const DescribedAt = 8

// Describe returns an entry of .eh_frame for code of a size, whose rules are
// known from its first byte on. back is how far before the entry its common entry
// stands.
func Describe(m elf.Machine, back, size int, list []Stretch) ([]byte, error) {
	t := machines[m]
	b := binary.LittleEndian.AppendUint32(nil, uint32(back+4))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = append(b, 0)
	now, _ := Called(m)
	at := 0
	for _, s := range list {
		if err := s.factored(); err != nil {
			return nil, err
		}
		change := now.become(t, s.Rules)
		if len(change) == 0 {
			continue
		}
		switch n := uint64(s.Off-at) / t.unit; {
		case n > math.MaxUint16:
			return nil, fmt.Errorf("code of %#x bytes", s.Off-at)
		case n > advanceMask:
			b = append(b, cfaAdvance2, byte(n), byte(n>>8))
		case n > 0:
			b = append(b, cfaAdvance|byte(n))
		}
		at, now = s.Off, s.Rules
		b = append(b, change...)
	}
	return entryOf(b), nil
}

// factored makes sure that offsets are multiples of their factor.
func (r Rules) factored() error {
	for n, rule := range r.rules {
		if rule.offset%wordLen != 0 {
			return fmt.Errorf("register %d is kept at %+d, which is no multiple of %d", n, rule.offset, wordLen)
		}
	}
	if r.cfa.offset < 0 && r.cfa.offset%wordLen != 0 {
		return fmt.Errorf("its frame is at %+d, which is no multiple of %d", r.cfa.offset, wordLen)
	}
	return nil
}

// entryOf completes an entry: its length, and instructions that do nothing up to
// a multiple of 8.
func entryOf(body []byte) []byte {
	for len(body)%8 != 4 {
		body = append(body, cfaNop)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// become returns the instructions that lead from rules to others.
func (r Rules) become(t *traits, to Rules) (b []byte) {
	if !r.cfa.equal(to.cfa) {
		switch c := to.cfa; {
		case c.kind != ruleRegister:
			b = block(append(b, cfaDefExpr), c.code)
		case r.cfa.kind == ruleRegister && c.register == r.cfa.register && c.offset >= 0:
			b = binary.AppendUvarint(append(b, cfaDefOffset), uint64(c.offset))
		case c.offset >= 0:
			b = binary.AppendUvarint(binary.AppendUvarint(append(b, cfaDef), c.register), uint64(c.offset))
		default:
			b = appendSigned(binary.AppendUvarint(append(b, cfaDefSF), c.register), c.offset/dataFactor)
		}
	}
	for n := range to.rules {
		if !r.rules[n].equal(to.rules[n]) {
			b = to.rules[n].set(b, byte(n))
		}
	}
	if r.signed != to.signed {
		b = append(b, cfaNegateState)
	}
	return b
}

// set appends the instruction that gives a register a rule.
func (r rule) set(b []byte, n byte) []byte {
	switch r.kind {
	case ruleUndefined:
		return append(b, cfaUndefined, n)
	case ruleOffset:
		return appendSigned(append(b, cfaOffsetSF, n), r.offset/dataFactor)
	case ruleValue:
		return appendSigned(append(b, cfaValOffsetSF, n), r.offset/dataFactor)
	case ruleRegister:
		return binary.AppendUvarint(append(b, cfaRegister, n), r.register)
	case ruleExpression:
		return block(append(b, cfaExpr, n), r.code)
	case ruleValueExpression:
		return block(append(b, cfaValExpr, n), r.code)
	}
	return append(b, cfaSame, n)
}

func block(b, code []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(code))), code...)
}

func (r rule) equal(o rule) bool {
	return r.kind == o.kind && r.register == o.register && r.offset == o.offset && string(r.code) == string(o.code)
}

// appendSigned appends a signed number of DWARF.
func appendSigned(b []byte, v int64) []byte {
	for {
		low := byte(v & 0x7f)
		v >>= 7
		if v == 0 && low&0x40 == 0 || v == -1 && low&0x40 != 0 {
			return append(b, low)
		}
		b = append(b, low|0x80)
	}
}
