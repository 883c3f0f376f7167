package kernel

// What a linked kernel says about its code by symbols: the linker script merges
// most tables into larger sections, and marks where each begins and ends.

import (
	"debug/elf"
	"strings"
)

// A Table is a table about code as a linked kernel holds it.
type Table struct {
	Section     string // name in objects and modules, where it is a section of its own
	Start, Stop string // symbols around it in a linked kernel
	Struct      string // type of an entry in BTF, "" if it has none
	Source      string
}

// Tables are the tables about code that a kernel or module may have, in the
// order of reports. The layouts are those of Lookup.
var Tables = []Table{
	{"__mcount_loc", "__start_mcount_loc", "__stop_mcount_loc", "", "include/asm-generic/vmlinux.lds.h MCOUNT_REC, 6.12"},
	{"__patchable_function_entries", "", "", "", "include/asm-generic/vmlinux.lds.h MCOUNT_REC, 6.12: part of __mcount_loc in a linked kernel"},
	{"__jump_table", "__start___jump_table", "__stop___jump_table", "jump_entry", "include/asm-generic/vmlinux.lds.h JUMP_TABLE_DATA, 6.12"},
	{".static_call_sites", "__start_static_call_sites", "__stop_static_call_sites", "static_call_site", "include/asm-generic/vmlinux.lds.h STATIC_CALL_DATA, 6.12"},
	{".altinstructions", "__alt_instructions", "__alt_instructions_end", "alt_instr", "arch/x86/kernel/vmlinux.lds.S, arch/arm64/kernel/vmlinux.lds.S, 6.12"},
	{".parainstructions", "__parainstructions", "__parainstructions_end", "paravirt_patch_site", "arch/x86/kernel/vmlinux.lds.S, 6.1"},
	{".retpoline_sites", "__retpoline_sites", "__retpoline_sites_end", "", "arch/x86/kernel/vmlinux.lds.S, 6.12"},
	{".return_sites", "__return_sites", "__return_sites_end", "", "arch/x86/kernel/vmlinux.lds.S, 6.12"},
	{".call_sites", "__call_sites", "__call_sites_end", "", "arch/x86/kernel/vmlinux.lds.S, 6.12"},
	{".ibt_endbr_seal", "__ibt_endbr_seal", "__ibt_endbr_seal_end", "", "arch/x86/kernel/vmlinux.lds.S, 6.12"},
	{".cfi_sites", "__cfi_sites", "__cfi_sites_end", "", "arch/x86/kernel/vmlinux.lds.S, 6.12"},
	{".kcfi_traps", "__start___kcfi_traps", "__stop___kcfi_traps", "", "include/asm-generic/vmlinux.lds.h RO_DATA, 6.12"},
	{"__bug_table", "__start___bug_table", "__stop___bug_table", "bug_entry", "include/asm-generic/vmlinux.lds.h BUG_TABLE, 6.12"},
	{"__ex_table", "__start___ex_table", "__stop___ex_table", "exception_table_entry", "include/asm-generic/vmlinux.lds.h EXCEPTION_TABLE, 6.12"},
	{".smp_locks", "__smp_locks", "__smp_locks_end", "", "arch/x86/kernel/vmlinux.lds.S, 6.12: filled with zeros up to a page"},
	{"_kprobe_blacklist", "__start_kprobe_blacklist", "__stop_kprobe_blacklist", "", "include/asm-generic/vmlinux.lds.h KPROBE_BLACKLIST, 6.12"},
	{"_error_injection_whitelist", "__start_error_injection_whitelist", "__stop_error_injection_whitelist", "error_injection_entry", "include/asm-generic/vmlinux.lds.h ERROR_INJECT_WHITELIST, 6.12"},
	{".orc_unwind_ip", "__start_orc_unwind_ip", "__stop_orc_unwind_ip", "", "include/asm-generic/vmlinux.lds.h ORC_UNWIND_TABLE, 6.12"},
}

// Layouts returns the known forms of an entry, the most recent first.
func (t *Table) Layouts(m elf.Machine) []Layout {
	if s := Lookup(m, t.Section); s != nil && len(s.Layouts) > 0 {
		return s.Layouts
	}
	switch t.Section {
	case "_kprobe_blacklist":
		return place64 // include/asm-generic/kprobes.h, 6.12
	case "_error_injection_whitelist":
		return []Layout{{Size: 16, Fields: []Field{{0, 8, FieldCode, false}, {8, 4, FieldFlags, false}, {12, 4, FieldPadding, false}}}} // include/asm-generic/error-injection.h, 6.12
	}
	return nil
}

// RuntimeConstPrefix begins the names of the tables of constants that are
// written into code at boot; each constant has one, of offsets to the
// instruction's field (include/asm-generic/vmlinux.lds.h RUNTIME_CONST, 6.12).
// Their start symbols are the names behind "__start_", their ends behind
// "__stop_".
const RuntimeConstPrefix = "runtime_"

// AreaKind says what is particular about the code of an area.
type AreaKind uint8

