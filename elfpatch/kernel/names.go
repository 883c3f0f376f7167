package kernel

import "strings"

// A NameRule is a row of a table of names. A name fits exactly, with the
// number that gcc adds ("__key.12"), or behind the function that clang puts
// before it ("probe.__key.3").
type NameRule struct {
	Name   string
	What   string
	Source string
}

// SpecialStatics are static variables of functions that stand for a place in
// the code, not for state that the program wants to keep. The patch brings its
// own copies; which of several of one name became which does not matter.
var SpecialStatics = []NameRule{
	{"__key", "class of a lock, for lockdep", "include/linux/mutex.h, 6.12"},
	{"__warned", "a message was printed once", "include/linux/rcupdate.h, 6.12"},
	{"__already_done", "a message was printed once", "include/linux/once_lite.h, 6.12"},
	{"__print_once", "a message was printed once", "include/linux/printk.h, 5.15"},
	{"___done", "an action was taken once", "include/linux/once.h, 6.12"},
	{"___once_key", "an action is to be taken once", "include/linux/once.h, 6.12"},
	{"__func__", "name of the function", "C99, 6.4.2.2"},
	{"__FUNCTION__", "name of the function", "gcc manual, 6.48"},
	{"__PRETTY_FUNCTION__", "name of the function", "gcc manual, 6.48"},
	{"_rs", "limit of the rate of messages", "include/linux/ratelimit.h, 6.12"},
	{"CSWTCH", "values of a switch", "gcc/tree-switch-conversion.cc, gcc 12"},
	{"_entry", "description of a message", "include/linux/printk.h, 6.12"},
	{"_entry_ptr", "pointer to the description of a message", "include/linux/printk.h, 6.12"},
	{"descriptor", "debug message", "include/linux/dynamic_debug.h, 5.4"},
	{"__UNIQUE_ID_ddebug", "debug message", "include/linux/dynamic_debug.h, 6.12"},
	{"_alloc_tag", "place that allocates", "include/linux/alloc_tag.h, 6.12"},
	{"______f", "counters of a branch", "include/linux/compiler.h, 6.12"},
	{"__msg", "message of a netlink error", "include/linux/netlink.h, 6.12"},
	{"___tp_str", "text for traces", "include/linux/tracepoint.h, 6.12"},
}

// OnceSections hold nothing but flags that say that something was done once.
var OnceSections = []NameRule{
	{".data.once", "a message was printed once", "include/linux/once_lite.h, 5.15"},
	{".data..once", "a message was printed once", "include/linux/once_lite.h, 6.12"},
	{".data.unlikely", "a message was printed once", "include/asm-generic/bug.h, 4.13"},
	{".data..unlikely", "a message was printed once", "include/asm-generic/bug.h, 5.10"},
	{".data..do_once", "an action is to be taken once", "include/linux/once.h, 6.13"},
}

// SanitizerData are prefixes of symbols and sections of data that compilers
// make to describe places in code to a run-time checker.
var SanitizerData = []NameRule{
	{".Lubsan_data", "a place that UBSAN checks", "gcc/ubsan.cc, gcc 12"},
	{".Lubsan_type", "a type that UBSAN names", "gcc/ubsan.cc, gcc 12"},
	{"Lubsan_data", "a place that UBSAN checks", "gcc/ubsan.cc, gcc 12"},
	{"Lubsan_type", "a type that UBSAN names", "gcc/ubsan.cc, gcc 12"},
	{".data..Lubsan_data", "a place that UBSAN checks", "gcc/ubsan.cc, gcc 12"},
	{".data..Lubsan_type", "a type that UBSAN names", "gcc/ubsan.cc, gcc 12"},
	{".data.rel.local..Lubsan_data", "a place that UBSAN checks", "gcc/ubsan.cc, gcc 12"},
	{".data.rel.local..Lubsan_type", "a type that UBSAN names", "gcc/ubsan.cc, gcc 12"},
}

// UnnamedData are prefixes of the names that clang gives to data without one.
var UnnamedData = []NameRule{
	{".L__unnamed_", "data without a name", "llvm/lib/IR, LLVM 14"},
	{"__unnamed_", "data without a name", "llvm/lib/IR, LLVM 14"},
	{".data..L__unnamed_", "data without a name", "llvm/lib/IR, LLVM 14"},
	{".data.__unnamed_", "data without a name", "llvm/lib/IR, LLVM 14"},
	{".data.rel..L__unnamed_", "data without a name", "llvm/lib/IR, LLVM 14"},
	{".data.rel.local..L__unnamed_", "data without a name", "llvm/lib/IR, LLVM 14"},
}

