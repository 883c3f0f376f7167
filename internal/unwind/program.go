package unwind

import "fmt"

// The rules of a register: how its value in the caller is found.
const (
	ruleSame            = iota // it was not changed; of a frame: nothing is told
	ruleUndefined              // it is lost; of the return address: there is no caller
	ruleOffset                 // in memory, so far from the frame's address
	ruleValue                  // so far from the frame's address
	ruleRegister               // in another register
	ruleExpression             // in memory, where an expression says
	ruleValueExpression        // what an expression says
)

type rule struct {
	kind     uint8
	register uint64
	offset   int64
	code     []byte
}

// row is what holds at an instruction. cfa is the address that frames are
// described by: ruleRegister (and an offset) or ruleExpression.
type row struct {
	cfa    rule
	rules  [columns]rule
	signed bool // the return address is (arm64)
}

// Instructions (DWARF 5, 7.24; extensions of GNU and Arm). Those of two bits
// have an operand in the other six.
const (
	cfaAdvance     = 0x40
	cfaOffset      = 0x80
	cfaRestore     = 0xc0
	cfaNop         = 0x00
	cfaSetLoc      = 0x01
	cfaAdvance1    = 0x02
	cfaAdvance2    = 0x03
	cfaAdvance4    = 0x04
	cfaOffsetExt   = 0x05
	cfaRestoreExt  = 0x06
	cfaUndefined   = 0x07
	cfaSame        = 0x08
	cfaRegister    = 0x09
	cfaRemember    = 0x0a
	cfaRestoreAll  = 0x0b
	cfaDef         = 0x0c
	cfaDefRegister = 0x0d
	cfaDefOffset   = 0x0e
	cfaDefExpr     = 0x0f
	cfaExpr        = 0x10
	cfaOffsetSF    = 0x11
	cfaDefSF       = 0x12
	cfaDefOffsetSF = 0x13
	cfaValOffset   = 0x14
	cfaValOffsetSF = 0x15
	cfaValExpr     = 0x16
	cfaNegateState = 0x2d // arm64: the return address is signed, or not any more
	cfaArgsSize    = 0x2e
)

// maxRemembered bounds the rows that a program keeps to go back to.
const maxRemembered = 64

// program carries out the instructions of a description.
type program struct {
	*description
	r          reader
	row        row
	first      *row // what the common entry says, to be restored
	loc        uint64
	remembered []row
}

// row returns the rules that hold at an address of the function.
func (d *description) row(addr uint64) (*row, error) {
	p := &program{description: d, loc: d.start}
	p.r = reader{b: d.common.program}
	if err := p.run(^uint64(0)); err != nil {
		return nil, err
	}
	first := p.row
	p.first, p.r = &first, reader{b: d.program}
	if err := p.run(addr); err != nil {
		return nil, err
	}
	return &p.row, nil
}

// run carries out instructions until they are about what comes after an address.
func (p *program) run(addr uint64) error {
	for len(p.r.b) > 0 {
		op := p.r.byte()
		advance, isAdvance := p.advance(op)
		switch {
		case isAdvance && p.first == nil:
			return fmt.Errorf("a common entry is about one place")
		case isAdvance:
			if p.loc += advance; p.loc > addr {
				return p.ended()
			}
			continue
		}
		known := p.ofFrame(op) || p.ofRegister(op)
		if !known {
			return fmt.Errorf("instruction %#x is not known", op)
		}
		if p.r.bad {
			return p.ended()
		}
	}
	return p.ended()
}

func (p *program) ended() error {
	if p.r.bad {
		return fmt.Errorf("its instructions are cut short or contradict each other")
	}
	return nil
}

// advance returns how far an instruction goes on in the code.
func (p *program) advance(op uint8) (uint64, bool) {
	n := uint64(0)
	switch {
	case op&0xc0 == cfaAdvance:
		n = uint64(op & 0x3f)
	case op == cfaAdvance1:
		n = p.r.number(1, false)
	case op == cfaAdvance2:
		n = p.r.number(2, false)
	case op == cfaAdvance4:
		n = p.r.number(4, false)
	default:
		return 0, false
	}
	return n * p.code, true
}

