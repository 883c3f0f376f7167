package kmod

import (
	"debug/elf"
)

// The registers of programs on x86-64: s0 to s4 are rbx and r12 to r15, which
// functions keep (System V ABI); rbp is left alone, for the unwinder.
var x86Regs = [...]byte{s0: 3, s1: 12, s2: 13, s3: 14, s4: 15, a0: 7, a1: 6, a2: 2, a3: 1, ret: 0, t0: 8, t1: 9, t2: 10, t3: 11}

// x86Frame is how far a function lowers the stack pointer: its room and five
// registers. With the return address that keeps it a multiple of 16.
const x86Frame = frameRoom + 5*8

// x86RM encodes an operand at base+disp, with reg in the other field.
func x86RM(prefix byte, opcode []byte, r byte, base reg, disp int) []byte {
	b := x86Regs[base]
	out := []byte{prefix | r>>3<<2 | b>>3}
	out = append(out, opcode...)
	out = append(out, 0x80|r&7<<3|b&7)
	if b&7 == 4 {
		out = append(out, 0x24)
	}
	return le.AppendUint32(out, uint32(int32(disp)))
}

// x86RR encodes two registers: the first in the r/m field.
func x86RR(prefix, opcode byte, rm, r reg) []byte {
	m, g := x86Regs[rm], x86Regs[r]
	return []byte{prefix | g>>3<<2 | m>>3, opcode, 0xc0 | g&7<<3 | m&7}
}

// x86Stack encodes a move between a register and the stack.
func x86Stack(opcode byte, r reg, disp byte) []byte {
	g := x86Regs[r]
	return []byte{0x48 | g>>3<<2, opcode, 0x44 | g&7<<3, 0x24, disp}
}

func x86Enter(bare bool) encoded {
	if bare {
		return encoded{bytes: []byte{0xf3, 0x0f, 0x1e, 0xfa}} // endbr64
	}
	b := []byte{
		0xf3, 0x0f, 0x1e, 0xfa, // endbr64
		0x48, 0x83, 0xec, x86Frame, // sub $x86Frame, %rsp
	}
	frames := []frame{{0, 0}, {len(b), x86Frame}}
	for i := range 5 {
		b = append(b, x86Stack(0x89, s0+reg(i), byte(frameRoom+8*i))...) // mov %s, frameRoom+8*i(%rsp)
	}
	return encoded{bytes: b, sites: code{frames: frames}}
}

// x86Leave restores the registers and returns.
func x86Leave(e *emitter) encoded {
	var b []byte
	for i := range 5 {
		b = append(b, x86Stack(0x8b, s0+reg(i), byte(frameRoom+8*i))...) // mov frameRoom+8*i(%rsp), %s
	}
	b = append(b, 0x48, 0x83, 0xc4, x86Frame) // add $x86Frame, %rsp
	at := len(b)
	r := x86ReturnCode(e)
	out := encoded{bytes: append(b, r.bytes...), rels: r.rels, sites: code{returns: r.sites.returns, frames: []frame{{at, 0}}}}
	for i := range out.rels {
		out.rels[i].at += uint64(at)
	}
	for i := range out.sites.returns {
		out.sites.returns[i] += at
	}
	// What follows is reached by jumps from within the frame.
	out.sites.frames = append(out.sites.frames, frame{len(out.bytes), x86Frame})
	return out
}

// x86ReturnCode is a return as the kernel wants it.
func x86ReturnCode(e *emitter) encoded {
	if !e.s.Rethunk {
		return encoded{bytes: []byte{
			0xc3, // ret
			0xcc, // int3, against straight-line speculation
		}}
	}
	return encoded{
		bytes: []byte{
			0xe9, 0, 0, 0, 0, // jmp __x86_return_thunk
			0xcc, // int3
		},
		rels:  []wish{{1, uint32(elf.R_X86_64_PLT32), returnThunk, -4}},
		sites: code{returns: []int{0}},
	}
}

