package diff

// twoX86 is a source of two functions with an entry each in every table of
// x86-64; the second one changes.
const twoX86 = `
.macro BODY name
	FUNC \name
1:	call __fentry__
	TABLE __mcount_loc
	.quad 1b
	.popsection
2:	lock incl counter(%rip)
	TABLE .smp_locks
	.long 2b - .
	.popsection
3:	nopl 0(%rax,%rax,1)
	TABLE __jump_table aw
	.long 3b - ., 4f - .
	.quad key + 1 - .
	.popsection
4:	mov (%rdi),%rax
5:	TABLE __ex_table
	.long 4b - ., 5b - ., 3
	.popsection
6:	call \name\()_helper
	TABLE .call_sites
	.long 6b - .
	.popsection
7:	ud2
	TABLE __bug_table aw
	.long 7b - ., file - .
	.word 12, 0x901
	.popsection
8:	nop
	nop
9:	TABLE .altinstructions
	.long 8b - ., 10f - .
	.long 0x123
	.byte 9b - 8b, 11f - 10f
	.popsection
	TABLE .altinstr_replacement ax
10:	xor %eax,%eax
11:	.popsection
12:	call __x86_indirect_thunk_rax
	TABLE .retpoline_sites
	.long 12b - .
	.popsection
13:	call __SCT__chosen
	TABLE .static_call_sites aw
	.long 13b - ., __SCK__chosen + 1 - .
	.popsection
.endm
BODY same
	jmp __x86_return_thunk
	END same
BODY changes
	mov $7 + AFTER,%eax
14:	jmp __x86_return_thunk
	TABLE .return_sites
	.long 14b - .
	.popsection
	END changes
	.section .rodata.str1.1,"aMS",@progbits,1
file:	.asciz "file.c"
	.section .modinfo,"a"
	.asciz "license=GPL"
	.asciz "import_ns=FIRST"
	.asciz "drv.import_ns=SECOND"
	.asciz "drv.import_ns=FIRST"
`

// orcX86 is three functions in one section, of which the second changes and
// shares the entry of the first.
const orcX86 = `
	.section .sched.text,"ax",@progbits
	.globl first, second, third
	.type first,@function
	.type second,@function
	.type third,@function
first:	call __fentry__
	TABLE __mcount_loc
	.quad first
	.popsection
1:	push %rbx
2:	nop
	.size first, .-first
second:	call __fentry__
	TABLE __mcount_loc
	.quad second
	.popsection
	mov $7 + AFTER,%eax
3:	pop %rbx
	ret
	.size second, .-second
third:	call __fentry__
	TABLE __mcount_loc
	.quad third
	.popsection
	ret
4:	.size third, .-third
	TABLE .orc_unwind_ip
	.long first - ., 2b - ., 3b - ., third - ., 4b - .
	.popsection
	TABLE .orc_unwind
	.byte 1,1,1,1,1,1, 2,2,2,2,2,2, 3,3,3,3,3,3, 4,4,4,4,4,4, 0,0,0,0,0,0
	.popsection
	TABLE .orc_header
	.ascii "hash of the format.."
	.popsection
`

// hackX86 is a function as objtool has yet to see it: jumps that it turns into
// NOPs, static calls without a table, notes for it.
const hackX86 = `
	FUNC f
	.skip 0
	endbr64
1:	call __fentry__
	TABLE __mcount_loc
	.quad 1b
	.popsection
2:	jmp 5f
	TABLE __jump_table aw
	.long 2b - ., 5f - .
	.quad __tracepoint_event + 8 + 2 - .
	.popsection
3:	.byte 0xe9
	.long 6f - 4f
4:	TABLE __jump_table aw
	.long 3b - ., 6f - .
	.quad switched + 2 - .
	.popsection
	mov $7 + AFTER,%eax
	ret
	int3
5:	call __SCT__tp_func_event
6:	call __SCT__chosen
7:	call *%rax
	TABLE .discard.retpoline_safe ""
	.quad 7b
	.popsection
8:	ud2
	TABLE .discard.annotate_insn ""
	.long 8b - ., 8
	.popsection
	TABLE .discard.unwind_hints ""
	.long 8b - .
	.word 16
	.byte 1, 2, 3, 0
	.popsection
	END f
	FUNC g
	call __fentry__
9:	call *%rax
	TABLE .discard.retpoline_safe ""
	.quad 9b
	.popsection
	TABLE .discard.annotate_insn ""
	.long 9b - ., 8
	.popsection
	TABLE .discard.unwind_hints ""
	.long 9b - .
	.word 8
	.byte 1, 2, 3, 0
	.popsection
	ret
	END g
	TABLE .discard.addressable aw
	.quad __SCK__chosen, __SCK__tp_func_event
	.popsection
`

