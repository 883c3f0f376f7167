package kstate

// A message is a line of the kernel's log that has to do with loading a
// livepatch, and what it means for the patch. In Pattern … stands for anything.
type message struct {
	Pattern string
	Meaning string // empty: the line says it
	Source  string // where the kernel writes it, and which version was read
	fault   bool   // the kernel is in trouble
}

// messages are looked through in order; the first that fits counts.
var messages = []message{
	// The livepatch core: looking up symbols.
	{"livepatch: symbol '…' not found in symbol table", "the module names a symbol that this kernel does not have: it was made for another one", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: unresolvable ambiguity for symbol", "several symbols have this name and the module does not say which one it means", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: symbol position … not found", "the module was made for a kernel with more symbols of this name", "kernel/livepatch/core.c, 6.12", false},
	{"is not marked as a livepatch symbol", "the module is damaged: a livepatch relocation refers to an ordinary symbol", "kernel/livepatch/core.c, 6.12", false},
	{"has an incorrectly formatted name", "the module is damaged: a livepatch symbol or section has a name that the kernel cannot take apart", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: invalid access to vmlinux symbol", "the module uses a symbol of the kernel image in the relocations of a module", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: kallsyms size lookup failed", "the kernel does not know how long the function is; its symbol table may be stripped", "kernel/livepatch/core.c, 6.12", false},

	// Enabling.
	{"is not marked as a livepatch module", "the module lacks livepatch=Y in .modinfo", "kernel/livepatch/core.c, 6.12", false},
	{"is not compatible with the already installed livepatches", "a loaded livepatch changed a system state that this one does not know, or knows in an older version", "kernel/livepatch/core.c and state.c, 6.12", false},
	{"livepatch: pre-patch callback failed", "a function of the patch decided that it cannot be applied now", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: failed to find location for function", "ftrace has no site in this function: it cannot be patched this way", "kernel/livepatch/patch.c, 6.12", false},
	{"livepatch: failed to set ftrace filter for function", "ftrace does not take the function's site", "kernel/livepatch/patch.c, 6.12", false},
	{"livepatch: failed to register ftrace handler for function '…' (-16)", "something else redirects this function already, such as a kprobe with a post handler, or ftrace is switched off", "kernel/livepatch/patch.c and kernel/trace/ftrace.c, 6.12", false},
	{"livepatch: failed to register ftrace handler for function", "ftrace refused to redirect the function", "kernel/livepatch/patch.c, 6.12", false},
	{"livepatch: failed to patch object", "", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: failed to enable patch", "", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: This architecture doesn't have support for the livepatch consistency model", "the kernel cannot tell which functions a sleeping task is in, so the transition may never end", "kernel/livepatch/core.c, 6.12", false},
	{"livepatch: failed to initialize patch '…' for module", "the patch does not fit the module that is being loaded, which is refused therefore", "kernel/livepatch/core.c, 6.12", false},
	{"refusing to load module", "a module cannot be loaded as long as this patch, which does not fit it, is enabled", "kernel/livepatch/core.c, 6.12", false},

	// The base module of direct calls (internal/kmod/base_code.go).
	{"livepatch_direct: …cannot be redirected: error -16", "something else is called directly for this function, or redirects it", "kernel/trace/ftrace.c, 6.12", false},
	{"livepatch_direct: …cannot be redirected: error", "ftrace refused to redirect the function", "kernel/trace/ftrace.c, 6.12", false},

	// The transition.
	{"livepatch: signaling remaining tasks", "after 15 s the kernel wakes the tasks that have not switched", "kernel/livepatch/transition.c, 6.12", false},
	{"livepatch: forcing remaining tasks to the patched state", "consistency was given up; the modules of the patches can never be unloaded", "kernel/livepatch/transition.c, 6.12", false},

	// The module loader.
	{": version magic '…' should be '", "the module was made for a kernel of another version or configuration", "kernel/module/main.c, 6.12", false},
	{": disagrees about version of symbol ", "the module was made for a kernel in which this symbol has another type", "kernel/module/version.c, 6.12", false},
	{": no symbol version for ", "the module lacks the version of a symbol that it uses", "kernel/module/version.c, 6.12", false},
	{": Unknown symbol ", "the module uses a symbol that this kernel does not export to it", "kernel/module/main.c, 6.12", false},
	{"does not import it", "the module uses an exported symbol without naming its namespace", "kernel/module/main.c, 6.12", false},
	{"is marked as livepatch module, but livepatch support is disabled", "the kernel was built without CONFIG_LIVEPATCH", "kernel/module/main.c, 6.12", false},
	{".gnu.linkonce.this_module section size must match", "the module was made for a kernel with another struct module", "kernel/module/main.c, 6.12", false},
	{"Loading of … is rejected", "the kernel takes signed modules only, and this one is not signed with a key that it knows", "kernel/module/signing.c, 6.12", false},
	{"Lockdown: …unsigned module loading", "the kernel is locked down: it takes only modules signed with a key that it knows", "security/lockdown/lockdown.c, 6.12", false},
	{"module verification failed: signature and/or required key missing", "the module is not signed with a key that the kernel knows; it is loaded and taints the kernel", "kernel/module/main.c, 6.12", false},
	{"Module … is blacklisted", "the kernel command line (module_blacklist=) forbids a module of this name", "kernel/module/main.c, 6.12", false},
	{"tainting kernel with TAINT_LIVEPATCH", "", "kernel/module/main.c, 6.12", false},
	{"loading out-of-tree module taints kernel", "", "kernel/module/main.c, 6.12", false},
	{"loading module not compiled with retpoline compiler", "the module does not say that its indirect branches are protected", "kernel/module/main.c, 6.12", false},
	{"overflow in relocation type", "the module was loaded too far from what it refers to", "arch/x86/kernel/module.c, 6.12", false},
	{"Invalid relocation target, existing value is nonzero", "the module is damaged: the place of a relocation is not zero", "arch/x86/kernel/module.c, 6.12", false},

	// Faults, whatever they come from.
	{"Missing ENDBR:", "code that is called indirectly does not begin with endbr64", "arch/x86/kernel/cet.c, 6.12", true},
	{"Unpatched return thunk in use", "a return of the module was not listed in .return_sites", "arch/x86/kernel/cpu/bugs.c, 6.12", true},
	{"BUG: unable to handle", "the kernel followed a bad pointer", "arch/x86/mm/fault.c, 6.12", true},
	{"Unable to handle kernel", "the kernel followed a bad pointer", "arch/arm64/mm/fault.c, 6.12", true},
	{"general protection fault", "the kernel used a bad pointer", "arch/x86/kernel/traps.c, 6.12", true},
	{"kernel BUG at", "an assertion of the kernel failed", "lib/bug.c, 6.12", true},
	{"WARNING: CPU:", "an expectation of the kernel did not hold", "kernel/panic.c, 6.12", true},
	{"Oops", "the kernel killed what it was doing", "arch/x86/kernel/dumpstack.c and arch/arm64/kernel/traps.c, 6.12", true},
}

// An errno is what the system call that loads a module failed with, and what
// that means.
type errno struct {
	Name    string
	Meaning string
	Source  string
}

// errnos are the errors of finit_module, by the name of the number.
var errnos = []errno{
	{"EPERM", "the kernel forbids it: no CAP_SYS_MODULE, modules are disabled, the module is on a list, or the kernel is locked down", "kernel/module/main.c, 6.12"},
	{"EKEYREJECTED", "the kernel takes modules only if they are signed with a key that it knows, or the signature is not that of this module", "kernel/module/signing.c, 6.12"},
	{"EBADMSG", "the signature of the module is damaged", "kernel/module_signature.c, 6.12"},
	{"ENOEXEC", "the kernel does not take the file as a module of its own version and configuration", "kernel/module/main.c, 6.12"},
	{"EEXIST", "a module of this name is loaded", "kernel/module/main.c, 6.12"},
	{"ENOENT", "the module uses a symbol that the kernel does not have", "kernel/module/main.c, 6.12"},
	{"EBUSY", "another livepatch is in transition, or something else redirects one of the functions", "kernel/livepatch/core.c and kernel/trace/ftrace.c, 6.12"},
	{"ENODEV", "the livepatch core did not start, or ftrace has shut itself down after a fault", "kernel/livepatch/core.c and kernel/trace/ftrace.c, 6.12"},
	{"EINVAL", "the livepatch core or the module loader refused the module", "kernel/livepatch/core.c and kernel/module/main.c, 6.12"},
	{"ENOMEM", "the kernel is out of memory for modules", "kernel/module/main.c, 6.12"},
}

// ErrnoMeaning says what it means that loading a module failed with the error
// of that name, "" if there is nothing to say.
func ErrnoMeaning(name string) string {
	for _, e := range errnos {
		if e.Name == name {
			return e.Meaning
		}
	}
	return ""
}
