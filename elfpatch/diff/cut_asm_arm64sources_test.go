package diff

// twoARM64 is a source of functions with an entry each in the tables of arm64.
const twoARM64 = `
.macro BODY name
	.section .text.\name,"ax",%progbits
1:	nop
	nop
	.globl \name
	.type \name,%function
\name:	bti c
	nop
	nop
	.pushsection __patchable_function_entries,"awo",%progbits,.text.\name
	.balign 8
	.quad 1b
	.popsection
2:	ldr x0,[x1]
3:	TABLE __ex_table
	.long 2b - ., 3b - .
	.hword 1, 2
	.popsection
4:	nop
	TABLE __jump_table aw
	.long 4b - ., 3b - .
	.quad key + 1 - .
	.popsection
5:	brk 0x800
	TABLE __bug_table aw
	.long 5b - ., file - .
	.hword 12, 1
	.popsection
6:	nop
	TABLE .altinstructions
	.long 6b - ., 7f - .
	.hword 5
	.byte 4, 4
	.popsection
	TABLE .altinstr_replacement ax
7:	ldr x2,[x3]
	.popsection
8:	nop
	TABLE .altinstructions
	.long 8b - ., callback - .
	.hword 0x8005
	.byte 4, 0
	.popsection
.endm
BODY same
	ret
	.size same, .-same
BODY changes
	mov w0, #7 + AFTER
	ret
	.size changes, .-changes
BODY grows
	mov w0, #7 + AFTER
	adrp x1, changes
	add x1, x1, :lo12:changes
	bl changes
	ret
	.size grows, .-grows
	.section .rodata.str1.1,"aMS",%progbits,1
file:	.asciz "file.c"
`

// pointersARM64 is the same on arm64. Before its first function stands a hash, behind the
// last one data; both would be loads from elsewhere (ldrsw) if they were instructions.
const pointersARM64 = `
	.section .text.f,"ax",%progbits
	.word 0x9831c2fc
	.globl f
	.type f,%function
f:	nop
	nop
	.pushsection __patchable_function_entries,"aw",%progbits
	.quad f
	.popsection
	mov w0, #7 + AFTER
	ret
	.size f, .-f
	FUNC user
	nop
	nop
	.pushsection __patchable_function_entries,"aw",%progbits
	.quad user
	.popsection
	bl f
	adrp x0, f
	add x0, x0, :lo12:f
.if AFTER
	adrp x1, ops
	add x1, x1, :lo12:ops
.endif
	ret
	END user
.if AFTER
	.section .text.fresh,"ax",%progbits
	.type fresh,%function
fresh:	ret
	.word 0x98456789
	.size fresh, .-fresh
	.section .rodata.ops,"a",%progbits
	.type ops,%object
ops:	.quad f, fresh
	.size ops, 16
.endif
`
