package diff

import (
	"debug/elf"

	"livepatch/internal/refusal"
)

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

// fixupX86 is of kernels before 5.16: exceptions go on in .fixup.
const fixupX86 = `
.macro BODY name
	FUNC \name
	call __fentry__
1:	mov (%rdi),%rax
2:	.pushsection .fixup,"ax",@progbits
3:	mov $-14,%eax
	jmp 2b
	.popsection
	TABLE __ex_table
	.long 1b - ., 3b - ., ex_handler_default - .
	.popsection
4:	testb $1,flags(%rip)
	jnz 5f
	.pushsection .altinstr_aux,"ax",@progbits
5:	testb $2,flags(%rip)
	jmp 2b
	.popsection
.endm
BODY same
	ret
	END same
BODY changes
	mov $7 + AFTER,%eax
	ret
	END changes
BODY equal
	ret
	END equal
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

// twoARM64 is a source of functions with an entry each in the tables of arm64.
const twoARM64 = `
.macro BODY name
	.section .text.\name,"ax",%progbits
1:	nop
	nop
	.globl \name
	.type \name,%function
\name:	bti c
	nop
	nop
	.pushsection __patchable_function_entries,"awo",%progbits,.text.\name
	.balign 8
	.quad 1b
	.popsection
2:	ldr x0,[x1]
3:	TABLE __ex_table
	.long 2b - ., 3b - .
	.hword 1, 2
	.popsection
4:	nop
	TABLE __jump_table aw
	.long 4b - ., 3b - .
	.quad key + 1 - .
	.popsection
5:	brk 0x800
	TABLE __bug_table aw
	.long 5b - ., file - .
	.hword 12, 1
	.popsection
6:	nop
	TABLE .altinstructions
	.long 6b - ., 7f - .
	.hword 5
	.byte 4, 4
	.popsection
	TABLE .altinstr_replacement ax
7:	ldr x2,[x3]
	.popsection
8:	nop
	TABLE .altinstructions
	.long 8b - ., callback - .
	.hword 0x8005
	.byte 4, 0
	.popsection
.endm
BODY same
	ret
	.size same, .-same
BODY changes
	mov w0, #7 + AFTER
	ret
	.size changes, .-changes
BODY grows
	mov w0, #7 + AFTER
	adrp x1, changes
	add x1, x1, :lo12:changes
	bl changes
	ret
	.size grows, .-grows
	.section .rodata.str1.1,"aMS",%progbits,1