// ofFrame carries out instructions about the frame as a whole.
func (p *program) ofFrame(op uint8) bool {
	cfa := &p.row.cfa
	switch op {
	case cfaNop:
	case cfaNegateState: // signatures are taken off whether there are some or not
		p.row.signed = !p.row.signed
	case cfaArgsSize:
		p.r.uleb()
	case cfaDef:
		*cfa = rule{kind: ruleRegister, register: p.r.uleb(), offset: int64(p.r.uleb())}
	case cfaDefSF:
		*cfa = rule{kind: ruleRegister, register: p.r.uleb(), offset: int64(p.r.sleb() * p.data)}
	case cfaDefRegister:
		cfa.register = p.r.uleb()
		p.r.bad = p.r.bad || cfa.kind != ruleRegister
	case cfaDefOffset:
		cfa.offset = int64(p.r.uleb())
		p.r.bad = p.r.bad || cfa.kind != ruleRegister
	case cfaDefOffsetSF:
		cfa.offset = int64(p.r.sleb() * p.data)
		p.r.bad = p.r.bad || cfa.kind != ruleRegister
	case cfaDefExpr:
		*cfa = rule{kind: ruleExpression, code: p.r.take(p.r.uleb())}
	case cfaRemember:
		p.remembered = append(p.remembered, p.row)
		p.r.bad = p.r.bad || len(p.remembered) > maxRemembered
	case cfaRestoreAll:
		if len(p.remembered) == 0 {
			p.r.bad = true
			break
		}
		last := len(p.remembered) - 1
		p.row, p.remembered = p.remembered[last], p.remembered[:last]
	default:
		return false
	}
	return true
}

// ofRegister carries out instructions about one register.
func (p *program) ofRegister(op uint8) bool {
	switch op & 0xc0 {
	case cfaOffset:
		p.set(uint64(op&0x3f), rule{kind: ruleOffset, offset: int64(p.r.uleb() * p.data)})
		return true
	case cfaRestore:
		p.restore(uint64(op & 0x3f))
		return true
	}
	if op < cfaOffsetExt || op > cfaValExpr {
		return false
	}
	n := p.r.uleb()
	switch op {
	case cfaOffsetExt:
		p.set(n, rule{kind: ruleOffset, offset: int64(p.r.uleb() * p.data)})
	case cfaOffsetSF:
		p.set(n, rule{kind: ruleOffset, offset: int64(p.r.sleb() * p.data)})
	case cfaValOffset:
		p.set(n, rule{kind: ruleValue, offset: int64(p.r.uleb() * p.data)})
	case cfaValOffsetSF:
		p.set(n, rule{kind: ruleValue, offset: int64(p.r.sleb() * p.data)})
	case cfaRestoreExt:
		p.restore(n)
	case cfaUndefined:
		p.set(n, rule{kind: ruleUndefined})
	case cfaSame:
		p.set(n, rule{kind: ruleSame})
	case cfaRegister:
		p.set(n, rule{kind: ruleRegister, register: p.r.uleb()})
	case cfaExpr:
		p.set(n, rule{kind: ruleExpression, code: p.r.take(p.r.uleb())})
	case cfaValExpr:
		p.set(n, rule{kind: ruleValueExpression, code: p.r.take(p.r.uleb())})
	default:
		return false
	}
	return true
}

func (p *program) set(n uint64, r rule) {
	if n < columns {
		p.row.rules[n] = r
	}
}

// restore goes back to what the common entry says of a register.
func (p *program) restore(n uint64) {
	switch {
	case p.first == nil:
		p.r.bad = true
	case n < columns:
		p.row.rules[n] = p.first.rules[n]
	}
}
