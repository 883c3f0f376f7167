//go:build !arm64

package process

import (
	"encoding/binary"
)

// A function that is called all the time is left by its last few instructions:
// registers are moved and taken off the stack, and it returns. Those that write
// no memory and no flags are worked out here, and the thread is given the
// registers that it would have. That is one act, after which the thread stands
// as if it had run itself; a step by the processor would not be (see stepOut).
//
// Known are, by the encodings of the Intel SDM, volume 2: ret, leave, pop, nop,
// endbr64, jmp rel8 and rel32, lea, mov between registers, mov of a constant;
// with operands of 32 and 64 bits.

// The longest instruction.
const maxInstruction = 15

// emulate works out the instruction that code starts with, for a thread whose
// next instruction that is. load reads a word of memory. It reports false, and
// has changed nothing, if it does not know the instruction.
func (r *registers) emulate(code []byte, load func(addr uint64) (uint64, bool)) bool {
	in := instruction{code: code}
	in.prefixes()
	next := *r
	if !next.execute(&in, load) || in.short {
		return false
	}
	if !in.branch {
		next.Rip += uint64(in.at)
	}
	*r = next
	return true
}

func (r *registers) execute(in *instruction, load func(addr uint64) (uint64, bool)) bool {
	const operand64 = 8 // REX.W
	pop := func(to *uint64) bool {
		v, ok := load(r.Rsp)
		if ok {
			r.Rsp += 8
			*to = v
		}
		return ok
	}
	set := func(n byte, v uint64) {
		if in.rex&operand64 == 0 {
			v = uint64(uint32(v))
		}
		*r.general64(n) = v
	}
	switch op := in.byte(); {
	case op == 0xc3: // ret
		in.branch = true
		return pop(&r.Rip)
	case op == 0xc9: // leave
		r.Rsp = r.Rbp
		return pop(&r.Rbp)
	case op >= 0x58 && op <= 0x5f: // pop
		var v uint64
		ok := pop(&v)
		*r.general64(op&7 | in.rex&1<<3) = v
		return ok
	case op == 0x90 && in.rex&1 == 0: // nop
	case op == 0xeb: // jmp rel8
		in.branch = true
		d := int8(in.byte())
		r.Rip += uint64(in.at) + uint64(int64(d))
	case op == 0xe9: // jmp rel32
		in.branch = true
		d := int32(in.u32())
		r.Rip += uint64(in.at) + uint64(int64(d))
	case op == 0x8d: // lea
		reg, addr, ok := in.memory(r)
		set(reg, addr)
		return ok
	case op == 0x89, op == 0x8b: // mov
		reg, rm, ok := in.registers()
		if op == 0x89 {
			reg, rm = rm, reg
		}
		set(reg, *r.general64(rm))
		return ok
	case op >= 0xb8 && op <= 0xbf && in.rex&operand64 == 0: // mov imm32
		*r.general64(op&7 | in.rex&1<<3) = uint64(in.u32())
	case op == 0x0f && in.peek() == 0x1f: // nop with operand
		in.byte()
		_, _, _ = in.memory(r)
	default:
		return false
	}
	return true
}

// instruction is the bytes of one, as far as they are read.
type instruction struct {
	code   []byte
	at     int
	rex    byte
	branch bool
	short  bool // more was read than there is
}

func (in *instruction) byte() byte {
	if in.at >= min(len(in.code), maxInstruction) {
		in.short = true
		return 0
	}
	in.at++
	return in.code[in.at-1]
}

func (in *instruction) peek() byte {
	if in.at >= len(in.code) {
		return 0
	}
	return in.code[in.at]
}

func (in *instruction) u32() uint32 {
	var b [4]byte
	for i := range b {
		b[i] = in.byte()
	}
	return binary.LittleEndian.Uint32(b[:])
}

// prefixes reads a REX prefix, and takes endbr64 and the prefix of "rep ret" for
// the nop and ret that they are.
func (in *instruction) prefixes() {
	endbr := [4]byte{0xf3, 0x0f, 0x1e, 0xfa}
	if len(in.code) >= len(endbr) && [4]byte(in.code) == endbr {
		in.code, in.at = append([]byte{0xf3, 0x0f, 0x1e}, 0x90), 3
		return
	}
	if len(in.code) > 1 && in.code[0] == 0xf3 && in.code[1] == 0xc3 {
		in.at = 1
		return
	}
	if b := in.peek(); b&0xf0 == 0x40 {
		in.rex = in.byte()
	}
}

// registers reads a ModRM byte that names two registers.
func (in *instruction) registers() (reg, rm byte, ok bool) {
	m := in.byte()
	return m>>3&7 | in.rex&4<<1, m&7 | in.rex&1<<3, m>>6 == 3
}

// memory reads a ModRM byte that names a register and an address, and works that
// out.
func (in *instruction) memory(r *registers) (reg byte, addr uint64, ok bool) {
	const sib, none, disp32 = 4, 5, 2
	m := in.byte()
	mod, base := m>>6, m&7
	reg = m>>3&7 | in.rex&4<<1
	relative := mod == 0 && base == none
	absolute := false
	switch {
	case mod == 3:
		return reg, 0, false
	case base == sib:
		s := in.byte()
		base = s & 7
		absolute = mod == 0 && base == none
		if index := s>>3&7 | in.rex&2<<2; index != sib {
			addr = *r.general64(index) << (s >> 6)
		}
	}
	if !relative && !absolute {
		addr += *r.general64(base | in.rex&1<<3)
	}
	switch {
	case relative, absolute, mod == disp32:
		addr += uint64(int64(int32(in.u32())))
	case mod == 1:
		addr += uint64(int64(int8(in.byte())))
	}
	if relative {
		addr += r.Rip + uint64(in.at)
	}
	return reg, addr, true
}

// general64 is the register of a number, as instructions count them.
func (r *registers) general64(n byte) *uint64 {
	return [...]*uint64{&r.Rax, &r.Rcx, &r.Rdx, &r.Rbx, &r.Rsp, &r.Rbp, &r.Rsi, &r.Rdi,
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15}[n&15]
}
