package diff

import (
	"debug/elf"

	"livepatch/internal/refusal"
)

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
			".text.f f30f1efae800000000eb0ce90c000000b808000000c3cc0f1f440000e800000000ffd00f0b 5:PLT32:__fentry__-4 29:PLT32:__SCT__chosen-4",
			"__jump_table 0000000000000000000000000000000000000000000000000000000000000000 0:PC32:.text.f+9 4:PC32:.text.f+23 8:PC64:livepatch_off_key+2 16:PC32:.text.f+11 20:PC32:.text.f+28 24:PC64:switched+2",
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
	{name: "new static call", machine: elf.EM_X86_64, source: callX86, show: ".text .static .data", want: []string{
		".text.f e800000000e800000000c3 1:PLT32:__fentry__-4 6:PLT32:__SCT__mine-4",
		".data.__SCK__mine 00000000000000000100000000000000 0:64:target+0",
		".static_call.text e9000000000fb9cc 1:PC32:target-4",
	}},
	{name: "registries", machine: elf.EM_X86_64, source: registryX86, show: ". _", want: []string{
		".text.f e8000000000f0bb808000000c3 1:PLT32:__fentry__-4",
		".kcfi_traps 00000000 0:PC32:.text.f+5",
		"__mcount_loc 0000000000000000 0:64:f+0",
	}},
	{name: "pointers", machine: elf.EM_X86_64, source: pointersX86, show: ".text .rodata", want: []string{
		".text.f e800000000b808000000c3 1:PLT32:__fentry__-4",
		".text.quiet e800000000b80a000000c3 1:PLT32:__fentry__-4",
		".text.user e800000000e800000000e80000000048c7c700000000488d350000000048c7c20000000048c7c100000000c3 1:PLT32:__fentry__-4 6:PLT32:f-4 11:PC32:.text.quiet-4 18:32S:f#orig+0 25:PC32:quiet#orig-4 32:32S:.text.fresh+0 39:32S:.rodata.ops+0",
		".text.fresh e800000000c3 1:PLT32:__fentry__-4",
		".rodata.ops 000000000000000000000000000000000000000000000000 0:64:f#orig+0 8:64:quiet#orig+0 16:64:.text.fresh+0",
	}},
	{name: "pointers on arm64", machine: elf.EM_AARCH64, source: pointersARM64, show: ".text .rodata __", want: []string{
		".text.f 785634121f2003d51f2003d500018052c0035fd6",
		".text.user 1f2003d51f2003d50000009400000090000000910100009021000091c0035fd6 8:CALL26:f+0 12:ADR_PREL_PG_HI21:f#orig+0 16:ADD_ABS_LO12_NC:f#orig+0 20:ADR_PREL_PG_HI21:.rodata.ops+0 24:ADD_ABS_LO12_NC:.rodata.ops+0",
		".rodata.ops 00000000000000000000000000000000 0:ABS64:f#orig+0 8:ABS64:.text.fresh+0",
		".text.fresh c0035fd6",
		"__patchable_function_entries 00000000000000000000000000000000 0:ABS64:f+0 8:ABS64:user+0",
	}},
	{name: "keys of modules, after objtool", machine: elf.EM_X86_64, source: tracedX86, show: ".text __jump .static .orc",
		modules: "__tracepoint_event __SCK__tp_func_event", warn: []string{`f: tracepoint "event" of module m is off in the new code`}, want: []string{
			".text.f e8000000000f1f04006690b808000000c3e800000000c3 1:PLT32:__fentry__-4 18:PLT32:__SCT__tp_func_event-4",
			".orc_unwind 010101010101000000000000",
			".orc_unwind_ip 0000000000000000 0:PC32:f+0 4:PC32:.text.f+23",
		}},
}
