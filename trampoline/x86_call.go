package trampoline

import "encoding/binary"

// x86Called is a Call for x86-64. A signal handler begins as any function, with
// its stack pointer 8 bytes off a multiple of 16, and returns to the code that
// gives the thread its registers back. rbx and r12 are kept over the call, as the
// ABI asks. See the System V ABI for x86-64, 3.2.
func x86Called(call Call) []byte {
	var c Code
	long := func(v uint64) { c.Bytes = binary.LittleEndian.AppendUint64(c.Bytes, v) }
	c.emit(
		0x53,       //             push %rbx
		0x41, 0x54, //             push %r12
		0x48, 0x83, 0xec, 0x08, // sub $8, %rsp
	)
	if call.Errno != 0 {
		c.emit(0x48, 0xb8) //      mov $errno, %rax
		long(call.Errno)
		c.emit(
			0xff, 0xd0, //         call *%rax
			0x48, 0x89, 0xc3, //   mov %rax, %rbx
			0x44, 0x8b, 0x20, //   mov (%rax), %r12d
		)
	}
	c.emit(0x48, 0xbf) //          mov $first, %rdi
	long(call.First)
	c.emit(0x48, 0xbe) //          mov $second, %rsi
	long(call.Second)
	c.emit(0x48, 0xb8) //          mov $function, %rax
	long(call.Function)
	c.emit(0xff, 0xd0) //          call *%rax
	if call.Errno != 0 {
		c.emit(0x44, 0x89, 0x23) // mov %r12d, (%rbx)
	}
	c.emit(0x48, 0xb8) //          mov $flag, %rax
	long(call.Flag)
	c.emit(
		0xc6, 0x00, call.Value, // movb $value, (%rax)
		0x48, 0x83, 0xc4, 0x08, // add $8, %rsp
		0x41, 0x5c, //             pop %r12
		0x5b, //                   pop %rbx
		0xc3, //                   ret
	)
	return c.Bytes
}
