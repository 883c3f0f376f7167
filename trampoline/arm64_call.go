package trampoline

// arm64Called is a Call for arm64. A signal handler begins as any function, with
// its stack pointer at a multiple of 16, and returns by x30 to the code that gives
// the thread its registers back. x19 and x20 are kept over the call, as the
// procedure call standard asks (AAPCS64, 6.1.1). It is reached by no branch, and
// what it calls by blr, which may land wherever functions begin.
func arm64Called(call Call) []byte {
	var c Code
	c.word(0xa9be7bfd) //     stp x29, x30, [sp, #-32]!
	c.word(0xa90153f3) //     stp x19, x20, [sp, #16]
	c.word(0x910003fd) //     mov x29, sp
	if call.Errno != 0 {
		c.arm64Constant(16, call.Errno)
		c.word(0xd63f0200) // blr x16
		c.word(0xaa0003f3) // mov x19, x0
		c.word(0xb9400014) // ldr w20, [x0]
	}
	c.arm64Constant(0, call.First)
	c.arm64Constant(1, call.Second)
	c.arm64Constant(16, call.Function)
	c.word(0xd63f0200) //     blr x16
	if call.Errno != 0 {
		c.word(0xb9000274) // str w20, [x19]
	}
	c.arm64Constant(16, call.Flag)
	c.word(0x52800011 | uint32(call.Value)<<5) // movz w17, #value
	c.word(0x39000211)                         // strb w17, [x16]
	c.word(0xa94153f3)                         // ldp x19, x20, [sp, #16]
	c.word(0xa8c27bfd)                         // ldp x29, x30, [sp], #32
	c.word(0xd65f03c0)                         // ret
	return c.Bytes
}

// arm64Constant loads a constant into a register.
func (c *Code) arm64Constant(reg uint32, v uint64) {
	c.word(0xd2800000 | uint32(v&0xffff)<<5 | reg)     // movz reg, #v
	c.word(0xf2a00000 | uint32(v>>16&0xffff)<<5 | reg) // movk reg, #v, lsl #16
	c.word(0xf2c00000 | uint32(v>>32&0xffff)<<5 | reg) // movk reg, #v, lsl #32
	c.word(0xf2e00000 | uint32(v>>48)<<5 | reg)        // movk reg, #v, lsl #48
}