const (
	AreaInit    AreaKind = iota + 1 // given back once the kernel or module has started
	AreaKprobes                     // kprobes refuse it; the compiler's tracing may be on
	AreaNoInstr                     // no instrumentation: no kprobes, no ftrace
	AreaEntry                       // entry code, mostly assembler: no kprobes
	AreaHyp                         // runs at EL2, with page tables of its own
)

// An Area is a part of the text with rules of its own.
type Area struct {
	Kind        AreaKind
	Machine     elf.Machine // EM_NONE: both
	Start, Stop string      // symbols around it in a linked kernel
	Sections    []string    // in objects; a prefix if it ends in "*"
	Modules     bool        // the rule holds in modules too
	What        string      // for readers: "in " and this
	Source      string
}

// Areas are the areas of a kernel's text, the most telling first.
var Areas = []Area{
	{AreaInit, elf.EM_NONE, "__init_begin", "__init_end", []string{".init.text", ".init.text.*"}, true,
		".init.text", "include/asm-generic/vmlinux.lds.h INIT_TEXT_SECTION, 6.12"},
	{AreaInit, elf.EM_NONE, "_sinittext", "_einittext", nil, false,
		".init.text", "include/asm-generic/vmlinux.lds.h INIT_TEXT_SECTION, 6.12"},
	{AreaHyp, elf.EM_AARCH64, "__hyp_text_start", "__hyp_text_end", []string{".hyp.text", ".hyp.text.*"}, false,
		".hyp.text", "arch/arm64/kernel/probes/kprobes.c arch_populate_kprobe_blacklist, 6.12"},
	{AreaHyp, elf.EM_AARCH64, "__hyp_idmap_text_start", "__hyp_idmap_text_end", []string{".hyp.idmap.text"}, false,
		".hyp.idmap.text", "arch/arm64/kernel/probes/kprobes.c arch_populate_kprobe_blacklist, 6.12"},
	{AreaNoInstr, elf.EM_NONE, "__noinstr_text_start", "__noinstr_text_end", []string{".noinstr.text", ".cpuidle.text"}, true,
		".noinstr.text", "kernel/kprobes.c populate_kprobe_blacklist, 6.12"},
	{AreaEntry, elf.EM_NONE, "__entry_text_start", "__entry_text_end", []string{".entry.text", ".entry.text.*"}, false,
		".entry.text", "arch/x86/kernel/kprobes/core.c, arch/arm64/kernel/probes/kprobes.c arch_populate_kprobe_blacklist, 6.12"},
	{AreaEntry, elf.EM_AARCH64, "__irqentry_text_start", "__irqentry_text_end", []string{".irqentry.text"}, false,
		".irqentry.text", "arch/arm64/kernel/probes/kprobes.c arch_populate_kprobe_blacklist, 6.12"},
	{AreaKprobes, elf.EM_NONE, "__kprobes_text_start", "__kprobes_text_end", []string{".kprobes.text"}, true,
		".kprobes.text", "kernel/kprobes.c populate_kprobe_blacklist, 6.12"},
}

// Covers says whether the code of an object's section belongs to the area.
func (a *Area) Covers(section string) bool {
	for _, name := range a.Sections {
		if prefix, ok := strings.CutSuffix(name, "*"); ok && strings.HasPrefix(section, prefix) || name == section {
			return true
		}
	}
	return false
}

// IsLabel says whether a symbol of a linked kernel's text is one that the linker
// script puts around parts of it, such as _stext and __noinstr_text_end
// (include/asm-generic/vmlinux.lds.h, arch/x86/kernel/vmlinux.lds.S and
// arch/arm64/kernel/vmlinux.lds.S, 6.12). In a table made from kallsyms
// nothing else tells it from a function.
func IsLabel(name string) bool {
	switch name {
	case "_text", "_stext", "_etext", "_sinittext", "_einittext", "__inittext_begin", "__inittext_end", "__exittext_begin", "__exittext_end":
		return true
	}
	return strings.HasPrefix(name, "__") && (strings.HasSuffix(name, "_text_start") || strings.HasSuffix(name, "_text_end"))
}

// PrefixOf returns the function that a symbol for what stands before an entry
// belongs to: __pfx_ marks call padding (tools/objtool/elf.c, 6.12), __cfi_ the
// type hash of a function (arch/x86/include/asm/linkage.h, 6.12).
func PrefixOf(name string) (function string, ok bool) {
	for _, p := range []string{"__pfx_", "__cfi_"} {
		if rest, cut := strings.CutPrefix(name, p); cut && rest != "" {
			return rest, true
		}
	}
	return "", false
}

// RelaBounds are the symbols around the dynamic relocations of a relocatable
// arm64 kernel (arch/arm64/kernel/vmlinux.lds.S: 6.12, and before the code that
// applies them became position-independent).
var RelaBounds = [][2]string{{"__pi_rela_start", "__pi_rela_end"}, {"__rela_start", "__rela_end"}}