func x86Encode(e *emitter, o op) encoded {
	const w = 0x48 // REX.W
	r := x86Regs[o.a]
	jump := func(test []byte, cc byte) encoded {
		b := append(test, 0x0f, cc, 0, 0, 0, 0) // jcc
		return encoded{bytes: b, field: len(b) - 4}
	}
	switch o.do {
	case opMove:
		return encoded{bytes: x86RR(w, 0x89, o.a, o.b)} // mov %b, %a
	case opNumber:
		return encoded{bytes: le.AppendUint32([]byte{w | r>>3, 0xc7, 0xc0 | r&7}, uint32(int32(o.n)))} // mov $n, %a
	case opAddress:
		return encoded{bytes: []byte{w | r>>3, 0xc7, 0xc0 | r&7, 0, 0, 0, 0}, rels: []wish{{3, uint32(elf.R_X86_64_32S), o.to, 0}}} // mov $to, %a
	case opRoom:
		return encoded{bytes: x86Stack(0x8d, o.a, 0)} // lea 0(%rsp), %a
	case opLoad:
		return encoded{bytes: x86RM(w, []byte{0x8b}, r, o.b, o.n)} // mov n(%b), %a
	case opLoad8:
		return encoded{bytes: x86RM(w, []byte{0x0f, 0xb6}, r, o.b, o.n)} // movzbq n(%b), %a
	case opStore:
		return encoded{bytes: x86RM(w, []byte{0x89}, r, o.b, o.n)} // mov %a, n(%b)
	case opStore8:
		return encoded{bytes: append(x86RM(0x40, []byte{0xc6}, 0, o.b, o.n), byte(o.m))} // movb $m, n(%b)
	case opAdd:
		return encoded{bytes: le.AppendUint32([]byte{w | r>>3, 0x81, 0xc0 | r&7}, uint32(int32(o.n)))} // add $n, %a
	case opSum:
		return encoded{bytes: x86RR(w, 0x01, o.a, o.b)} // add %b, %a
	case opLess:
		return encoded{bytes: x86RR(w, 0x29, o.a, o.b)} // sub %b, %a
	case opUp:
		return encoded{bytes: []byte{w | r>>3, 0xc1, 0xe0 | r&7, byte(o.n)}} // shl $n, %a
	case opDown:
		return encoded{bytes: []byte{w | r>>3, 0xc1, 0xe8 | r&7, byte(o.n)}} // shr $n, %a
	case opCall:
		return encoded{bytes: []byte{0xe8, 0, 0, 0, 0}, rels: []wish{{1, uint32(elf.R_X86_64_PLT32), o.to, -4}}, sites: code{calls: []int{0}}} // call to
	case opLock:
		return encoded{bytes: []byte{
			0xb8, 1, 0, 0, 0, // mov $1, %eax
			0x87, 0x05, 0, 0, 0, 0, // xchg %eax, to(%rip)
		}, rels: []wish{{7, uint32(elf.R_X86_64_PC32), o.to, -4}}}
	case opUnlock:
		return encoded{bytes: []byte{0xc7, 0x05, 0, 0, 0, 0, 0, 0, 0, 0}, rels: []wish{{2, uint32(elf.R_X86_64_PC32), o.to, -8}}} // movl $0, to(%rip)
	case opJump:
		return encoded{bytes: []byte{0xe9, 0, 0, 0, 0}, field: 1} // jmp to
	case opIfSame:
		return jump(x86RR(w, 0x39, o.a, o.b), 0x84) // cmp %b, %a; je to
	case opIfOther:
		return jump(x86RR(w, 0x39, o.a, o.b), 0x85) // cmp %b, %a; jne to
	case opIfBelow:
		return jump(x86RR(w, 0x39, o.a, o.b), 0x82) // cmp %b, %a; jb to
	case opIfZero:
		return jump(x86RR(w, 0x85, o.a, o.a), 0x84) // test %a, %a; je to
	case opIfNot:
		return jump(x86RR(w, 0x85, o.a, o.a), 0x85) // test %a, %a; jne to
	case opIfError:
		return jump(x86RR(0x40, 0x85, o.a, o.a), 0x85) // test %a, %a; jne to
	case opReturn:
		return x86Leave(e)
	case opReturnBare:
		return x86ReturnCode(e)
	}
	return encoded{} // a label; stores are seen in their order
}

// x86Branch fills the field of a branch: the distance from its end.
func x86Branch(b []byte, field, distance int) {
	le.PutUint32(b[field:], uint32(int32(distance-field-4)))
}
