package kernel

import "debug/elf"

const (
	x86 = elf.EM_X86_64
	arm = elf.EM_AARCH64
)

// Layouts of one 32-bit or 64-bit reference to code.
var (
	place32 = []Layout{{Size: 4, Fields: []Field{{0, 4, FieldCode, false}}}}
	place64 = []Layout{{Size: 8, Fields: []Field{{0, 8, FieldCode, false}}}}
)

// Sections is the table of special sections.
var Sections = []Section{
	{Name: "__bug_table", Use: Entries, What: "BUG and WARN", Source: "include/asm-generic/bug.h: struct bug_entry, 6.12",
		Layouts: []Layout{
			{Size: 16, Source: "arch/x86/include/asm/bug.h, 6.19 (with the format of WARN)", Fields: []Field{
				{0, 4, FieldCode, false}, {4, 4, FieldString, true}, {8, 4, FieldString, false}, {12, 2, FieldLine, false}, {14, 2, FieldFlags, false}}},
			{Size: 12, Fields: []Field{
				{0, 4, FieldCode, false}, {4, 4, FieldString, false}, {8, 2, FieldLine, false}, {10, 2, FieldFlags, false}}},
			{Size: 8, Source: "without CONFIG_DEBUG_BUGVERBOSE", Fields: []Field{{0, 4, FieldCode, false}, {4, 2, FieldFlags, false}, {6, 2, FieldPadding, false}}, Short: 6},
		}},
	{Name: "__ex_table", Machine: x86, Use: Entries, What: "exception handling of instructions", Source: "arch/x86/include/asm/extable.h: struct exception_table_entry, 6.12",
		Layouts: []Layout{
			{Size: 12, Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldTarget, false}, {8, 4, FieldFlags, false}}},
			{Size: 12, Source: "the third word is a handler before 5.16", Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldTarget, false}, {8, 4, FieldHandler, false}}},
		}},
	{Name: "__ex_table", Machine: arm, Use: Entries, What: "exception handling of instructions", Source: "arch/arm64/include/asm/extable.h: struct exception_table_entry, 6.12",
		Layouts: []Layout{
			{Size: 12, Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldTarget, false}, {8, 4, FieldFlags, false}}},
			{Size: 8, Source: "before 5.16", Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldTarget, false}}},
		}},
	{Name: "__jump_table", Use: Entries, What: "static keys", Source: "include/linux/jump_label.h: struct jump_entry, 6.12",
		Layouts: []Layout{
			{Size: 16, Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldTarget, false}, {8, 8, FieldKey, false}}},
			{Size: 24, Source: "absolute addresses, x86-64 before 4.19", Fields: []Field{{0, 8, FieldCode, false}, {8, 8, FieldTarget, false}, {16, 8, FieldKey, false}}},
		}},
	{Name: ".static_call_sites", Machine: x86, Use: Entries, What: "calls that are patched in place", Source: "include/linux/static_call_types.h: struct static_call_site, 6.12",
		Layouts: []Layout{{Size: 8, Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldKey, false}}}}},
	{Name: ".altinstructions", Machine: x86, Use: Entries, What: "instructions chosen by processor feature", Source: "arch/x86/include/asm/alternative.h: struct alt_instr, 6.12",
		Layouts: []Layout{
			{Size: 14, Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldReplacement, true}, {8, 4, FieldFlags, false}, {12, 1, FieldCodeLen, false}, {13, 1, FieldReplLen, false}}},
			{Size: 12, Source: "5.13 to 6.2, and stable kernels of 5.10", Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldReplacement, true}, {8, 2, FieldFlags, false}, {10, 1, FieldCodeLen, false}, {11, 1, FieldReplLen, false}}},
			{Size: 13, Source: "4.1 to 5.12, with the length of the padding", Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldReplacement, true}, {8, 2, FieldFlags, false}, {10, 1, FieldCodeLen, false}, {11, 1, FieldReplLen, false}, {12, 1, FieldFlags, false}}},
		}},
	{Name: ".altinstructions", Machine: arm, Use: Entries, What: "instructions chosen by processor feature", Source: "arch/arm64/include/asm/alternative.h: struct alt_instr, 6.12",
		Layouts: []Layout{{Size: 12, Fields: []Field{{0, 4, FieldCode, false}, {4, 4, FieldReplacement, true}, {8, 2, FieldFlags, false}, {10, 1, FieldCodeLen, false}, {11, 1, FieldReplLen, false}}}}},
	{Name: ".altinstr_replacement", Use: Support, What: "the other instructions of alternatives", Source: "arch/x86/include/asm/alternative.h, 6.12"},
	{Name: ".altinstr_aux", Machine: x86, Use: Support, What: "the slow paths of static_cpu_has", Source: "arch/x86/include/asm/cpufeature.h, 6.12"},
	{Name: ".fixup", Use: Support, What: "code that exceptions go on in", Source: "arch/x86/include/asm/uaccess.h, 5.15"},
	{Name: ".parainstructions", Machine: x86, Use: Entries, What: "paravirtual calls", Source: "arch/x86/include/asm/paravirt_types.h: struct paravirt_patch_site, 6.7",
		Layouts: []Layout{{Size: 16, Short: 10, Fields: []Field{{0, 8, FieldCode, false}, {8, 1, FieldFlags, false}, {9, 1, FieldCodeLen, false}, {10, 6, FieldPadding, false}}}}},
	{Name: ".smp_locks", Machine: x86, Use: Entries, Layouts: place32, What: "lock prefixes", Source: "arch/x86/include/asm/alternative.h, 6.12"},
	{Name: ".retpoline_sites", Machine: x86, Use: Entries, Derived: true, Layouts: place32, What: "indirect calls and jumps through thunks", Source: "tools/objtool/check.c, 6.12"},
	{Name: ".return_sites", Machine: x86, Use: Entries, Derived: true, Layouts: place32, What: "jumps to the return thunk", Source: "tools/objtool/check.c, 6.12"},
	{Name: ".call_sites", Machine: x86, Use: Entries, Derived: true, Layouts: place32, What: "direct calls", Source: "tools/objtool/check.c, 6.12"},
	{Name: ".ibt_endbr_seal", Machine: x86, Use: Entries, Derived: true, Layouts: place32, What: "endbr64 that nothing needs", Source: "tools/objtool/check.c, 6.12"},
	{Name: ".cfi_sites", Machine: x86, Use: Entries, Derived: true, Layouts: place32, What: "preambles of kCFI", Source: "tools/objtool/check.c, 6.12"},
	{Name: ".kcfi_traps", Use: Entries, Layouts: place32, What: "traps of kCFI", Source: "include/linux/cfi.h, 6.12"},
	{Name: "__kcfi_traps", Use: Entries, Layouts: place32, What: "traps of kCFI", Source: "include/linux/cfi.h, 6.12"},
	{Name: "runtime_*", Use: Entries, BootOnly: true, Layouts: place32, What: "instructions that hold a constant of the running kernel", Source: "arch/x86/include/asm/runtime-const.h, 6.12"},
	{Name: ".printk_index", Use: Registry, What: "pointers to the descriptions of messages", Harmless: true, Source: "include/linux/printk.h, 6.12",
		Layouts: []Layout{{Size: 8, Fields: []Field{{0, 8, FieldKey, false}}}}},
	{Name: ".static_call_tramp_key", Use: Registry, Harmless: true, What: "trampolines and keys of static calls", Source: "include/linux/static_call_types.h, 6.12",
		Layouts: []Layout{{Size: 8, Fields: []Field{{0, 4, FieldKey, false}, {4, 4, FieldKey, false}}}}},

	{Name: ".orc_unwind", Use: Unwind, What: "unwinding", Source: "arch/x86/include/asm/orc_types.h: struct orc_entry, 6.12"},
	{Name: ".orc_unwind_ip", Use: Unwind, Layouts: place32, What: "unwinding", Source: "tools/objtool/orc_gen.c, 6.12"},
	{Name: ".orc_header", Use: Unwind, What: "which format the unwind tables have", Source: "arch/x86/include/asm/orc_header.h, 6.12"},
	{Name: ".sframe", Use: Unwind, What: "unwinding", Source: "SFrame 2"},
	{Name: ".eh_frame", Use: Unwind, What: "unwinding", Source: "Linux Standard Base, 10.6"},
	{Name: "__mcount_loc", Use: Sites, Layouts: place64, What: "calls of __fentry__", Source: "kernel/trace/ftrace.c, 6.12"},
	{Name: "__patchable_function_entries", Use: Sites, Layouts: place64, What: "entries with room for patching", Source: "arch/arm64/Makefile, 6.12"},

	{Name: "__ksymtab*", Use: Exports, What: "exported symbols", Source: "include/linux/export-internal.h, 6.12"},
	{Name: "___ksymtab*", Use: Exports, What: "exported symbols", Source: "include/asm-generic/export.h, 5.10"},
	{Name: "__kcrctab*", Use: Exports, What: "checksums of exported symbols", Source: "include/linux/export-internal.h, 6.12"},
	{Name: "___kcrctab*", Use: Exports, What: "checksums of exported symbols", Source: "include/asm-generic/export.h, 5.10"},
	{Name: "___kentry*", Use: Exports, What: "names that are kept for modules", Source: "include/asm-generic/vmlinux.lds.h, 6.12"},
	{Name: "__kflagstab*", Use: Exports, What: "flags of exported symbols", Source: "include/linux/export-internal.h, 7.2"},
	{Name: ".export_symbol", Use: Exports, What: "exported symbols, for the build", Source: "include/linux/export.h, 6.4"},

	{Name: ".initcall*", Use: Registry, What: "functions that run at boot", Source: "include/linux/init.h, 6.12"},
	{Name: ".exitcall.exit", Use: Registry, What: "functions that run at exit", Source: "include/linux/init.h, 6.12"},
	{Name: ".con_initcall.init", Use: Registry, What: "functions that run at boot", Source: "include/linux/init.h, 6.12"},
	{Name: ".security_initcall.init", Use: Registry, What: "functions that run at boot", Source: "include/linux/init.h, 4.19"},
	{Name: ".init.setup", Use: Registry, What: "parameters of the command line", Source: "include/linux/init.h, 6.12"},
	{Name: "__param", Use: Registry, What: "parameters", Source: "include/linux/moduleparam.h, 6.12"},
	{Name: "__modver", Use: Registry, What: "versions of modules", Source: "include/linux/module.h, 6.12"},
	{Name: "__tracepoints_ptrs", Use: Registry, What: "pointers to tracepoints", Source: "include/linux/tracepoint.h, 6.12"},
	{Name: "_ftrace_events", Use: Registry, What: "pointers to trace events", Source: "include/trace/trace_events.h, 6.12"},
	{Name: "_ftrace_eval_map", Use: Registry, What: "values of enumerations in trace events", Source: "include/trace/stages/init.h, 6.12"},
	{Name: "__syscalls_metadata", Use: Registry, What: "system calls, for tracing", Source: "include/linux/syscalls.h, 6.12"},
	{Name: "__bpf_raw_tp_map", Use: Registry, What: "tracepoints for BPF", Source: "include/trace/bpf_probe.h, 6.12"},
	{Name: "_kprobe_blacklist", Use: Registry, Harmless: true, What: "functions that may not be probed", Source: "include/asm-generic/kprobes.h, 6.12"},
	{Name: "_error_injection_whitelist", Use: Registry, Harmless: true, What: "functions that may be made to fail", Source: "include/asm-generic/error-injection.h, 6.12"},
	{Name: "__earlycon_table", Use: Registry, What: "early consoles", Source: "include/linux/serial_core.h, 6.12"},
	{Name: "__irqchip_acpi_probe_table", Use: Registry, What: "interrupt controllers", Source: "include/linux/acpi.h, 6.12"},
	{Name: ".lsm_info.init", Use: Registry, What: "security modules", Source: "include/linux/lsm_hooks.h, 6.12"},
	{Name: ".early_lsm_info.init", Use: Registry, What: "security modules", Source: "include/linux/lsm_hooks.h, 6.12"},
	{Name: ".x86_cpu_dev.init", Use: Registry, What: "makers of processors", Source: "arch/x86/kernel/cpu/cpu.h, 6.12"},
	{Name: ".apicdrivers", Use: Registry, What: "interrupt controllers", Source: "arch/x86/include/asm/apic.h, 6.12"},
	{Name: ".pci_fixup*", Use: Registry, What: "quirks of devices", Source: "include/linux/pci.h, 6.12"},
	{Name: "___srcu_struct_ptrs", Use: Registry, What: "SRCU structures of modules", Source: "include/linux/srcutree.h, 6.12"},
	{Name: ".kunit_test_suites", Use: Registry, What: "tests", Source: "include/kunit/test.h, 6.12"},
	{Name: ".kunit_init_test_suites", Use: Registry, What: "tests", Source: "include/kunit/test.h, 6.12"},
	{Name: "__dyndbg_classes", Use: Registry, What: "classes of debug messages", Source: "include/linux/dynamic_debug.h, 6.12"},

	{Name: "__verbose", Use: Descriptors, What: "debug messages", Source: "include/linux/dynamic_debug.h, 5.8"},
	{Name: "__dyndbg", Use: Descriptors, What: "debug messages", Source: "include/linux/dynamic_debug.h, 6.12"},
	{Name: "alloc_tags", Use: Descriptors, What: "places that allocate", Source: "include/linux/alloc_tag.h, 6.12"},
	{Name: "_ftrace_branch", Use: Descriptors, What: "counters of branches", Source: "include/linux/compiler.h, 6.12"},
	{Name: "_ftrace_annotated_branch", Use: Descriptors, What: "counters of branches", Source: "include/linux/compiler.h, 6.12"},

	{Name: ".discard*", Use: Dropped, What: "notes for objtool and modpost", Source: "include/asm-generic/vmlinux.lds.h, 6.12"},
	{Name: ".modinfo", Use: Dropped, What: "licence, parameters, imported namespaces", Source: "include/linux/module.h, 6.12"},
	{Name: ".llvm_addrsig*", Use: Dropped, What: "which symbols have an address", Source: "LLVM 14, extensions"},
	{Name: ".llvm.*", Use: Dropped, What: "notes of the compiler", Source: "LLVM 14, extensions"},
	{Name: "__tracepoint_check", Use: Dropped, What: "which tracepoints are used", Source: "include/linux/tracepoint.h, 6.19"},
	{Name: ".BTF*", Use: Dropped, What: "types", Source: "include/asm-generic/vmlinux.lds.h, 6.12"},
	{Name: "__versions", Use: Dropped, What: "checksums of imported symbols", Source: "scripts/mod/modpost.c, 6.12"},
	{Name: "__version_ext_*", Use: Dropped, What: "checksums of imported symbols", Source: "scripts/mod/modpost.c, 6.14"},
	{Name: ".gnu.linkonce.this_module", Use: Dropped, What: "the module itself", Source: "scripts/module.lds.S, 6.12"},
	{Name: ".gnu.linkonce..*", Use: Dropped, What: "the module itself", Source: "scripts/module.lds.S, 6.12"},
	{Name: ".hyp.reloc", Machine: arm, Use: Dropped, What: "relocations of the hypervisor's code", Source: "arch/arm64/kvm/hyp/nvhe/gen-hyprel.c, 6.12"},
	{Name: ".hyp.event_ids", Machine: arm, Use: Registry, What: "trace events of the hypervisor", Source: "arch/arm64/include/asm/kvm_hypevents.h, 7.1"},
	{Name: ".kpatch.*", Use: Request, What: "requests of a patch's author", Source: "the macros of kpatch-macros.h"},
	{Name: ".livepatch.*", Use: Request, What: "requests of a patch's author", Source: "livepatch's own header"},
}