file:	.asciz "file.c"
`

var asmCases = []asmCase{
	{name: "tables", machine: elf.EM_X86_64, source: twoX86, show: ". _", want: []string{
		".text.changes e800000000f0ff05000000000f1f0400488b07e8000000000f0b9090e800000000e800000000b808000000e900000000 1:PLT32:__fentry__-4 8:PC32:counter-4 20:PLT32:changes_helper-4 29:PLT32:__x86_indirect_thunk_rax-4 34:PLT32:__SCT__chosen-4 44:PLT32:__x86_return_thunk-4",
		".rodata.const.2 66696c652e6300",
		".smp_locks 00000000 0:PC32:.text.changes+5",
		"__jump_table 00000000000000000000000000000000 0:PC32:.text.changes+12 4:PC32:.text.changes+16 8:PC64:key+1",
		"__ex_table 000000000000000003000000 0:PC32:.text.changes+16 4:PC32:.text.changes+19",
		".call_sites 00000000 0:PC32:.text.changes+19",
		"__bug_table 00000000000000000c000109 0:PC32:.text.changes+24 4:PC32:.rodata.const.2+0",
		".altinstructions 0000000000000000230100000202 0:PC32:.text.changes+26 4:PC32:.altinstr_replacement+0",
		".altinstr_replacement 31c0",
		".retpoline_sites 00000000 0:PC32:.text.changes+28",
		".static_call_sites 0000000000000000 0:PC32:.text.changes+33 4:PC32:__SCK__chosen+1",
		".return_sites 00000000 0:PC32:.text.changes+43",
		"__mcount_loc 0000000000000000 0:64:.text.changes+0",
	}},
	{name: "unwinding in a shared section", machine: elf.EM_X86_64, source: orcX86, show: ".orc __mcount_loc", want: []string{
		".orc_unwind 020202020202030303030303000000000000",
		".orc_unwind_ip 000000000000000000000000 0:PC32:.text.second+0 4:PC32:.text.second+10 8:PC32:.text.second+12",
		".orc_header 68617368206f662074686520666f726d61742e2e",
		"__mcount_loc 0000000000000000 0:64:second+0",
	}},
	{name: "before objtool", machine: elf.EM_X86_64, source: hackX86, show: ".text __jump .discard", want: []string{
		".text.f f30f1efae800000000eb0ce90c000000b808000000c3cce800000000e800000000ffd00f0b 5:PLT32:__fentry__-4 24:PLT32:__SCT__tp_func_event-4 29:PLT32:__SCT__chosen-4",
		"__jump_table 0000000000000000000000000000000000000000000000000000000000000000 0:PC32:.text.f+9 4:PC32:.text.f+23 8:PC64:__tracepoint_event+10 16:PC32:.text.f+11 20:PC32:.text.f+28 24:PC64:switched+2",
		".discard.retpoline_safe 0000000000000000 0:64:.text.f+33",
		".discard.annotate_insn 0000000008000000 0:PC32:.text.f+35",
		".discard.unwind_hints 00000000100001020300 0:PC32:.text.f+35",
		".discard.ibt_endbr_noseal 0000000000000000 0:64:f+0",
	}},
	{name: "keys of modules", machine: elf.EM_X86_64, source: hackX86, show: ".text __jump .discard",
		modules: "__tracepoint_event __SCK__tp_func_event", warn: []string{`f: tracepoint "event" of module m is off in the new code`}, want: []string{
			".text.f f30f1efae8000000006690e90c000000b808000000c3cc0f1f440000e800000000ffd00f0b 5:PLT32:__fentry__-4 29:PLT32:__SCT__chosen-4",
			"__jump_table 00000000000000000000000000000000 0:PC32:.text.f+11 4:PC32:.text.f+28 8:PC64:switched+2",
			".discard.retpoline_safe 0000000000000000 0:64:.text.f+33",
			".discard.annotate_insn 0000000008000000 0:PC32:.text.f+35",
			".discard.unwind_hints 00000000100001020300 0:PC32:.text.f+35",
			".discard.ibt_endbr_noseal 0000000000000000 0:64:f+0",
		}},
	{name: "key of a module", machine: elf.EM_X86_64, source: hackX86, modules: "switched", refuse: []refusal.Code{refusal.StaticKeyModule}},
	{name: "static call of a module", machine: elf.EM_X86_64, source: hackX86, modules: "__SCK__chosen", refuse: []refusal.Code{refusal.StaticCallModule}},
	{name: "static call of a module in a table", machine: elf.EM_X86_64, source: twoX86, modules: "__SCK__chosen", refuse: []refusal.Code{refusal.StaticCallModule}},
	{name: "bug table that code refers to", machine: elf.EM_X86_64, source: bug16X86, show: ".text __bug", want: []string{
		".text.changes e800000000488d3d00000000480fb9390f0bb808000000c3 1:PLT32:__fentry__-4 8:PC32:__bug_table-4",
		"__bug_table 0000000000000000000000000c0001000000000000000000000000000e000000 0:PC32:.text.changes+5 4:PC32:.rodata.const.2+0 8:PC32:.rodata.const.3+0 16:PC32:.text.changes+16 24:PC32:.rodata.const.3+0",
	}},
	{name: "room before entries", machine: elf.EM_X86_64, source: prefixX86, show: ".text .cfi __", want: []string{
		".text.named 90909090909090909090909090909090e800000000b808000000c3 17:PLT32:__fentry__-4",
		".text.hashed 9090909090909090909090b878563412f30f1efae800000000b808000000c3 21:PLT32:__fentry__-4",
		".text.bare 90909090909090909090909090909090f30f1efae800000000b808000000c3 21:PLT32:__fentry__-4",
		".text.listed 90909090909090909090909090909090e800000000b808000000c3 17:PLT32:__fentry__-4",
		".cfi_sites 00000000 0:PC32:.text.hashed+0",
		"__mcount_loc 0000000000000000000000000000000000000000000000000000000000000000 0:64:.text.bare+20 8:64:named+0 16:64:hashed+4 24:64:listed+0",
	}},
	{name: "new data", machine: elf.EM_X86_64, source: dataX86, show: ".text .data .bss .rodata __", want: []string{
		".text.f e8000000006548ff050000000048c7c70000000048c7c600000000488b050000000048c7c200000000e8000000000f1f040048c7c700000000c3 1:PLT32:__fentry__-4 9:PC32:.data..percpu-4 16:32S:__dyndbg+0 23:32S:.bss.__key.3+0 30:PC32:.data.count.1-4 37:32S:old#orig+0 42:PLT32:helper-4 53:32S:.rodata.const.6+0",
		".text.old e800000000b808000000c3 1:PLT32:__fentry__-4",
		".text.helper e800000000c3 1:PLT32:__fentry__-4",
		".bss.__key.3 ",
		".data.count.1 0600000000000000",
		".rodata.const.6 7465787400",
		"__jump_table 00000000000000000000000000000000 0:PC32:.text.f+46 4:PC32:.text.f+46 8:PC64:__dyndbg+40",
		".data..percpu 0500000000000000",
		"__dyndbg 0000000000000000020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202 0:64:.rodata.const.6+0",
		"__mcount_loc 000000000000000000000000000000000000000000000000 0:64:f+0 8:64:old+0 16:64:helper+0",
	}},
	{name: "paravirt and recordmcount", machine: elf.EM_X86_64, source: oldX86, show: ".text .para __", want: []string{
		".text.f e800000000b808000000ff1500000000c3 1:PC32:__fentry__-4 12:PC32:pv_ops-4",
		".parainstructions 00000000000000002806000000000000 0:64:.text.f+10",
		"__mcount_loc 0000000000000000 0:64:f+0",
	}},
	{name: "fixup", machine: elf.EM_X86_64, source: fixupX86, show: ".text .fixup .altinstr __ex", want: []string{
		".text.changes e800000000488b07f60500000000010f8500000000b808000000c3 1:PLT32:__fentry__-4 10:PC32:flags-5 17:PC32:.altinstr_aux-4",
		".fixup b8f2ffffffe900000000 6:PC32:.text.changes+4",
		"__ex_table 000000000000000000000000 0:PC32:.text.changes+5 4:PC32:.fixup+0 8:PC32:ex_handler_default+0",
		".altinstr_aux f6050000000002e900000000 2:PC32:flags-5 8:PC32:.text.changes+4",
	}},
	{name: "callbacks", machine: elf.EM_X86_64, source: callbacksX86, show: ".text .kpatch .livepatch .discard", want: []string{
		".text.enter f30f1efae80000000031c0c3 5:PLT32:__fentry__-4",
		".text.f e800000000b808000000c3 1:PLT32:__fentry__-4",
		".discard.ibt_endbr_noseal 0000000000000000 0:64:enter+0",
	}},
	{name: "two callbacks of a kind", machine: elf.EM_X86_64, source: doubleX86, refuse: []refusal.Code{refusal.CallbackDuplicate}},
	{name: "arm64", machine: elf.EM_AARCH64, source: twoARM64, show: ". _", want: []string{
		".text.changes 1f2003d51f2003d55f2403d51f2003d51f2003d5200040f91f2003d5000021d41f2003d51f2003d500018052c0035fd6",
		".text.grows 1f2003d51f2003d55f2403d51f2003d51f2003d5200040f91f2003d5000021d41f2003d51f2003d500018052010000902100009100000094c0035fd6 44:ADR_PREL_PG_HI21:changes#orig+0 48:ADD_ABS_LO12_NC:changes#orig+0 52:CALL26:changes+0",
		".rodata.const.3 66696c652e6300",
		"__ex_table 000000000000000001000200000000000000000001000200 0:PREL32:.text.changes+20 4:PREL32:.text.changes+24 12:PREL32:.text.grows+20 16:PREL32:.text.grows+24",
		"__jump_table 0000000000000000000000000000000000000000000000000000000000000000 0:PREL32:.text.changes+24 4:PREL32:.text.changes+24 8:PREL64:key+1 16:PREL32:.text.grows+24 20:PREL32:.text.grows+24 24:PREL64:key+1",
		"__bug_table 00000000000000000c00010000000000000000000c000100 0:PREL32:.text.changes+28 4:PREL32:.rodata.const.3+0 12:PREL32:.text.grows+28 16:PREL32:.rodata.const.3+0",
		".altinstructions 000000000000000005000404000000000000000005800400000000000000000005000404000000000000000005800400 0:PREL32:.text.changes+32 4:PREL32:.altinstr_replacement+0 12:PREL32:.text.changes+36 16:PREL32:callback+0 24:PREL32:.text.grows+32 28:PREL32:.altinstr_replacement+4 36:PREL32:.text.grows+36 40:PREL32:callback+0",
		".altinstr_replacement 620040f9620040f9",
		"__patchable_function_entries 0000000000000000 of .text.changes 0:ABS64:.text.changes+0",
		"__patchable_function_entries 0000000000000000 of .text.grows 0:ABS64:.text.grows+0",
	}},
}
