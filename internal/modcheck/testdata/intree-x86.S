# Compact structures that init makes the others from: the layout of klp-build.
	.set START, __start_klp_objects
	.include "common-x86.inc"
	.section .init.klp_objects,"aw",@progbits
__start_klp_objects:
	.quad 0, .Lfuncs
	.quad before_patch, 0, 0, 0, 0
	.long 2, 0
	.quad .Lwidget, .Lwfuncs
	.quad 0, 0, 0, 0, 0
	.long 1, 0
	.section .init.klp_funcs,"aw",@progbits
.Lfuncs:
	.quad .Lshow, new_show, 0
	.quad .Ltwin, new_twin, 2
.Lwfuncs:
	.quad .Lturn, new_turn, 0
