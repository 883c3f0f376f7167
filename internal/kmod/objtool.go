package kmod

import (
	"strings"
)

// Config is the configuration of a kernel: its options (without "CONFIG_") and
// their values, those that are not set left out.
type Config map[string]string

// ParseConfig reads a configuration in the form of .config. Lines that set
// nothing are skipped.
func ParseConfig(b []byte) Config {
	c := Config{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if name, found := strings.CutPrefix(name, "CONFIG_"); ok && found && value != "n" {
			c[name] = strings.Trim(value, `"`)
		}
	}
	return c
}

// On tells whether any of the options is set. Names change: ask for the old and
// the new one.
func (c Config) On(options ...string) bool {
	for _, o := range options {
		if c[o] == "y" {
			return true
		}
	}
	return false
}

// objtoolArgs are the rows of the kernel's own table of objtool arguments, in
// its order (scripts/Makefile.lib: 6.1, 6.12 and 7.2). The argument is given if
// one of the options is set. An option that a kernel does not have names an
// argument that its objtool does not have; the few whose meaning changed are in
// ObjtoolArgs.
var objtoolArgs = []struct {
	arg     string
	options []string
}{
	{"--hacks=jump_label", []string{"HAVE_JUMP_LABEL_HACK"}},
	{"--hacks=noinstr", []string{"HAVE_NOINSTR_HACK"}},
	{"--hacks=skylake", []string{"CALL_DEPTH_TRACKING", "MITIGATION_CALL_DEPTH_TRACKING"}}, // since 6.2
	{"--ibt", []string{"X86_KERNEL_IBT"}},
	{"--mcount", []string{"FTRACE_MCOUNT_USE_OBJTOOL"}},
	{"--orc", []string{"UNWINDER_ORC"}},
	{"--retpoline", []string{"RETPOLINE", "MITIGATION_RETPOLINE"}},
	{"--rethunk", []string{"RETHUNK", "MITIGATION_RETHUNK"}},
	{"--sls", []string{"SLS", "MITIGATION_SLS"}},
	{"--stackval", []string{"STACK_VALIDATION"}},
	{"--static-call", []string{"HAVE_STATIC_CALL_INLINE"}},
	{"--uaccess", []string{"HAVE_UACCESS_VALIDATION"}},
	{"--no-unreachable", []string{"GCOV_KERNEL", "KCOV"}},
	{"--werror", []string{"OBJTOOL_WERROR"}}, // since 6.15
}

// delaysObjtool are the options with which the kernel's build runs objtool on
// whole modules (scripts/Makefile.lib delay-objtool, 6.1, 6.12 and 7.2).
var delaysObjtool = []string{"X86_KERNEL_IBT", "LTO_CLANG", "KLP_BUILD"}

// NeedsObjtool tells whether the objects of a kernel lack what objtool adds:
// where it looks at whole modules only, the object of a patch has to go through
// it too (delay-objtool).
func NeedsObjtool(c Config) bool {
	return c.On("OBJTOOL") && c.On(delaysObjtool...)
}

// ObjtoolArgs returns the arguments that the kernel's build gives objtool for a
// module, without the name of the file.
func ObjtoolArgs(c Config) []string {
	var args []string
	for _, row := range objtoolArgs {
		if c.On(row.options...) {
			args = append(args, row.arg)
		}
	}
	if c.On("FTRACE_MCOUNT_USE_OBJTOOL") && c.On("HAVE_OBJTOOL_NOP_MCOUNT") {
		args = append(args, "--mnop")
	}
	// 6.12 gives --cfi for FINEIBT, which depends on CFI_CLANG, and --prefix for
	// PREFIX_SYMBOLS, which is CALL_PADDING without CFI_CLANG; 7.2, where the
	// option is called CFI, --cfi for that, --fineibt for FINEIBT and --prefix for
	// CALL_PADDING.
	if c.On("FINEIBT") && c.On("CFI_CLANG") || c.On("CFI") && c.On("CALL_PADDING") {
		args = append(args, "--cfi")
	}
	if c.On("FINEIBT") && c.On("CFI") {
		args = append(args, "--fineibt")
	}
	if c.On("CALL_PADDING") && !c.On("CFI_CLANG") {
		args = append(args, "--prefix="+c["FUNCTION_PADDING_BYTES"])
	}
	if c.On(delaysObjtool...) {
		args = append(args, "--link")
	}
	return append(args, "--module")
}
