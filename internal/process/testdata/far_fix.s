# Replacements of answer() in roomy.c, and the veneer that one is reached by.
	.text
	.globl answer_new
	.type answer_new, @function
answer_new:
	endbr64
	lock incq counter(%rip)
	lea 1000(%rdi), %eax
	ret
	.size answer_new, .-answer_new
	.balign 8
	.globl answer_veneer
	.type answer_veneer, @function
answer_veneer:
	jmp *0f(%rip)
0:	.quad answer_new
	.size answer_veneer, .-answer_veneer
	.section .note.GNU-stack, "", @progbits
