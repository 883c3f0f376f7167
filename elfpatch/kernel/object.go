package kernel

import (
	"bytes"
	"debug/elf"
	"strings"

	"livepatch/elfpatch"
)

// IsObject reports whether a file is a relocatable object of a Linux kernel: a
// unit of it, or a module. One mark alone may occur elsewhere, so it takes two
// that are independent of each other, or one that the build of no other program
// leaves.
func IsObject(f *elfpatch.File) bool {
	if f == nil || f.Type != elf.ET_REL || f.Machine != x86 && f.Machine != arm {
		return false
	}
	marks := sectionMarks(f)
	if marks < enoughMarks {
		marks += symbolMarks(f)
	}
	return marks >= enoughMarks
}

// enoughMarks is the sum of weights at which an object is the kernel's.
const enoughMarks = 2

// A Mark is a section or symbol that kernel objects have.
type Mark struct {
	Name   string // exact; a prefix if it ends in "*"
	Weight int
	Source string
}

// SectionMarks are sections that the kernel's headers and tools make. Each row
// counts once.
var SectionMarks = []Mark{
	{".modinfo", 2, "include/linux/module.h, 6.12"},
	{".gnu.linkonce.this_module", 2, "scripts/module.lds.S, 6.12"},
	{"__ksymtab*", 2, "include/linux/export-internal.h, 6.12"},
	{"___ksymtab*", 2, "include/asm-generic/export.h, 5.10"},
	{".export_symbol", 2, "include/linux/export.h, 6.4"},
	{"__bug_table", 2, "include/asm-generic/bug.h, 6.12"},
	{".altinstructions", 1, "arch/x86/include/asm/alternative.h, 6.12"},
	{"__ex_table", 1, "include/asm-generic/extable.h, 6.12"},
	{"__jump_table", 1, "include/linux/jump_label.h, 6.12"},
	{".static_call_sites", 1, "include/linux/static_call_types.h, 6.12"},
	{".smp_locks", 1, "arch/x86/include/asm/alternative.h, 6.12"},
	{".parainstructions", 1, "arch/x86/include/asm/paravirt_types.h, 6.7"},
	{".retpoline_sites", 1, "tools/objtool/check.c, 6.12"},
	{".return_sites", 1, "tools/objtool/check.c, 6.12"},
	{".call_sites", 1, "tools/objtool/check.c, 6.12"},
	{".ibt_endbr_seal", 1, "tools/objtool/check.c, 6.12"},
	{".orc_unwind_ip", 2, "tools/objtool/orc_gen.c, 6.12"},
	{"__mcount_loc", 1, "scripts/recordmcount.c, 6.12"},
	{".discard*", 1, "include/linux/objtool.h, 6.12"},
	{".init.text", 1, "include/linux/init.h, 6.12"},
	{".exit.text", 1, "include/linux/init.h, 6.12"},
	{".initcall*", 1, "include/linux/init.h, 6.12"},
	{".init.data", 1, "include/linux/init.h, 6.12"},
	{".sched.text", 1, "include/linux/sched/debug.h, 6.12"},
	{".noinstr.text", 1, "include/linux/compiler_types.h, 6.12"},
	{".spinlock.text", 1, "include/linux/spinlock.h, 6.12"},
	{".data..read_mostly", 1, "include/asm-generic/vmlinux.lds.h, 6.12"},
	{".data..percpu*", 1, "include/linux/percpu-defs.h, 6.12"},
	{".data..ro_after_init", 1, "include/linux/cache.h, 6.12"},
	{".data..once", 1, "include/linux/once_lite.h, 6.12"},
	{"__tracepoints*", 1, "include/linux/tracepoint.h, 6.12"},
	{"_ftrace_events", 1, "include/trace/trace_events.h, 6.12"},
	{"__dyndbg", 1, "include/linux/dynamic_debug.h, 6.12"},
	{"__verbose", 1, "include/linux/dynamic_debug.h, 5.8"},
	{".printk_index", 1, "include/linux/printk.h, 6.12"},
	{"__param", 1, "include/linux/moduleparam.h, 6.12"},
	{".kpatch.*", 1, "kpatch-macros.h, kpatch 0.9"},
	{".livepatch.*", 1, "livepatch's own header"},
	{".data..Lubsan*", 1, "gcc/ubsan.cc, gcc 12, for -fdata-sections"},
}