// UniquePrefixes start names whose numbers mean nothing.
var UniquePrefixes = []NameRule{
	{"__UNIQUE_ID_", "made unique with a counter", "include/linux/compiler.h, 6.12"},
	{"__addressable_", "keeps a symbol", "include/linux/compiler.h, 5.15"},
	{"___ADDRESSABLE_", "keeps a symbol", "include/linux/compiler.h, 6.12"},
	{"__initcall__kmod_", "runs at boot", "include/linux/init.h, 6.12"},
	{"__bpf_trace_tp_map_", "tracepoint for BPF", "include/trace/bpf_probe.h, 6.12"},
}

// Suffixes are what compilers put behind the name of a function that they
// split or copied.
var Suffixes = []struct {
	Suffix string
	Part   bool // a piece of the function without an entry of its own
	What   string
	Source string
}{
	{".cold", true, "the unlikely part", "gcc/cgraphclones.cc, gcc 12"},
	{".part", false, "what did not get inlined", "gcc/ipa-split.cc, gcc 12"},
	{".isra", false, "with other arguments", "gcc/ipa-param-manipulation.cc, gcc 12"},
	{".constprop", false, "for constant arguments", "gcc/ipa-cp.cc, gcc 12"},
	{".llvm", false, "made global for ThinLTO", "llvm/lib/Transforms/Utils/FunctionImportUtils.cpp, LLVM 14"},
	{".lto_priv", false, "made unique for LTO", "gcc/lto/lto-partition.cc, gcc 12"},
}

// PrefixSymbols start names of the padding before functions.
var PrefixSymbols = []NameRule{
	{"__pfx_", "padding before a function", "scripts/Makefile.lib: objtool --prefix, 6.3"},
	{"__cfi_", "padding before a function, with the kCFI hash", "llvm, -fsanitize=kcfi, LLVM 16"},
}

// A TextRule is a row of the table of code sections with a meaning.
type TextRule struct {
	Name   string // exact; a prefix if it ends in "*"
	Fate   TextFate
	What   string
	Source string
}

// TextFate says whether functions of a section can be patched.
type TextFate uint8

const (
	TextFixed TextFate = iota + 1 // as any other, but -ffunction-sections leaves them together
	TextInit                      // runs once, and its memory is given back
	TextExit                      // runs when a module goes
	TextNever                     // ftrace does not reach it
)

// FixedText are the sections of code that are not named after functions.
var FixedText = []TextRule{
	{".sched.text", TextFixed, "scheduler; left out of the waiting place of tasks", "include/linux/sched/debug.h, 6.12"},
	{".spinlock.text", TextFixed, "locks", "include/linux/spinlock.h, 6.12"},
	{".kprobes.text", TextFixed, "not to be probed", "include/linux/kprobes.h, 6.12"},
	{".ref.text", TextFixed, "refers to init code on purpose", "include/linux/init.h, 6.12"},
	{".text.startup*", TextFixed, "constructors", "gcc/varasm.cc, gcc 12"},
	{".text.unlikely*", TextFixed, "seldom run", "gcc/varasm.cc, gcc 12"},
	{".text.hot*", TextFixed, "often run", "gcc/varasm.cc, gcc 12"},
	{".text.exit*", TextFixed, "destructors", "gcc/varasm.cc, gcc 12"},
	{".cpuidle.text", TextFixed, "waits for work", "include/linux/cpu.h, 6.12"},
	{".irqentry.text", TextFixed, "entry of interrupts", "include/asm-generic/vmlinux.lds.h, 6.12"},
	{".softirqentry.text", TextFixed, "entry of soft interrupts", "include/asm-generic/vmlinux.lds.h, 6.12"},
	{".noinstr.text", TextNever, "not to be instrumented", "include/linux/compiler_types.h: noinstr, 6.12"},
	{".entry.text", TextNever, "entry of the kernel", "arch/x86/entry/entry_64.S, 6.12"},
	{".head.text", TextInit, "runs before anything else", "include/linux/init.h, 6.12"},
	{".init.text*", TextInit, "runs once when the kernel or module starts", "include/linux/init.h, 6.12"},
	{".meminit.text*", TextInit, "runs when memory is added", "include/linux/init.h, 6.12"},
	{".cpuinit.text*", TextInit, "runs when processors are added", "include/linux/init.h, 3.10"},
	{".devinit.text*", TextInit, "runs when devices are added", "include/linux/init.h, 3.7"},
	{".inittext", TextInit, "runs in the decompressor", "arch/x86/boot/compressed, 6.12"},
	{".exit.text*", TextExit, "runs when a module goes", "include/linux/init.h, 6.12"},
	{".hyp.text*", TextNever, "hypervisor", "arch/arm64/include/asm/kvm_hyp.h, 6.12"},
	{".hyp.idmap.text", TextNever, "hypervisor", "arch/arm64/kernel/vmlinux.lds.S, 6.12"},
	{".idmap.text", TextNever, "runs without the MMU", "arch/arm64/kernel/vmlinux.lds.S, 6.12"},
	{".static_call.text", TextNever, "trampolines of static calls", "include/linux/static_call_types.h, 6.12"},
	{".text..__x86.*", TextNever, "thunks", "arch/x86/lib/retpoline.S, 6.12"},
}

