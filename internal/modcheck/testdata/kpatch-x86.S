# Records that init makes the structures from: the layout of kpatch-build.
	.set START, __kpatch_funcs
	.include "common-x86.inc"
	.section .kpatch.strings,"a",@progbits
.Lkshow:	.asciz "old_show"
.Lktwin:	.asciz "twin"
.Lkturn:	.asciz "widget_turn"
.Lkvmlinux:	.asciz "vmlinux"
.Lkwidget:	.asciz "widget"
	.section .kpatch.funcs,"a",@progbits
__kpatch_funcs:
	.quad new_show, 0x50, 0, 0x20, 0, .Lkshow, .Lkvmlinux
	.quad new_twin, 0x10, 0, 0x20, 2, .Lktwin, .Lkvmlinux
	.quad new_turn, 0x10, 0, 0x20, 0, .Lkturn, .Lkwidget
	.section .kpatch.callbacks.pre_patch,"aw",@progbits
	.quad before_patch, .Lkvmlinux
	.quad 0			# what the linker script appends
	.section .kpatch.callbacks.post_patch,"aw",@progbits
	.quad 0
