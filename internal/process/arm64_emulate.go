//go:build arm64

package process

import "encoding/binary"

// A function that is called all the time is left by its last few instructions:
// registers are moved and taken off the stack, and it returns. Those that write
// no memory and no flags are worked out here, and the thread is given the
// registers that it would have. That is one act, after which the thread stands
// as if it had run itself; a step by the processor would not be (see stepOut).
//
// Known are, by the encodings of the Arm ARM, C6.2: ret, b, nop, bti, mov between
// registers and of constants (movz, movn, orr), add and sub of a constant, adr, adrp,
// cbz, cbnz, ldr and ldp of 64-bit registers. Return addresses are not authenticated
// here: a thread before autiasp has to run itself.

// The longest instruction.
const maxInstruction = 4

const stackPointer = 31 // or xzr

// emulate works out the instruction that code starts with, for a thread whose
// next instruction that is. load reads a word of memory. It reports false, and
// has changed nothing, if it does not know the instruction.
func (r *registers) emulate(code []byte, load func(addr uint64) (uint64, bool)) bool {
	if len(code) < maxInstruction {
		return false
	}
	next := *r
	next.PC += maxInstruction
	next.PState &^= psrBType
	w := binary.LittleEndian.Uint32(code)
	if !next.flow(w, r.PC) && !next.move(w, r.PC) && !next.load(w, load) {
		return false
	}
	*r = next
	return true
}

// x is a register in a place where 31 is xzr.
func (r *registers) x(n uint32) uint64 {
	if n&31 == stackPointer {
		return 0
	}
	return r.X[n&31]
}

func (r *registers) setX(n uint32, v uint64, wide bool) {
	if !wide {
		v = uint64(uint32(v))
	}
	if n&31 != stackPointer {
		r.X[n&31] = v
	}
}

// xsp is a register in a place where 31 is sp.
func (r *registers) xsp(n uint32) *uint64 {
	if n&31 == stackPointer {
		return &r.SP
	}
	return &r.X[n&31]
}

// signed is the signed number in bits [at, at+width) of an instruction.
func signed(w uint32, at, width int) uint64 {
	return uint64(int64(int32(w<<(32-at-width))) >> (32 - width))
}

// flow works out what does nothing but lead elsewhere, or nothing at all.
func (r *registers) flow(w uint32, pc uint64) bool {
	wide := w>>31 != 0
	switch {
	case w == 0xd503201f, w&0xffffff3f == 0xd503241f: // nop, bti
	case w&0xfffffc1f == 0xd65f0000: // ret
		r.PC = r.x(w >> 5)
	case w&0xfc000000 == 0x14000000: // b
		r.PC = pc + signed(w, 0, 26)*maxInstruction
	case w&0x7e000000 == 0x34000000: // cbz, cbnz
		v := r.x(w)
		if !wide {
			v = uint64(uint32(v))
		}
		if (v != 0) == (w>>24&1 != 0) {
			r.PC = pc + signed(w, 5, 19)*maxInstruction
		}
	default:
		return false
	}
	return true
}

// move works out what computes registers from registers.
func (r *registers) move(w uint32, pc uint64) bool {
	wide := w>>31 != 0
	switch {
	case w&0x7fe0ffe0 == 0x2a0003e0: // mov rd, rm
		r.setX(w, r.x(w>>16), wide)
	case w&0x7f800000 == 0x52800000 && (wide || w>>22&1 == 0): // movz
		r.setX(w, uint64(w>>5&0xffff)<<(w>>21&3*16), wide)
	case w&0x7f800000 == 0x12800000 && (wide || w>>22&1 == 0): // movn
		r.setX(w, ^(uint64(w>>5&0xffff) << (w >> 21 & 3 * 16)), wide)
	case w&0xbf800000 == 0x91000000: // add, sub of a constant, 64 bits
		v := uint64(w>>10&0xfff) << (w >> 22 & 1 * 12)
		if w>>30&1 != 0 {
			v = -v
		}
		*r.xsp(w) = *r.xsp(w >> 5) + v
	case w&0x9f000000 == 0x10000000: // adr
		r.setX(w, pc+signed(w, 5, 19)<<2+uint64(w>>29&3), true)
	case w&0x9f000000 == 0x90000000: // adrp
		r.setX(w, pc&^0xfff+(signed(w, 5, 19)<<2+uint64(w>>29&3))<<12, true)
	default:
		return false
	}
	return true
}

// load works out loads of 64-bit registers.
func (r *registers) load(w uint32, load func(addr uint64) (uint64, bool)) bool {
	const word = 8
	base := r.xsp(w >> 5)
	at, after := *base, *base
	regs := []uint32{w & 31}
	switch {
	case w&0xffc00000 == 0xf9400000: // ldr, offset
		at += uint64(w>>10&0xfff) * word
	case w&0xffe00c00 == 0xf8400400: // ldr, post-index
		after += signed(w, 12, 9)
	case w&0xfe400000 == 0xa8400000 && w>>23&3 != 0: // ldp
		d := signed(w, 15, 7) * word
		switch w >> 23 & 3 {
		case 1: // post-index
			after += d
		case 2: // offset
			at += d
		case 3: // pre-index
			at += d
			after = at
		}
		regs = append(regs, w>>10&31)
	default:
		return false
	}
	for _, n := range regs { // writing back to what is loaded is unpredictable
		if after != *base && n != stackPointer && &r.X[n] == base {
			return false
		}
	}
	*base = after
	for i, n := range regs {
		v, ok := load(at + uint64(i)*word)
		if !ok {
			return false
		}
		r.setX(n, v, true)
	}
	return true
}
