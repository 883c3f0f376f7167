# Static structures, for arm64.
	.arch armv8.5-a
	.macro k_func name
	.p2align 3
	.type \name, %function
\name:
	.endm
	.macro k_end name
	.size \name, . - \name
	.endm

	.section .modinfo,"a",%progbits
	.asciz "license=GPL"
	.asciz "livepatch=Y"
	.asciz "name=fix"
	.asciz "vermagic=6.12.0-test SMP preempt mod_unload modversions "

	.text
k_func new_show
	bti c
771:	nop
	nop
	.pushsection __patchable_function_entries,"aw",%progbits
	.quad 771b
	.popsection
	paciasp
	stp x29, x30, [sp, #-16]!
	adrp x0, .Lhello
	add x0, x0, :lo12:.Lhello
	bl _printk
	bl klp..vmlinux..helper..0
	adrp x1, klp..vmlinux..counter..0
	ldr x1, [x1, :lo12:klp..vmlinux..counter..0]
1:	b 2f
	.pushsection __jump_table,"aw",%progbits
	.word 1b - ., 2f - .
	.quad klp..vmlinux..key..0 - .
	.popsection
	nop
2:	brk #0x800
	.pushsection __bug_table,"aw",%progbits
	.word 2b - ., .Lfile - .
	.short 17, 2305
	.popsection
3:	ldr x2, [x1]
4:
	.pushsection __ex_table,"a",%progbits
	.word 3b - ., 4b - .
	.short 2, 0
	.popsection
5:	nop
6:
	.pushsection .altinstr_replacement,"ax",%progbits
7:	isb
8:
	.popsection
	.pushsection .altinstructions,"a",%progbits
	.word 5b - ., 7b - .
	.short 4
	.byte 6b - 5b, 8b - 7b
	.popsection
	ldp x29, x30, [sp], #16
	autiasp
	ret
k_end new_show
k_func new_twin
	bti c
	ldr x0, literal
	ret
literal:
	.quad 0x123456789abcdef0
k_end new_twin
k_func new_log
	bti c
	ret
k_end new_log
k_func before_patch
	paciasp
	mov w0, #0
	autiasp
	ret
k_end before_patch

	.section .init.text,"ax",%progbits
	.globl init_module
k_func init_module
	bti c
	adrp x0, patch
	add x0, x0, :lo12:patch
	b klp_enable_patch
k_end init_module
	.section .exit.text,"ax",%progbits
	.globl cleanup_module
k_func cleanup_module
	bti c
	ret
k_end cleanup_module

	.section .plt,"ax",%progbits
	.byte 0
	.section .init.plt,"ax",%progbits
	.byte 0
	.section .text.ftrace_trampoline,"ax",%progbits
	.byte 0

	.section .rodata.str1.1,"aMS",%progbits,1
.Lhello:	.asciz "hello\n"
.Lfile:		.asciz "fs/proc/show.c"
.Lshow:		.asciz "old_show"
.Ltwin:		.asciz "twin"

	.data
	.type widget_log,%object
widget_log:
	.quad new_log
	.size widget_log, 8
	.p2align 5
funcs:	.quad .Lshow, new_show, 0
	.zero 152 - 24
	.quad .Ltwin, new_twin, 2
	.zero 152 - 24
	.zero 152
objs:	.quad 0, funcs
	.quad before_patch, 0, 0, 0
	.zero 168 - 48
	.zero 168
patch:	.quad __this_module, objs, 0
	.byte 0
	.zero 200 - 25

	.section .gnu.linkonce.this_module,"aw",%progbits
	.p2align 6
	.globl __this_module
	.type __this_module,%object
__this_module:
	.zero 24
	.asciz "fix"
	.zero 312 - 24 - 4
	.quad init_module
	.zero 1200 - 320
	.quad cleanup_module
	.zero 1280 - 1208
	.size __this_module, 1280

	.macro k_version crc, name
	.quad \crc
777:	.asciz "\name"
	.zero 56 - (. - 777b)
	.endm
	.section __versions,"a",%progbits
	k_version 0x11111111, module_layout
	k_version 0x22222222, klp_enable_patch
	k_version 0x33333333, _printk
