# A module of the kernel, to be patched.
	.include "x86.inc"
	.section .modinfo,"a",@progbits
	.asciz "license=GPL"
	.asciz "name=widget"
	.asciz "srcversion=0123456789ABCDEF"
	.asciz "depends="
	.asciz "vermagic=6.12.0-test SMP preempt mod_unload modversions "
	.text
k_func widget_turn
	endbr64
	k_fentry
	k_ret
k_end widget_turn
k_func widget_gear
	k_fentry
	k_ret
k_end widget_gear
k_func widget_both
	k_fentry
	k_ret
k_end widget_both
k_func widget_bare
	k_ret
k_end widget_bare
	.data
	.type widget_state,@object
widget_state:
	.quad 1
	.size widget_state, 8
	.section .init.text,"ax",@progbits
k_func widget_both_init
	k_ret
k_end widget_both_init
	.type widget_both, @function
	.globl init_module
k_func init_module
	endbr64
	k_ret
k_end init_module
	.section .gnu.linkonce.this_module,"aw",@progbits
	.globl __this_module
	.type __this_module,@object
__this_module:
	.zero 24
	.asciz "widget"
	.zero 312 - 24 - 7
	.quad init_module
	.zero 1280 - 320
	.size __this_module, 1280
	.section .note.GNU-stack,"",@progbits
