package trampoline

// Dispatch on x86-64.
//
// All of it runs between a call and the first instruction of the function that
// was called, where the arguments are in registers, al holds the number of
// vector registers for functions with variable arguments, and r10 may hold a
// static chain. Compilers that know a callee keep values in any register that
// it leaves alone (-fipa-ra), so none is changed at all; flags are.
//
// Shared and Slot find out which function was called from a return address: the
// redirect is call, and the handler replaces the address that it pushed by the
// one to go to and returns. The processor keeps returns paired with calls, so
// that one return is predicted wrongly, and those of the callers are not. With a
// user shadow stack that return would fault.
//
// See the System V ABI for x86-64, 3.2.3, and the Intel SDM, volume 2.

import (
	"encoding/binary"
)

const x86Call = 0xe8

// x86NearJumpTo is jmp or call with its hole.
func x86NearJumpTo(opcode byte) ([]byte, Hole) {
	return []byte{opcode, 0, 0, 0, 0}, Hole{x86NearHole, Rel32}
}

func x86Gate(function int) (c Code) {
	c.pushed(0)
	at := c.emit(
		0x80, 0x3d, 0, 0, 0, 0, 0, // cmpb $0, version(%rip)
	)
	c.ref(at+2, x86PC32, Place{Kind: Version}, -5)
	at = c.emit(
		0x0f, 0x85, 0, 0, 0, 0, // jne replacement
	)
	c.ref(at+2, x86PC32, Place{Kind: Replacement, Function: function}, -4)
	return c
}

func x86SharedHandler(anchor uint64, bits int) (c Code) {
	c.x86Save(
		0x50, // push %rax
		0x51, // push %rcx
		0x52, // push %rdx
	)
	c.emit(
		0x48, 0x8b, 0x4c, 0x24, 24, // mov 24(%rsp), %rcx
	)
	at := c.emit(
		0x48, 0x8d, 0x05, 0, 0, 0, 0, // lea anchor(%rip), %rax
	)
	c.ref(at+3, x86PC32, target(anchor), -4)
	c.emit(
		0x48, 0x29, 0xc1, // sub %rax, %rcx
		0x69, 0xc1, //       imul $factor, %ecx, %eax
	)
	c.Bytes = binary.LittleEndian.AppendUint32(c.Bytes, hashFactor)
	c.emit(
		0xc1, 0xe8, byte(32-bits), // shr $shift, %eax
	)
	at = c.emit(
		0x48, 0x8d, 0x15, 0, 0, 0, 0, // lea table(%rip), %rdx
	)
	c.ref(at+3, x86PC32, Place{Kind: Table}, -4)
	probe := c.emit(
		0x39, 0x0c, 0xc2, // 1: cmp %ecx, (%rdx,%rax,8)
		0x74, 9, //          je 2f
		0xff, 0xc0, //       inc %eax
		0x25, //             and $mask, %eax
	)
	c.Bytes = binary.LittleEndian.AppendUint32(c.Bytes, 1<<bits-1)
	c.emit(
		x86Short, byte(probe-len(c.Bytes)-X86ShortLen), // jmp 1b
		0x48, 0x63, 0x44, 0xc2, 4, //  2: movslq 4(%rdx,%rax,8), %rax
		0x48, 0x01, 0xd0, //              add %rdx, %rax
		0x48, 0x89, 0x44, 0x24, 24, //    mov %rax, 24(%rsp)
	)
	c.x86Leave(
		0x5a, // pop %rdx
		0x59, // pop %rcx
		0x58, // pop %rax
	)
	return c
}

func x86SlotHandler() (c Code) {
	c.x86Save(
		0x50, // push %rax
		0x51, // push %rcx
	)
	c.emit(
		0x48, 0x8b, 0x4c, 0x24, 16, //       mov 16(%rsp), %rcx
		0x48, 0x83, 0xe9, X86NearLen, //     sub $5, %rcx
		0x48, 0x83, 0xe1, 0xf8, //           and $-8, %rcx
		0x48, 0x8b, 0x49, 0xf8, //           mov -8(%rcx), %rcx
	)
	at := c.emit(
		0x0f, 0xb6, 0x05, 0, 0, 0, 0, // movzbl version(%rip), %eax
	)
	c.ref(at+3, x86PC32, Place{Kind: Version}, -4)
	c.emit(
		0x48, 0x8b, 0x04, 0xc1, //     mov (%rcx,%rax,8), %rax
		0x48, 0x89, 0x44, 0x24, 16, // mov %rax, 16(%rsp)
	)
	c.x86Leave(
		0x59, // pop %rcx
		0x58, // pop %rax
	)
	return c
}

// x86Save adds pushes of one byte each, at the beginning of a handler. What the
// redirect has pushed is no return address of a caller: it is below that.
func (c *Code) x86Save(pushes ...byte) {
	for i, b := range pushes {
		c.pushed(wordLen * (1 + i))
		c.emit(b)
	}
	c.pushed(wordLen * (1 + len(pushes)))
}

// x86Leave adds pops of one byte each, and a return to what stands where the
// redirect has pushed an address.
func (c *Code) x86Leave(pops ...byte) {
	for i, b := range pops {
		c.emit(b)
		c.pushed(wordLen * (len(pops) - i))
	}
	c.emit(
		0xc3, // ret
	)
}
