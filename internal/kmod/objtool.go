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

// objtoolArgs are the rows of the kernel's own table of objtool arguments. The
// argument is given if one of the options is set. An option that a kernel does
// not have names an argument that its objtool does not have.
var objtoolArgs = []struct {
	arg     string
	options []string
	source  string
}{
	{"--hacks=jump_label", []string{"HAVE_JUMP_LABEL_HACK"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--hacks=noinstr", []string{"HAVE_NOINSTR_HACK"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--hacks=skylake", []string{"CALL_DEPTH_TRACKING", "MITIGATION_CALL_DEPTH_TRACKING"}, "scripts/Makefile.lib, 6.2 and 6.12"},
	{"--ibt", []string{"X86_KERNEL_IBT"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--cfi", []string{"FINEIBT"}, "scripts/Makefile.lib, 6.12"},
	{"--mcount", []string{"FTRACE_MCOUNT_USE_OBJTOOL"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--orc", []string{"UNWINDER_ORC"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--retpoline", []string{"RETPOLINE", "MITIGATION_RETPOLINE"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--rethunk", []string{"RETHUNK", "MITIGATION_RETHUNK"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--sls", []string{"SLS", "MITIGATION_SLS"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--stackval", []string{"STACK_VALIDATION"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--static-call", []string{"HAVE_STATIC_CALL_INLINE"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--uaccess", []string{"HAVE_UACCESS_VALIDATION"}, "scripts/Makefile.lib, 6.1 and 6.12"},
	{"--no-unreachable", []string{"GCOV_KERNEL", "KCOV"}, "scripts/Makefile.lib, 6.1 and 6.12"},
}

// NeedsObjtool tells whether the objects of a kernel lack what objtool adds:
// where it looks at whole modules only, the object of a patch has to go through
// it too (scripts/Makefile.lib delay-objtool, 6.1 and 6.12).
func NeedsObjtool(c Config) bool {
	return c.On("OBJTOOL") && c.On("X86_KERNEL_IBT", "LTO_CLANG")
}

// ObjtoolArgs returns the arguments that the kernel's build gives objtool for a
// module, in its order, without the name of the file.
func ObjtoolArgs(c Config) []string {
	var args []string
	for _, row := range objtoolArgs {
		if row.arg == "--mcount" && c.On("FTRACE_MCOUNT_USE_OBJTOOL") && c.On("HAVE_OBJTOOL_NOP_MCOUNT") {
			args = append(args, "--mcount", "--mnop")
		} else if c.On(row.options...) {
			args = append(args, row.arg)
		}
	}
	if c.On("PREFIX_SYMBOLS") {
		args = append(args, "--prefix="+c["FUNCTION_PADDING_BYTES"])
	}
	if c.On("X86_KERNEL_IBT", "LTO_CLANG") {
		args = append(args, "--link")
	}
	return append(args, "--module")
}
