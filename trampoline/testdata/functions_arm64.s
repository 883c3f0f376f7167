// Functions whose first words are moved. Each is f_NAME, or f_NAME_nN where N
// bytes are overwritten instead of four.
	.arch	armv8.5-a
	.macro function name
	.balign 256
	.globl f_\name
	.type f_\name, %function
f_\name:
	.endm
	.macro done name
	.size f_\name, . - f_\name
	.endm

	.text
// leaves what it was called with and where it returns to in registers
plain:	add	x0, x0, x1
	mov	x2, x30
	ret

	function frame
	stp	x29, x30, [sp, #-32]!
	mov	x29, sp
	str	x0, [sp, #16]
	ldr	x3, [sp, #16]
	ldp	x29, x30, [sp], #32
	ret
	done frame

	function adr
	adr	x3, plain
	ret
	done adr

	function adrp
	adrp	x17, data
	ldr	x4, [x17, #:lo12:data]
	ret
	done adrp

	function adr_nowhere
	adr	xzr, plain
	ret
	done adr_nowhere

	.irp	reg, x5, w5, x16, w17, xzr, s1, d1, q1
	function literal_\reg
	ldr	\reg, literal
	ret
	done literal_\reg
	.endr

	function literal_signed
	ldrsw	x6, literal
	ret
	done literal_signed

	function literal_odd
	ldr	x6, literal + 4
	ret
	done literal_odd

	function prefetch
	prfm	pldl1keep, literal
	ret
	done prefetch

	function branch
	b	plain
	done branch

	.irp	cond, eq, ne, cs, cc, mi, pl, vs, vc, hi, ls, ge, lt, gt, le, al
	function branch_\cond
	b.\cond	1f
	mov	x0, #7
	ret
1:	mov	x0, #9
	ret
	done branch_\cond
	.endr

	function cbz
	cbz	x0, 1f
	mov	x0, #7
	ret
1:	mov	x0, #9
	ret
	done cbz

	function cbnz
	cbnz	w1, 1f
	mov	x0, #7
	ret
1:	mov	x0, #9
	ret
	done cbnz

	function tbz
	tbz	x0, #40, 1f
	mov	x0, #7
	ret
1:	mov	x0, #9
	ret
	done tbz

	function tbnz
	tbnz	w1, #0, 1f
	mov	x0, #7
	ret
1:	mov	x0, #9
	ret
	done tbnz

	function call_n8
	mov	x9, x30
	bl	plain
	mov	x30, x9
	ret
	done call_n8

	function indirect_call_n12
	mov	x9, x30
	adr	x10, plain
	blr	x10
	mov	x30, x9
	mov	x17, #0 // a call may change it
	ret
	done indirect_call_n12

	function signed_n8
	paciasp
	stp	x29, x30, [sp, #-16]!
	ldp	x29, x30, [sp], #16
	autiasp
	ret
	done signed_n8

	function landing
	bti	c
	add	x0, x0, #1
	ret
	done landing

	function carry
	adc	x0, x0, x1
	ret
	done carry

// Functions with the NOPs of -fpatchable-function-entry=4,2.
	.macro	patchable name
	.balign	16
	nop
	nop
	.globl	s_\name
	.type	s_\name, %function
s_\name:
	.endm

	patchable plain
	nop
	nop
	add	x0, x0, x8
	ret
	.size	s_plain, . - s_plain

	patchable landing
	bti	c
	nop
	nop
	add	x0, x0, x7
	ret
	.size	s_landing, . - s_landing

// What they are replaced by: everything they were called with counts.
	.irp	number, 0, 1, 2, 3
	.balign	16
	.globl	r_\number
r_\number:
	bti	c
	mov	x19, x30
	adds	x2, x2, x3
	adds	x0, x0, x2
	add	x0, x0, #\number
	ret
	.endr

	.balign	16
literal: .quad	0x1122334485667788, 0x99aabbccddeeff00, 0x0123456789abcdef
	.data
data:	.quad	0x1122334455667788
	.section .note.GNU-stack,"",%progbits
