package trampoline

// Moved instructions of arm64.
//
// A near redirect overwrites one word, or two with its landing pad, so there is
// seldom more than one instruction to move. PC-relative forms are rewritten:
//
//	adr, adrp        adrp and add, adrp
//	ldr of a literal the address with adrp and add, then a load through it: into
//	                 the register itself, or through x17, which is saved on the
//	                 stack, where there is no general register to take (SIMD,
//	                 prfm, a load into xzr)
//	b                b; it reaches 128 MiB, as the redirect does
//	b.cond, cbz, tbz the opposite condition over a b
//	bl, blr          x30 gets the address behind the original, then b or br
//
// The address that add completes needs no alignment, which the scaled offset of
// a load would. x17 may be changed where the moved instruction is a call
// (AAPCS64, 6.1.1), and only there: callees of the same file may be compiled in
// the knowledge of what a function changes. br through x17 lands on "bti c",
// like blr.
//
// bti and paciasp are moved as they are: the stack pointer and x30, which
// paciasp signs, are the same, and the redirect's own landing pad stands for
// theirs. What authenticates while it calls (blraa and the like) is refused.
//
// See the Arm ARM, C6.2, and AAELF64 for the relocations.

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/disasm"
)

const (
	arm64X17 = 17
	arm64X30 = 30
	arm64XZR = 31
)

// arm64 moves one instruction that stands at pc and reports whether control
// never goes on behind it.
func (v *mover) arm64(in disasm.Inst, raw []byte, pc uint64) (bool, error) {
	word := binary.LittleEndian.Uint32(raw)
	to, relative := in.Target(pc)
	next := pc + Arm64BranchLen
	switch {
	case in.Flow == disasm.Call:
		if err := v.comesBack(pc, next); err != nil {
			return false, err
		}
		v.arm64Address(arm64X30, next)
		v.arm64Branch(to)
		return true, nil
	case in.Flow == disasm.IndirectCall:
		return true, v.arm64IndirectCall(word, pc, next)
	case in.Flow == disasm.Jump:
		v.arm64Branch(to)
		return true, nil
	case in.Flow == disasm.CondJump:
		v.word(arm64Opposite(word))
		v.arm64Branch(to)
	case relative && in.Page:
		v.arm64Page(word&31, to)
	case relative && word&0x1f000000 == 0x10000000: // adr
		v.arm64Address(word&31, to)
	case relative:
		v.arm64Literal(word, pc, to)
	default:
		v.word(word)
	}
	return ends(in.Flow), nil
}

func (v *mover) arm64Back() { v.arm64Branch(v.addr + uint64(v.Len)) }

// word adds one instruction and returns its offset.
func (c *Code) word(w uint32) int {
	return c.emit(byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
}

func (v *mover) arm64Branch(to uint64) {
	v.ref(v.word(0x14000000), uint32(elf.R_AARCH64_JUMP26), target(to), 0) // b to
}

// arm64Page refers to a page by its distance from the function: a page may begin
// where the file has nothing.
func (v *mover) arm64Page(reg uint32, to uint64) {
	v.ref(v.word(0x90000000|reg), uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), target(v.addr), int64(to-v.addr)) // adrp reg, to
}

// arm64Address loads an address into a register. One of xzr goes nowhere.
func (v *mover) arm64Address(reg uint32, to uint64) {
	if reg == arm64XZR {
		return // add would take sp for it
	}
	v.arm64Page(reg, to)
	v.ref(v.word(0x91000000|reg<<5|reg), uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), target(to), 0) // add reg, reg, #:lo12:to
}

// arm64Literals are the loads through a register, without offset, of what the
// loads of literals load, by their opc and V bits.
var arm64Literals = map[uint32]uint32{
	0b000: 0xb9400000, // ldr w
	0b010: 0xf9400000, // ldr x
	0b100: 0xb9800000, // ldrsw
	0b110: 0xf9800000, // prfm
	0b001: 0xbd400000, // ldr s
	0b011: 0xfd400000, // ldr d
	0b101: 0x3dc00000, // ldr q
}

func (v *mover) arm64Literal(word uint32, pc, to uint64) {
	const prfm, simd = 0b110, 1
	reg, kind := word&31, word>>30<<1|word>>26&1
	load := arm64Literals[kind]
	if kind != prfm && kind&simd == 0 && reg != arm64XZR {
		v.arm64Address(reg, to)
		v.word(load | reg<<5 | reg) // ldr reg, [reg]
		return
	}
	v.word(0xf81f0ff1) // str x17, [sp, #-16]!
	v.row(Row{As: pc, Pushed: 16})
	v.arm64Address(arm64X17, to)
	v.word(load | arm64X17<<5 | reg) // ldr reg, [x17]
	v.word(0xf84107f1)               // ldr x17, [sp], #16
}

func (v *mover) arm64IndirectCall(word uint32, pc, next uint64) error {
	if word&0xfffffc1f != 0xd63f0000 { // blr
		return &DisplaceError{pc, "it authenticates the address that it calls"}
	}
	if err := v.comesBack(pc, next); err != nil {
		return err
	}
	v.word(0xaa0003e0 | word>>5&31<<16 | arm64X17) // mov x17, xn
	v.arm64Address(arm64X30, next)
	v.word(0xd61f0220) // br x17
	return nil
}

// arm64Opposite is a conditional branch over the next instruction on the
// opposite condition.
func arm64Opposite(word uint32) uint32 {
	const over = 2 // instructions
	switch {
	case word>>24 == 0x54: // b.cond, bc.cond
		return word&^(0x7ffff<<5) ^ 1 | over<<5
	case word&0x7e000000 == 0x34000000: // cbz, cbnz
		return word&^(0x7ffff<<5) ^ 1<<24 | over<<5
	default: // tbz, tbnz
		return word&^(0x3fff<<5) ^ 1<<24 | over<<5
	}
}
