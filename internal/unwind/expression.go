package unwind

import "fmt"

// Operations of expressions (DWARF 5, 2.5 and 7.7.1). Jumps are not among them:
// nobody needs them to describe frames, and without them every expression ends.
const (
	opDeref      = 0x06
	opConst1u    = 0x08 // to opConst8s: 1, 2, 4 and 8 bytes, unsigned and signed
	opConst8s    = 0x0f
	opConstu     = 0x10
	opConsts     = 0x11
	opDup        = 0x12
	opDrop       = 0x13
	opSwap       = 0x16
	opAnd        = 0x1a
	opMinus      = 0x1c
	opMul        = 0x1e
	opNeg        = 0x1f
	opNot        = 0x20
	opOr         = 0x21
	opPlus       = 0x22
	opPlusUconst = 0x23
	opShl        = 0x24
	opShr        = 0x25
	opShra       = 0x26
	opXor        = 0x27
	opEq         = 0x29
	opGe         = 0x2a
	opGt         = 0x2b
	opLe         = 0x2c
	opLt         = 0x2d
	opNe         = 0x2e
	opLit0       = 0x30
	opLit31      = 0x4f
	opBreg0      = 0x70
	opBreg31     = 0x8f
	opBregx      = 0x92
	opNop        = 0x96
)

const (
	maxExpression = 256 // bytes
	maxStack      = 64  // values
)

// expression is one that is evaluated.
type expression struct {
	u     *Unwinder
	regs  *Registers
	r     reader
	stack []uint64
}

// evaluate returns the value of an expression. first, if there is one, is on the
// stack when it begins.
func (u *Unwinder) evaluate(code []byte, regs *Registers, first *uint64) (uint64, error) {
	if len(code) > maxExpression {
		return 0, fmt.Errorf("expression of %d bytes", len(code))
	}
	e := &expression{u: u, regs: regs, r: reader{b: code}}
	if first != nil {
		e.push(*first)
	}
	for len(e.r.b) > 0 {
		op := e.r.byte()
		if err := e.operate(op); err != nil {
			return 0, err
		}
		if e.r.bad || len(e.stack) > maxStack {
			return 0, fmt.Errorf("expression %x is not understood", code)
		}
	}
	v := e.pop()
	if e.r.bad {
		return 0, fmt.Errorf("expression %x has no value", code)
	}
	return v, nil
}

func (e *expression) push(v uint64) { e.stack = append(e.stack, v) }

func (e *expression) pop() uint64 {
	if len(e.stack) == 0 {
		e.r.bad = true
		return 0
	}
	last := len(e.stack) - 1
	v := e.stack[last]
	e.stack = e.stack[:last]
	return v
}

func (e *expression) operate(op uint8) error {
	switch {
	case op >= opConst1u && op <= opConst8s:
		e.push(e.r.number(1<<((op-opConst1u)/2), op&1 != 0))
	case op >= opLit0 && op <= opLit31:
		e.push(uint64(op - opLit0))
	case op >= opBreg0 && op <= opBreg31:
		return e.register(uint64(op - opBreg0))
	case op == opBregx:
		return e.register(e.r.uleb())
	case op == opConstu:
		e.push(e.r.uleb())
	case op == opConsts:
		e.push(e.r.sleb())
	case op == opDeref:
		v, err := e.u.word(e.pop())
		e.push(v)
		return err
	case op == opNop:
	default:
		return e.compute(op)
	}
	return nil
}

// register pushes what a register holds, and an offset.
func (e *expression) register(n uint64) error {
	v, err := e.regs.value(n)
	e.push(v + e.r.sleb())
	return err
}

// compute carries out operations on values of the stack only.
func (e *expression) compute(op uint8) error {
	b := e.pop()
	switch op {
	case opDrop:
		return nil
	case opDup:
		e.push(b)
		e.push(b)
		return nil
	case opNeg:
		e.push(-b)
		return nil
	case opNot:
		e.push(^b)
		return nil
	case opPlusUconst:
		e.push(b + e.r.uleb())
		return nil
	}
	a := e.pop()
	switch op {
	case opSwap:
		e.push(b)
		e.push(a)
	case opAnd:
		e.push(a & b)
	case opOr:
		e.push(a | b)
	case opXor:
		e.push(a ^ b)
	case opPlus:
		e.push(a + b)
	case opMinus:
		e.push(a - b)
	case opMul:
		e.push(a * b)
	case opShl:
		e.push(a << b)
	case opShr:
		e.push(a >> b)
	case opShra:
		e.push(uint64(int64(a) >> b))
	default:
		return e.compare(op, int64(a), int64(b))
	}
	return nil
}

func (e *expression) compare(op uint8, a, b int64) error {
	is := false
	switch op {
	case opEq:
		is = a == b
	case opNe:
		is = a != b
	case opGe:
		is = a >= b
	case opGt:
		is = a > b
	case opLe:
		is = a <= b
	case opLt:
		is = a < b
	default:
		return fmt.Errorf("operation %#x of expressions is not known", op)
	}
	v := uint64(0)
	if is {
		v = 1
	}
	e.push(v)
	return nil
}
