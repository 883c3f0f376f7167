package diff

// fixupX86 is of kernels before 5.16: exceptions go on in .fixup.
const fixupX86 = `
.macro BODY name
	FUNC \name
	call __fentry__
1:	mov (%rdi),%rax
2:	.pushsection .fixup,"ax",@progbits
3:	mov $-14,%eax
	jmp 2b
	.popsection
	TABLE __ex_table
	.long 1b - ., 3b - ., ex_handler_default - .
	.popsection
4:	testb $1,flags(%rip)
	jnz 5f
	.pushsection .altinstr_aux,"ax",@progbits
5:	testb $2,flags(%rip)
	jmp 2b
	.popsection
.endm
BODY same
	ret
	END same
BODY changes
	mov $7 + AFTER,%eax
	ret
	END changes
BODY equal
	ret
	END equal
`

// sharedX86 has stretches of .fixup that go on in the next one, and replacements
// of which one is part of another; JUMP makes one jump to a third.
const sharedX86 = `
	FUNC same
	call __fentry__
1:	mov (%rdi),%rax
	TABLE __ex_table
	.long 1b - ., early - ., 1
	.popsection
	nop
	TABLE .altinstructions
	.long 1b - ., middle - .
	.long 7
	.byte 1, 1
	.popsection
	ret
	END same
	FUNC changes
	call __fentry__
2:	mov (%rdi),%rax
3:	TABLE __ex_table
	.long 2b - ., late - ., 1
	.popsection
4:	nop
	nop
	TABLE .altinstructions
	.long 4b - ., whole - .
	.long 9
	.byte 2, 2
	.popsection
	mov $7 + AFTER,%eax
	ret
	END changes
	FUNC other
	call __fentry__
5:	mov (%rdi),%rax
	TABLE __ex_table
	.long 5b - ., common - ., 1
	.popsection
	ret
	END other
	.section .fixup,"ax",@progbits
early:	xor %edx,%edx
	jmp 3b
late:	mov $-14,%eax
.ifdef JUMP
	jmp early
.endif
common:	xor %ecx,%ecx
	jmp 3b
	.section .altinstr_replacement,"ax",@progbits
whole:	cld
middle:	cld
	std
`

const jumpX86 = `
	.set JUMP, 1
` + sharedX86 + `
`
