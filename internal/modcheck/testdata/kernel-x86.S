# A kernel image with nothing in it but what a livepatch module is checked against.
	.include "x86.inc"
	.section .orc_header,"a",@progbits
	.ascii "hash of the format.."
	.text
	.globl _start
_start:
k_func old_show			# reached through a pointer
	endbr64
	k_fentry
	k_ret
k_end old_show
k_func old_direct			# only called
	k_fentry
	k_ret
k_end old_direct
k_func twin
	k_fentry
	k_ret
k_end twin
	.set twin2, .
k_func twin_second
	k_fentry
	k_ret
k_end twin_second
k_func quiet			# notrace
	k_ret
k_end quiet
k_func helper
	endbr64
	k_fentry
	k_ret
k_end helper
k_func crowded			# a second place for ftrace
	endbr64
	k_fentry
	k_fentry
	k_ret
k_end crowded
k_func shadowed			# a function without a symbol follows
	k_fentry
	k_ret
k_end shadowed
	.p2align 4, 0x90
	k_orc
	k_fentry
	k_ret
k_func barren			# the same, and none of its own
	k_ret
k_end barren
	.p2align 4, 0x90
	k_orc
	k_fentry
	k_ret
k_func __fentry__
	k_ret
k_end __fentry__
k_func indirect
774:	call __x86_indirect_thunk_rax
	k_table .retpoline_sites, 774b
	k_call helper
	k_ret
k_end indirect
k_func __x86_indirect_thunk_rax
	ret
k_end __x86_indirect_thunk_rax
k_func __x86_return_thunk
	ret
k_end __x86_return_thunk
	k_table .ibt_endbr_seal, helper
	.section .init.text,"ax",@progbits
	.globl _sinittext, _einittext
_sinittext:
k_func early
	k_fentry
	k_ret
k_end early
_einittext:
	.data
	.globl key
	.type key,@object
key:	.quad 0, 0
	.size key, 16
	.type counter,@object
counter:
	.quad 0
	.size counter, 8