// bug16X86 is a function that refers to its entry of the bug table, as kernels
// since 6.19 do.
const bug16X86 = `
.macro BODY name
	FUNC \name
	call __fentry__
1:	lea 2f(%rip),%rdi
	ud1 (%rcx),%rdi
	TABLE __bug_table aw
2:	.long 1b - ., format - ., file - .
	.word 12, 1
	.popsection
	.pushsection .discard.annotate_data,"M",@progbits,8
	.long 2b - ., 1
	.popsection
3:	ud2
	TABLE __bug_table aw
	.long 3b - ., 0, file - .
	.word 14, 0
	.popsection
.endm
BODY same
	ret
	END same
BODY changes
	mov $7 + AFTER,%eax
	ret
	END changes
	.section .rodata.str1.1,"aMS",@progbits,1
file:	.asciz "file.c"
format:	.asciz "%d"
`

// prefixX86 has functions with room before their entries: with a name, with the
// hash of kCFI, listed as patchable, and in a section of its own.
const prefixX86 = `
	.section .text.named,"ax",@progbits
	.type __pfx_named,@function
__pfx_named:
	.skip 16, 0x90
	.size __pfx_named, .-__pfx_named
	.globl named
	.type named,@function
named:	call __fentry__
	mov $7 + AFTER,%eax
	ret
	.size named, .-named
	.section .sched.text,"ax",@progbits
	.type __cfi_hashed,@function
__cfi_hashed:
	.skip 11, 0x90
	mov $0x12345678,%eax
	.size __cfi_hashed, .-__cfi_hashed
	.globl hashed
	.type hashed,@function
hashed:	endbr64
	call __fentry__
	mov $7 + AFTER,%eax
	ret
	.size hashed, .-hashed
	TABLE .cfi_sites
	.long __cfi_hashed - .
	.popsection
	.section .text.bare,"ax",@progbits
	.skip 16, 0x90
	.globl bare
	.type bare,@function
bare:	endbr64
1:	call __fentry__
	TABLE __mcount_loc
	.quad 1b
	.popsection
	mov $7 + AFTER,%eax
	ret
	.size bare, .-bare
	.section .spinlock.text,"ax",@progbits
	.globl before, listed
	.type before,@function
	.type listed,@function
before:	call __fentry__
	ret
	.size before, .-before
	.balign 16, 0x90
2:	.skip 16, 0x90
listed:	call __fentry__
	mov $7 + AFTER,%eax
	ret
	.size listed, .-listed
	.section __patchable_function_entries,"awo",@progbits,.spinlock.text
	.quad 2b
`

// dataX86 changes a function so that it uses new data of all kinds.
const dataX86 = `
	FUNC f
	call __fentry__
.if AFTER
	incq %gs:fresh(%rip)
	mov $descriptor.2,%rdi
	mov $__key.3,%rsi
	mov count.1(%rip),%rax
	mov $old,%rdx
	call helper
1:	nopl 0(%rax,%rax,1)
	TABLE __jump_table aw
	.long 1b - ., 1b - .
	.quad descriptor.2 + 40 - .
	.popsection
.endif
	mov $.Ltext,%rdi
	ret
	END f
	FUNC old
	call __fentry__
	mov $7 + AFTER,%eax
	ret
	END old
.if AFTER
	FUNC helper
	call __fentry__
	ret
	END helper
	.section .data..percpu,"aw",@progbits
	.balign 8
	.local fresh
	.type fresh,@object
fresh:	.quad 5
	.size fresh, 8
	.section .data.count.1,"aw",@progbits
	.type count.1,@object
count.1: .quad 6
	.size count.1, 8
.endif
	.section __dyndbg,"aw",@progbits
	.balign 8
	.type descriptor.1,@object
descriptor.1: .skip 56, 1
	.size descriptor.1, 56
.if AFTER
	.type descriptor.2,@object
descriptor.2: .quad .Ltext
	.skip 48, 2
	.size descriptor.2, 56
.endif
	.section .bss.__key.3,"aw",@nobits
	.type __key.3,@object
__key.3: .skip 8
	.size __key.3, 8
	.section .rodata.str1.1,"aMS",@progbits,1
.Ltext:	.asciz "text"
`

// oldX86 is of kernels before 6.8: paravirt calls whose last entry lacks its
// padding, and a section that recordmcount did not list.
const oldX86 = `
	FUNC f
1:	.byte 0x0f, 0x1f, 0x44, 0x00, 0x00
	.reloc 1b + 1, R_X86_64_NONE, __fentry__
	mov $7 + AFTER,%eax
2:	call *pv_ops(%rip)
3:	TABLE .parainstructions
	.balign 8
	.quad 2b
	.byte 40, 3b - 2b
	.popsection
	ret
	END f
	FUNC g
4:	call __fentry__
	TABLE __mcount_loc
	.quad 4b
	.popsection
5:	call *pv_ops(%rip)
6:	TABLE .parainstructions
	.balign 8
	.quad 5b
	.byte 41, 6b - 5b
	.popsection
	ret
	END g
`

