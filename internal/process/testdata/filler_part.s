# The functions of filler.c; with FIXED defined they answer otherwise.
	.macro function name
	.globl \name
	.type \name, @function
\name:
	.endm

	.text
	.skip 16, 0xcc
function small
	.ifdef FIXED
	lea 1000(%rdi), %eax
	.else
	lea 1(%rdi), %eax
	.endif
	ret
	.size small, .-small
function next
	lea 7(%rdi), %eax
	ret
	.size next, .-next
	.skip 11, 0x90
function padded
	endbr64
	.ifdef FIXED
	lea 2000(%rdi), %eax
	.else
	lea 2(%rdi), %eax
	.endif
	ret
	.size padded, .-padded
function last
	ret
	.size last, .-last
	.section .note.GNU-stack, "", @progbits