// SymbolMarks are symbols that the kernel has and libraries of programs have
// not. All functions of the kernel count as one mark: another program may have
// one of that name.
var SymbolMarks = []Mark{
	{"_printk", 1, "include/linux/printk.h, 6.12"},
	{"printk", 1, "include/linux/printk.h, 5.10"},
	{"__warn_printk", 1, "include/asm-generic/bug.h, 6.12"},
	{"__x86_return_thunk", 1, "arch/x86/lib/retpoline.S, 6.12"},
	{"pcpu_hot", 1, "arch/x86/include/asm/current.h, 6.12"},
	{"const_pcpu_hot", 1, "arch/x86/include/asm/current.h, 6.12"},
	{"current_task", 1, "arch/x86/include/asm/current.h, 6.1"},
	{"__per_cpu_offset", 1, "include/asm-generic/percpu.h, 6.12"},
	{"this_cpu_off", 1, "arch/x86/include/asm/percpu.h, 6.12"},
	{"cpu_number", 1, "arch/x86/include/asm/smp.h, 6.1"},
	{"kmalloc_caches", 1, "include/linux/slab.h, 6.12"},
	{"kfree", 1, "include/linux/slab.h, 6.12"},
	{"__kmalloc*", 1, "include/linux/slab.h, 6.12"},
	{"_raw_spin_*", 1, "include/linux/spinlock_api_smp.h, 6.12"},
	{"mutex_lock", 1, "include/linux/mutex.h, 6.12"},
	{"mutex_unlock", 1, "include/linux/mutex.h, 6.12"},
	{"down_read", 1, "include/linux/rwsem.h, 6.12"},
	{"down_write", 1, "include/linux/rwsem.h, 6.12"},
	{"__rcu_read_lock", 1, "include/linux/rcupdate.h, 6.12"},
	{"seq_printf", 1, "include/linux/seq_file.h, 6.12"},
	{"seq_puts", 1, "include/linux/seq_file.h, 6.12"},
	{"_copy_from_user", 1, "include/linux/uaccess.h, 6.12"},
	{"_copy_to_user", 1, "include/linux/uaccess.h, 6.12"},
	{"jiffies", 1, "include/linux/jiffies.h, 6.12"},
	{"__list_add_valid*", 1, "include/linux/list.h, 6.12"},
	{"__list_del_entry_valid*", 1, "include/linux/list.h, 6.12"},
	{"lockdep_*", 1, "include/linux/lockdep.h, 6.12"},
	{"__might_sleep", 1, "include/linux/kernel.h, 6.12"},
	{"__might_resched", 1, "include/linux/kernel.h, 6.12"},
	{"alt_cb_patch_nops", 1, "arch/arm64/include/asm/alternative-macros.h, 6.12"},
	{"system_cpucaps", 1, "arch/arm64/include/asm/cpufeature.h, 6.12"},
	{"cpu_hwcap*", 1, "arch/arm64/include/asm/cpufeature.h, 6.1"},
	{"init_task", 1, "include/linux/sched/task.h, 6.12"},
	{"module_put", 1, "include/linux/module.h, 6.12"},
	{"__this_module", 1, "include/linux/export.h, 6.12"},
	{"synchronize_rcu", 1, "include/linux/rcupdate.h, 6.12"},
	{"queue_work_on", 1, "include/linux/workqueue.h, 6.12"},
}

// fits reports whether a name is that of the mark.
func (m *Mark) fits(name string) bool {
	if prefix, ok := strings.CutSuffix(m.Name, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == m.Name
}

func sectionMarks(f *elfpatch.File) int {
	var seen uint64
	sum := 0
	for _, s := range f.Sections {
		if strings.HasPrefix(s.Name, ".rela") || len(s.Name) < 6 {
			continue
		}
		if s.Name == ".debug_str" || s.Name == ".debug_line_str" {
			// The compiler notes its options.
			if s.Flags&elf.SHF_COMPRESSED == 0 && (bytes.Contains(s.Data, []byte("-mcmodel=kernel")) || bytes.Contains(s.Data, []byte("-D__KERNEL__"))) {
				return enoughMarks
			}
			continue
		}
		for i := range SectionMarks {
			if seen>>i&1 == 0 && SectionMarks[i].fits(s.Name) {
				seen |= 1 << i
				sum += SectionMarks[i].Weight
			}
		}
		if sum >= enoughMarks {
			return sum
		}
	}
	return sum
}

// symbolMarks counts, each of them once: functions of the kernel that the
// object needs; an entry for ftrace; names that only the kernel's macros make.
func symbolMarks(f *elfpatch.File) int {
	uses, fentry, macros := 0, 0, 0
	for i := range f.Symbols {
		s := &f.Symbols[i]
		switch {
		case i == 0 || s.Name == "":
		case strings.HasPrefix(s.Name, "__UNIQUE_ID_"), strings.HasPrefix(s.Name, "__pfx_"), strings.HasPrefix(s.Name, "__ksymtab_"),
			strings.HasPrefix(s.Name, "__initcall_"), strings.HasPrefix(s.Name, "__addressable_"):
			macros = 1
		case s.Section != elfpatch.Undefined:
		case s.Name == "__fentry__":
			fentry = 1
		default:
			for k := range SymbolMarks {
				if SymbolMarks[k].fits(s.Name) {
					uses = 1
					break
				}
			}
		}
		if uses+fentry+macros >= enoughMarks {
			break
		}
	}
	return uses + fentry + macros
}
