package kmod

import "debug/elf"

// The registers of programs on arm64: s0 to s4 are x19 to x23, which functions
// keep (AAPCS64). x16 and x17 are free.
var arm64Regs = [...]uint32{s0: 19, s1: 20, s2: 21, s3: 22, s4: 23, a0: 0, a1: 1, a2: 2, a3: 3, ret: 0, t0: 4, t1: 5, t2: 6, t3: 7}

// arm64Frame is how far a function lowers the stack pointer: the frame record,
// five registers and the room.
const (
	arm64Room  = 64
	arm64Frame = arm64Room + frameRoom
)

func arm64Words(w ...uint32) []byte {
	var b []byte
	for _, x := range w {
		b = le.AppendUint32(b, x)
	}
	return b
}

func arm64Enter(bare bool) encoded {
	if bare {
		return encoded{bytes: arm64Words(0xd503245f)} // bti c
	}
	return encoded{bytes: arm64Words(
		0xd503245f, // bti c
		0xa9ba7bfd, // stp x29, x30, [sp, #-96]!
		0x910003fd, // mov x29, sp
		0xa90153f3, // stp x19, x20, [sp, #16]
		0xa9025bf5, // stp x21, x22, [sp, #32]
		0xf9001bf7, // str x23, [sp, #48]
	)}
}

func arm64Leave() encoded {
	return encoded{bytes: arm64Words(
		0xa94153f3, // ldp x19, x20, [sp, #16]
		0xa9425bf5, // ldp x21, x22, [sp, #32]
		0xf9401bf7, // ldr x23, [sp, #48]
		0xa8c67bfd, // ldp x29, x30, [sp], #96
		0xd65f03c0, // ret
	)}
}

// arm64Page is the address of a symbol in a register, in two instructions.
func arm64Page(r uint32, to string) encoded {
	return encoded{
		bytes: arm64Words(
			0x90000000|r,      // adrp xr, to
			0x91000000|r<<5|r, // add xr, xr, :lo12:to
		),
		rels: []wish{{0, uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), to, 0}, {4, uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), to, 0}},
	}
}

func arm64Encode(_ *emitter, o op) encoded {
	a, b, n := arm64Regs[o.a], arm64Regs[o.b], uint32(o.n)
	words := func(w ...uint32) encoded { return encoded{bytes: arm64Words(w...)} }
	branch := func(w ...uint32) encoded { return encoded{bytes: arm64Words(w...), field: 4*len(w) - 4 + 1} }
	switch o.do {
	case opMove:
		return words(0xaa0003e0 | b<<16 | a) // mov a, b
	case opNumber:
		if o.n < 0 {
			return words(0x92800000 | ^n&0xffff<<5 | a) // mov a, #n (movn)
		}
		return words(0xd2800000 | n&0xffff<<5 | a) // mov a, #n
	case opAddress:
		return arm64Page(a, o.to)
	case opRoom:
		return words(0x910003e0 | arm64Room<<10 | a) // add a, sp, #room
	case opLoad:
		return words(0xf9400000 | n/8<<10 | b<<5 | a) // ldr a, [b, #n]
	case opLoad8:
		return words(0x39400000 | n<<10 | b<<5 | a) // ldrb a, [b, #n]
	case opStore:
		return words(0xf9000000 | n/8<<10 | b<<5 | a) // str a, [b, #n]
	case opStore8:
		return words(
			0x52800010|uint32(o.m)<<5, // mov w16, #m
			0x39000010|n<<10|b<<5,     // strb w16, [b, #n]
		)
	case opAdd:
		if o.n < 0 {
			return words(0xd1000000 | -n<<10 | a<<5 | a) // sub a, a, #-n
		}
		return words(0x91000000 | n<<10 | a<<5 | a) // add a, a, #n
	case opSum:
		return words(0x8b000000 | b<<16 | a<<5 | a) // add a, a, b
	case opLess:
		return words(0xcb000000 | b<<16 | a<<5 | a) // sub a, a, b
	case opUp:
		return words(0xd3400000 | (64-n)&63<<16 | (63-n)<<10 | a<<5 | a) // lsl a, a, #n
	case opDown:
		return words(0xd340fc00 | n<<16 | a<<5 | a) // lsr a, a, #n
	case opCall:
		return encoded{bytes: arm64Words(0x94000000), rels: []wish{{0, uint32(elf.R_AARCH64_CALL26), o.to, 0}}} // bl to
	case opLock:
		e := arm64Page(16, o.to)
		e.bytes = append(e.bytes, arm64Words(
			0x52800021, // mov w1, #1
			0x885ffe00, // ldaxr w0, [x16]
			0x8802fe01, // stlxr w2, w1, [x16]
			0x35ffffc2, // cbnz w2, .-8
		)...)
		return e
	case opUnlock:
		e := arm64Page(16, o.to)
		e.bytes = append(e.bytes, arm64Words(0x889ffe1f)...) // stlr wzr, [x16]
		return e
	case opFence:
		return words(0xd5033bbf) // dmb ish
	case opJump:
		return branch(0x14000000) // b to
	case opIfSame:
		return branch(0xeb00001f|b<<16|a<<5, 0x54000000) // cmp a, b; b.eq to
	case opIfOther:
		return branch(0xeb00001f|b<<16|a<<5, 0x54000001) // cmp a, b; b.ne to
	case opIfBelow:
		return branch(0xeb00001f|b<<16|a<<5, 0x54000003) // cmp a, b; b.lo to
	case opIfZero:
		return branch(0xb4000000 | a) // cbz a, to
	case opIfNot:
		return branch(0xb5000000 | a) // cbnz a, to
	case opIfError:
		return branch(0x35000000 | a) // cbnz wa, to
	case opReturn:
		return arm64Leave()
	case opReturnBare:
		return words(0xd65f03c0) // ret
	}
	return encoded{} // a label
}

// arm64Branch fills the field of a branch: the distance in words, in 26 bits
// of b, in 19 bits from bit 5 of the others.
func arm64Branch(b []byte, field, distance int) {
	at := field - 1
	w, words := le.Uint32(b[at:]), uint32(int32(distance-at)>>2)
	if w == 0x14000000 {
		w |= words & (1<<26 - 1)
	} else {
		w |= words & (1<<19 - 1) << 5
	}
	le.PutUint32(b[at:], w)
}
