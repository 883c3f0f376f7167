package disasm

import "encoding/binary"

// arm64 instructions are one little-endian word each. Only a few forms matter
// to who moves or redirects code: those that depend on the program counter,
// and those that transfer control. What is peculiar:
//
//   - All PC-relative offsets count from the instruction itself; adrp counts
//     4 KiB pages from the page of the instruction.
//   - paciasp and pacibsp are landing pads for a call, as bti c is.
//   - b.al and b.nv both branch always.
//
// Source: Arm Architecture Reference Manual (DDI 0487), C4.1 "A64 instruction
// set encoding".

const arm64Len = 4

func decodeARM64(in *Inst, b []byte) fault {
	if len(b) < arm64Len {
		return truncated
	}
	x := binary.LittleEndian.Uint32(b)
	in.Len = arm64Len
	switch x >> 25 & 15 {
	case 0b0000:
		if x>>16 == 0 { // udf
			in.Flow = Trap
			return ok
		}
		if x>>31 == 0 {
			return unallocated
		}
	case 0b0001, 0b0011:
		return unallocated
	case 0b1000, 0b1001:
		return dataImmediate(in, x)
	case 0b0101, 0b1101:
		return dataRegister(x)
	case 0b1010, 0b1011:
		return branch(in, x)
	case 0b0100, 0b0110, 0b1100, 0b1110:
		if x&0x3b000000 == 0x18000000 {
			return literal(in, x)
		}
	}
	return ok
}

// field returns n bits of x from bit lo, sign extended.
func field(x uint32, lo, n uint) int64 {
	return int64(int32(x<<(32-lo-n)) >> (32 - n))
}

func relative(in *Inst, off int64) {
	in.PCRel = Field{0, arm64Len}
	in.PCOff = off
}

// address is adr and adrp: the two low bits of the offset stand at bit 29.
func address(in *Inst, x uint32) {
	off := field(x, 5, 19)<<2 | int64(x>>29&3)
	in.Mem = true
	if x>>31 == 1 {
		in.Page = true
		off <<= 12
	}
	relative(in, off)
}

// literal is ldr, ldrsw and prfm of a PC-relative word.
func literal(in *Inst, x uint32) fault {
	if x>>30 == 3 && x>>26&1 == 1 {
		return unallocated
	}
	in.Mem = true
	relative(in, field(x, 5, 19)<<2)
	return ok
}

// branch is the group of branches, exceptions and system instructions.
func branch(in *Inst, x uint32) fault {
	switch {
	case x>>26 == 0b000101: // b
		in.Flow = Jump
		relative(in, field(x, 0, 26)<<2)
	case x>>26 == 0b100101: // bl
		in.Flow = Call
		relative(in, field(x, 0, 26)<<2)
	case x>>24 == 0x54: // b.cond, bc.cond
		in.Flow = CondJump
		if x&0xe == 0xe {
			in.Flow = Jump
		}
		relative(in, field(x, 5, 19)<<2)
	case x&0x7e000000 == 0x34000000: // cbz, cbnz
		in.Flow = CondJump
		relative(in, field(x, 5, 19)<<2)
	case x&0x7e000000 == 0x36000000: // tbz, tbnz
		in.Flow = CondJump
		relative(in, field(x, 5, 14)<<2)
	case x>>24 == 0xd4:
		return exception(in, x)
	case x>>25 == 0x6b: // 1101011
		return branchRegister(in, x)
	case x>>22 == 0x354: // 1101010100
		hint(in, x)
	default:
		return unallocated
	}
	return ok
}

func exception(in *Inst, x uint32) fault {
	switch x & 0xffe0001f {
	case 0xd4000001, 0xd4000002, 0xd4000003: // svc, hvc, smc
		in.Flow = Syscall
	case 0xd4200000, 0xd4400000: // brk, hlt
		in.Flow = Trap
	case 0xd4600000: // tcancel
		in.Flow = Trap
	case 0xd4a00001, 0xd4a00002, 0xd4a00003: // dcps1, dcps2, dcps3
		in.Flow = Trap
	default:
		return unallocated
	}
	return ok
}

// branchRegister is br, blr, ret, eret, drps and their authenticating forms.
func branchRegister(in *Inst, x uint32) fault {
	if x>>16&31 != 31 {
		return unallocated
	}
	opc, op3, rn, op4 := x>>21&15, x>>10&63, x>>5&31, x&31
	plain := op3 == 0 && op4 == 0
	auth := op3&^1 == 2 // key A or B
	none := auth && op4 == 31
	switch {
	case opc == 0 && (plain || none), opc == 8 && auth:
		in.Flow = IndirectJump
	case opc == 1 && (plain || none), opc == 9 && auth:
		in.Flow = IndirectCall
	case opc == 2 && (plain || none && rn == 31),
		opc == 4 && rn == 31 && (plain || none),
		opc == 5 && rn == 31 && plain:
		in.Flow = Return
	default:
		return unallocated
	}
	return ok
}

// Hints by number (CRm:op2).
const (
	hintNop     = 0
	hintPACIASP = 25
	hintPACIBSP = 27
	hintBTI     = 32
	hintBTIc    = 34
	hintBTIj    = 36
	hintBTIjc   = 38
)

func hint(in *Inst, x uint32) {
	if x&0xfffff01f != 0xd503201f {
		return
	}
	switch x >> 5 & 0x7f {
	case hintNop:
		in.Nop = true
	case hintPACIASP, hintPACIBSP, hintBTI, hintBTIc, hintBTIj, hintBTIjc:
		in.Pad = true
	}
}
