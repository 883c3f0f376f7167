# A kernel image for arm64, built with branch target identification.
	.macro k_func name
	.p2align 3
	.type \name, %function
\name:
	bti c
	.endm
	.macro k_end name
	.size \name, . - \name
	.endm
	.macro k_site
	.pushsection __patchable_function_entries,"aw",%progbits
	.quad 771f
	.popsection
771:	nop
	nop
	.endm

	.text
	.globl _start
_start:
k_func old_show
	k_site
	ret
k_end old_show
k_func twin
	k_site
	ret
k_end twin
k_func twin_second
	k_site
	ret
k_end twin_second
k_func quiet
	ret
k_end quiet
k_func helper
	k_site
	ret
k_end helper
	.data
	.type key,%object
key:	.quad 0, 0
	.size key, 16
	.type counter,%object
counter:
	.quad 0
	.size counter, 8