// callbacksX86 asks for two callbacks; DOUBLE asks for one of them twice.
const callbacksX86 = `
	.macro CALLBACK kind fn
	.pushsection .kpatch.callbacks.\kind,"aw",@progbits
	.quad \fn, 0
	.popsection
	.endm
	FUNC f
	call __fentry__
	mov $7 + AFTER,%eax
	ret
	END f
.if AFTER
	.section .text.enter,"ax",@progbits
	.type enter,@function
enter:	endbr64
	call __fentry__
	xor %eax,%eax
	ret
	.size enter, .-enter
	CALLBACK pre_patch enter
	.pushsection .livepatch.callbacks.post_unpatch,"aw",@progbits
	.quad enter
	.popsection
.endif
`

const doubleX86 = callbacksX86 + `
.if AFTER
	CALLBACK pre_patch f
.endif
`

// callX86 gains a static call of its own.
const callX86 = `
	FUNC f
	call __fentry__
.if AFTER
	call __SCT__mine
.endif
	ret
	END f
.if AFTER
	.section .static_call.text,"ax",@progbits
	.balign 4
	.globl __SCT__mine
	.type __SCT__mine,@function
__SCT__mine: .byte 0xe9
	.long target - . - 4
	.byte 0x0f, 0xb9, 0xcc
	.size __SCT__mine, .-__SCT__mine
	.section .data.__SCK__mine,"aw",@progbits
	.globl __SCK__mine
	.type __SCK__mine,@object
__SCK__mine: .quad target, 1
	.size __SCK__mine, 16
.endif
`

// registryX86 has what only the kernel's own start collects, for a function that
// changes; of that only the traps of kCFI go into a module.
const registryX86 = `
	FUNC f
	call __fentry__
1:	ud2
	.pushsection .kcfi_traps,"ao",@progbits,.text.f
	.long 1b - .
	.popsection
	mov $7 + AFTER,%eax
	ret
	END f
	TABLE .printk_index aw
	.quad _entry.1
	.popsection
	TABLE .initcall6.init
	.long f - .
	.popsection
	TABLE _error_injection_whitelist aw
	.quad f, 1
	.popsection
	TABLE _kprobe_blacklist aw
	.quad f
	.popsection
	TABLE __ksymtab
	.long f - ., 0, 0
	.popsection
	TABLE __tracepoints_ptrs
	.long __tracepoint_event - .
	.popsection
	.section .rodata._entry.1,"a",@progbits
	.type _entry.1,@object
_entry.1: .skip 44
	.size _entry.1, 44
	.section .init.text,"ax",@progbits
	.type start,@function
start:	call f
	ret
	.size start, .-start
`

// pointersX86 takes addresses of a function that changes and of one that is new, in
// code and in new data. Only calls go to the replacement.
const pointersX86 = `
	FUNC f
	call __fentry__
	mov $7 + AFTER,%eax
	ret
	END f
	.section .text.quiet,"ax",@progbits
	.type quiet,@function
quiet:	call __fentry__
	mov $9 + AFTER,%eax
	ret
	.size quiet, .-quiet
	FUNC user
	call __fentry__
	call f
	call quiet
	mov $f,%rdi
	lea quiet(%rip),%rsi
.if AFTER
	mov $fresh,%rdx
	mov $ops,%rcx
.endif
	ret
	END user
.if AFTER
	.section .text.fresh,"ax",@progbits
	.type fresh,@function
fresh:	call __fentry__
	ret
	.size fresh, .-fresh
	.section .rodata.ops,"a",@progbits
	.type ops,@object
ops:	.quad f, quiet, fresh
	.size ops, 24
.endif
`

// tracedX86 has a tracepoint of a module in it, and objtool has seen it.
const tracedX86 = `
	FUNC f
	call __fentry__
1:	nopl 0(%rax,%rax,1)
	TABLE __jump_table aw
	.long 1b - ., 3f - .
	.quad __tracepoint_event + 8 + 2 - .
	.popsection
2:	jmp 3f
	TABLE __jump_table aw
	.long 2b - ., 3f - .
	.quad __tracepoint_event + 8 + 2 - .
	.popsection
	mov $7 + AFTER,%eax
	ret
3:	call __SCT__tp_func_event
	TABLE .static_call_sites aw
	.long 3b - ., __SCK__tp_func_event - .
	.popsection
4:	ret
	END f
	TABLE .orc_unwind_ip
	.long f - ., 4b + 1 - .
	.popsection
	TABLE .orc_unwind
	.byte 1,1,1,1,1,1, 0,0,0,0,0,0
	.popsection
`
