# Static structures: the layout of the kernel's samples.
	.set START, patch
	.include "common-x86.inc"
	.data
	.p2align 5
funcs:	.quad .Lshow, new_show, 0
	.zero 152 - 24
	.quad .Ltwin, new_twin, 2
	.zero 152 - 24
	.zero 152
wfuncs:	.quad .Lturn, new_turn, 0
	.zero 152 - 24
	.zero 152
objs:	.quad 0, funcs
	.quad before_patch, 0, 0, 0
	.zero 168 - 48
	.quad .Lwidget, wfuncs
	.zero 168 - 16
	.zero 168
states:	.quad 7
	.long 3, 0
	.quad 0
	.zero 24
patch:	.quad __this_module, objs, states
	.byte 1
	.zero 200 - 25