// InitData are prefixes of sections of data that is given back after the
// kernel or module has started.
var InitData = []NameRule{
	{".init.data", "used while starting", "include/linux/init.h, 6.12"},
	{".init.rodata", "used while starting", "include/linux/init.h, 6.12"},
	{".init.bss", "used while starting", "include/asm-generic/vmlinux.lds.h, 6.12"},
	{".meminit.data", "used while starting", "include/linux/init.h, 6.12"},
	{".meminit.rodata", "used while starting", "include/linux/init.h, 6.12"},
}

// VDSO are names by which an object of the vDSO is known: user space runs its
// code, which no kernel patch reaches.
var VDSO = []NameRule{
	{"__vdso_*", "called by the C library", "arch/x86/entry/vdso/vdso.lds.S, 6.12"},
	{"__kernel_gettimeofday", "called by the C library", "arch/arm64/kernel/vdso/vdso.lds.S, 6.12"},
	{"__kernel_clock_gettime", "called by the C library", "arch/arm64/kernel/vdso/vdso.lds.S, 6.12"},
	{"__kernel_clock_getres", "called by the C library", "arch/arm64/kernel/vdso/vdso.lds.S, 6.12"},
	{"__kernel_getrandom", "called by the C library", "arch/arm64/kernel/vdso/vdso.lds.S, 6.12"},
	{"__kernel_rt_sigreturn", "called by the kernel in user space", "arch/arm64/kernel/vdso/vdso.lds.S, 6.12"},
}

// Fits reports whether a name is that of the rule: the whole of it ("__key"),
// with numbers behind ("__key.12"), or with a function before it
// ("probe.__key").
func (r *NameRule) Fits(name string) bool {
	rest, ok := strings.CutPrefix(name, r.Name)
	if ok && isNumbers(rest) {
		return true
	}
	// clang: FUNCTION.NAME, FUNCTION.NAME.3
	i := strings.Index(name, "."+r.Name)
	return i > 0 && isNumbers(name[i+1+len(r.Name):])
}

// isNumbers reports nothing, ".12", ".12.3", or digits.
func isNumbers(s string) bool { return strings.Trim(s, ".0123456789") == "" }

// SpecialStatic returns the rule that makes a variable a special static, nil
// if none does.
func SpecialStatic(name string) *NameRule {
	for i := range SpecialStatics {
		if SpecialStatics[i].Fits(name) {
			return &SpecialStatics[i]
		}
	}
	return nil
}

// HasPrefix returns the first rule whose name starts a name, nil if none does.
func HasPrefix(rules []NameRule, name string) *NameRule {
	for i := range rules {
		if strings.HasPrefix(name, strings.TrimSuffix(rules[i].Name, "*")) {
			return &rules[i]
		}
	}
	return nil
}

// IsOnceSection reports a section of flags that say that something was done
// once.
func IsOnceSection(name string) bool {
	for i := range OnceSections {
		if OnceSections[i].Name == name {
			return true
		}
	}
	return false
}

// TextOf returns the rule of a section of code, nil if it has no meaning of its
// own.
func TextOf(name string) *TextRule {
	for i := range FixedText {
		r := &FixedText[i]
		if prefix, ok := strings.CutSuffix(r.Name, "*"); ok && strings.HasPrefix(name, prefix) || r.Name == name {
			return r
		}
	}
	return nil
}

// Symbols of code that the kernel's calls lead to until its start replaces the
// calls, or for good (x86-64).
const (
	ReturnThunk           = "__x86_return_thunk" // arch/x86/lib/retpoline.S, 6.12
	IndirectThunks        = "__x86_indirect_"    // a prefix; arch/x86/lib/retpoline.S, 6.12
	StaticCallTrampolines = "__SCT__"            // a prefix; include/linux/static_call_types.h, 6.12
)

// TypeHashSize is how many bytes stand before a function of arm64 for kCFI: the hash of
// its type, which ends where the function begins.
const TypeHashSize = 4
