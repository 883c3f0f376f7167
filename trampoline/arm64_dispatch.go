package trampoline

// Dispatch on arm64.
//
// Between a call and the first instruction of the function, x16 and x17 may be
// changed by anyone (AAPCS64, 6.1.1); x0 to x8 hold arguments, x30 the return
// address. Where -fpatchable-function-entry left two NOPs at the entry, x9 may
// be changed too: the compiler keeps nothing in it there, so that x30 can be
// saved before bl.
//
// A redirect is b, which keeps no address, so Shared has a stub for each
// function that loads its key into w16. A replacement is reached by b, or by br
// through x16, which may land on "bti c"; the rest of an old body is no landing
// pad and is reached by ret, which needs none; so is whatever a record of Slot
// holds for other versions than 1, as each may be either.
//
// See the Arm ARM, C6.2, and AAELF64 for the relocations.

import (
	"debug/elf"
	"encoding/binary"
)

// arm64SlotCall is the redirect of Slot, with its hole.
func arm64SlotCall() ([]byte, Hole) {
	return []byte{
		0xe9, 0x03, 0x1e, 0xaa, // mov x9, x30
		0x00, 0x00, 0x00, 0x94, // bl handler
	}, Hole{Arm64BranchLen, Branch26}
}

// arm64LoadVersion loads the version into a register.
func (c *Code) arm64LoadVersion(reg uint32) {
	version := Place{Kind: Version}
	c.ref(c.word(0x90000000|reg), uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), version, 0)         // adrp reg, version
	c.ref(c.word(0x39400000|reg<<5|reg), uint32(elf.R_AARCH64_LDST8_ABS_LO12_NC), version, 0) // ldrb reg, [reg, #:lo12:version]
}

func (c *Code) arm64JumpTo(to Place) {
	c.ref(c.word(0x14000000), uint32(elf.R_AARCH64_JUMP26), to, 0) // b to
}

func arm64Gate(function int) (c Code) {
	c.pushed(0)
	c.arm64LoadVersion(16)
	c.word(0x34000050) // cbz w16, .+8
	c.arm64JumpTo(Place{Kind: Replacement, Function: function})
	return c
}

func arm64Stub(key uint32) (c Code) {
	c.pushed(0)
	c.word(0x52800010 | key&0xffff<<5) // movz w16, #key
	c.word(0x72a00010 | key>>16<<5)    // movk w16, #key, lsl #16
	c.arm64JumpTo(Place{Kind: Handler})
	return c
}

func arm64SharedHandler(bits int) (c Code) {
	table := Place{Kind: Table}
	const factor = uint32(hashFactor)
	c.pushed(0)
	c.word(0xa9bf07e0) //    stp x0, x1, [sp, #-16]!
	c.pushed(16)
	c.ref(c.word(0x90000011), uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), table, 0) //    adrp x17, table
	c.ref(c.word(0x91000231), uint32(elf.R_AARCH64_ADD_ABS_LO12_NC), table, 0)  //    add x17, x17, #:lo12:table
	c.word(0x52800000 | factor&0xffff<<5)                                       //    movz w0, #factor
	c.word(0x72a00000 | factor>>16<<5)                                          //    movk w0, #factor, lsl #16
	c.word(0x1b007e00)                                                          //    mul w0, w16, w0
	c.word(0x53007c00 | uint32(32-bits)<<16)                                    //    lsr w0, w0, #shift
	c.word(0xf8607a21)                                                          // 1: ldr x1, [x17, x0, lsl #3]
	c.word(0x6b10003f)                                                          //    cmp w1, w16
	c.word(0x54000080)                                                          //    b.eq 2f
	c.word(0x11000400)                                                          //    add w0, w0, #1
	c.word(0x12000000 | uint32(bits-1)<<10)                                     //    and w0, w0, #mask
	c.word(0x17fffffb)                                                          //    b 1b
	c.word(0x8b818230)                                                          // 2: add x16, x17, x1, asr #32
	c.word(0xa8c107e0)                                                          //    ldp x0, x1, [sp], #16
	c.pushed(0)
	c.word(0xd61f0200) //    br x16
	return c
}

func arm64SlotHandler() (c Code) {
	c.row(Row{Return: 9})
	c.word(0xd10023d0) // sub x16, x30, #8
	c.word(0x927df210) // and x16, x16, #-8
	c.word(0xf85f8210) // ldur x16, [x16, #-8]
	c.arm64LoadVersion(17)
	c.word(0xf8717a10) // ldr x16, [x16, x17, lsl #3]
	c.word(0xaa0903fe) // mov x30, x9
	c.pushed(0)
	c.word(0x51000631) // sub w17, w17, #1
	c.word(0x35000051) // cbnz w17, .+8
	c.word(0xd61f0200) // br x16
	c.word(0xd65f0200) // ret x16
	return c
}

// arm64CallTarget decodes the redirect of Slot.
func arm64CallTarget(code []byte, pc uint64) (uint64, bool) {
	call, hole := arm64SlotCall()
	if len(code) < len(call) || [Arm64BranchLen]byte(code) != [Arm64BranchLen]byte(call) {
		return 0, false
	}
	word := binary.LittleEndian.Uint32(code[hole.Off:])
	if word>>26 != 0b100101 { // bl
		return 0, false
	}
	d := int64(int32(word<<6)) >> 6 * Arm64BranchLen
	return pc + uint64(hole.Off) + uint64(d), true
}
