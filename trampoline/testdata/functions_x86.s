# Functions whose first bytes are moved. Each is f_NAME, or f_NAME_nN where N
# bytes are overwritten instead of five. Room that a jump needs is filled.
	.macro function name
	.balign 256, 0xcc
	.globl f_\name
	.type f_\name, @function
f_\name:
	.endm
	.macro done name
	.size f_\name, . - f_\name
	.endm

	.text
# leaves what it was called with and where it returns to in registers
plain:	lea	1(%rdi, %rsi), %rax
	mov	(%rsp), %rdx
	ret

	function frame
	push	%rbp
	mov	%rsp, %rbp
	sub	$32, %rsp
	mov	%rdi, -8(%rbp)
	mov	-8(%rbp), %rax
	leave
	ret
	done frame

	function lea
	lea	data + 24(%rip), %rax
	mov	(%rax), %rcx
	ret
	done lea

	function own_address
	lea	f_own_address(%rip), %rax
	ret
	done own_address

	function load
	mov	data + 4(%rip), %ecx
	ret
	done load

	function store
	movl	$0x12345678, data + 8(%rip)
	ret
	done store

	function store_byte
	xor	%eax, %eax
	movb	$0x5a, data + 3(%rip)
	ret
	done store_byte

	function compare
	cmpb	$0x11, data(%rip)
	jne	1f
	inc	%eax
1:	ret
	done compare

	function vector
	pxor	data + 16(%rip), %xmm0
	ret
	done vector

	function shuffle
	pshufd	$0x1b, data + 16(%rip), %xmm1
	ret
	done shuffle

	function short_branch
	test	%edi, %edi
	je	1f
	lea	7(%rsi), %eax
	ret
1:	lea	9(%rsi), %eax
	ret
	done short_branch

	function sign_and_branch
	nop
	test	%sil, %sil
	js	1f
	inc	%eax
1:	ret
	done sign_and_branch

	function near_branch
	cmp	%edi, %esi
	jg	1f
	lea	7(%rsi), %eax
	ret
	.skip	200, 0x90
1:	lea	9(%rsi), %eax
	ret
	done near_branch

	function jump
	jmp	1f
	.skip	3, 0xcc
1:	lea	3(%rdi), %rax
	ret
	done jump

	function near_jump
	jmp	plain
	done near_jump

	function indirect_jump
	jmp	*pointer(%rip)
	done indirect_jump

	function jrcxz
	jrcxz	1f
	nop
	nop
	nop
	lea	7(%rsi), %eax
	ret
1:	lea	9(%rsi), %eax
	ret
	done jrcxz

	function jecxz
	jecxz	1f
	nop
	nop
	lea	7(%rsi), %eax
	ret
1:	lea	9(%rsi), %eax
	ret
	done jecxz

	.irp	kind, loop, loope, loopne
	function \kind
	\kind	1f
	.skip	3, 0x90
	lea	7(%rsi), %rax
	ret
1:	lea	9(%rsi), %rax
	ret
	done \kind
	.endr

	function call
	sub	$8, %rsp
	call	plain
	add	$8, %rsp
	ret
	done call

	function call_first
	call	plain
	ret
	done call_first

	function next_address
	call	1f
1:	pop	%rax
	ret
	done next_address

	function indirect_call
	sub	$8, %rsp
	call	*pointer(%rip)
	add	$8, %rsp
	ret
	done indirect_call

	function call_register_n7
	mov	$plain, %eax
	call	*%rax
	ret
	done call_register_n7

	function call_table_n9
	mov	$pointer, %r12d
	call	*(%r12)
	ret
	done call_table_n9

	function carry
	adc	%rdi, %rax
	adc	$5, %rcx
	ret
	done carry

	function return_address
	mov	(%rsp), %rax
	mov	8(%rsp), %rcx
	xor	%ecx, %ecx
	ret
	done return_address

	function tail
	test	%esi, %esi
	cmovne	%edi, %eax
	ret
	done tail

	function long_n14
	push	%rbx
	mov	%rdi, %rbx
	lea	data(%rip), %rax
	add	(%rax), %rbx
	mov	%rbx, %rax
	pop	%rbx
	ret
	done long_n14

# Functions with the NOPs of -fpatchable-function-entry=16,11.
	.macro	patchable name
	.balign	16, 0xcc
	.skip	16 - 11, 0xcc
	.skip	11, 0x90
	.globl	s_\name
	.type	s_\name, @function
s_\name:
	.endm

	patchable plain
	.skip	5, 0x90
	lea	3(%rdi, %rcx), %rax
	ret
	.size	s_plain, . - s_plain

	patchable landing
	endbr64
	.skip	5, 0x90
	lea	4(%rdi, %r11), %rax
	ret
	.size	s_landing, . - s_landing

# What they are replaced by: everything they were called with counts.
	.irp	number, 0, 1, 2, 3
	.balign	16
	.globl	r_\number
r_\number:
	endbr64
	mov	(%rsp), %rbx
	add	%rcx, %rdx
	add	%rdx, %rdi
	lea	\number(%rdi, %r10), %rax
	ret
	.endr

	.section .note.GNU-stack,"",@progbits
	.data
data:	.quad	0x1122334455667788, 0x99aabbccddeeff00, 0x0123456789abcdef, 0xfedcba9876543210
pointer: .quad	plain
