package compile

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A Command is a command line of a compiler driver, taken apart: gcc, clang and
// what calls itself like them.
type Command struct {
	Prefix   []string // what stands before the compiler: a cache, a distributor
	Compiler string
	Flags    []string // in their order, without sources, output, -c and outputs of dependencies
	Sources  []string
	Output   string // what -o says, "" without
	Kind     Kind
}

// A Kind is what a command makes.
type Kind uint8

const (
	KindOther   Kind = iota // nothing is compiled: links, prints its version, has no source
	KindObject              // -c: an object for each source
	KindProgram             // sources compiled and linked at once
	KindText                // -E, -S, -M, -fsyntax-only: no code
)

// prefixes are programs that run the compiler whose command line follows.
var prefixes = map[string]bool{"ccache": true, "sccache": true, "distcc": true, "icecc": true, "nice": true, "env": true}

// withValue are the options whose value is the next argument when they stand
// alone. An option that is missing here makes its value look like an input, so
// values that are no source are harmless.
var withValue = setOf(
	"-o", "-x", "-I", "-D", "-U", "-A", "-L", "-l", "-T", "-u", "-z", "-e", "-B", "-G", "-F", "-V", "-b", "-h", "-R", "-J",
	"-include", "-imacros", "-include-pch", "-isystem", "-iquote", "-idirafter", "-iprefix", "-iwithprefix", "-iwithprefixbefore",
	"-isysroot", "-imultilib", "-imultiarch", "-iframework", "-cxx-isystem", "-stdlib++-isystem", "-ivfsoverlay",
	"-MF", "-MT", "-MQ", "-MJ", "-Xpreprocessor", "-Xassembler", "-Xlinker", "-Xclang", "-Xanalyzer", "-Xopenmp-target", "-mllvm",
	"-target", "--target", "-arch", "--param", "-wrapper", "-specs", "--sysroot", "-aux-info", "-dumpbase", "-dumpbase-ext", "-dumpdir",
	"-framework", "-gcc-toolchain", "--serialize-diagnostics", "-serialize-diagnostics", "-fplugin-arg", "-rpath", "--include", "--output",
	"--define-macro", "--undefine-macro", "--include-directory", "--language", "--include-directory-after", "--library-directory",
)

// dependencyOutput are the options that write which files were read; the value
// of some is the next argument.
var dependencyOutput = setOf("-MD", "-MMD", "-MP", "-MG", "-MF", "-MT", "-MQ", "-MJ", "-MV", "--write-dependencies", "--write-user-dependencies")

// textOnly are the options with which no code is made.
var textOnly = setOf("-E", "-S", "-M", "-MM", "-fsyntax-only", "--preprocess", "--assemble", "--dependencies", "--user-dependencies", "--analyze", "--precompile", "-emit-ast", "-emit-llvm")

// printsOnly are the options with which the driver says something of itself.
var printsOnly = setOf("--version", "--help", "-###", "-dumpversion", "-dumpfullversion", "-dumpmachine", "-dumpspecs", "--target-help", "-cc1", "-cc1as")

// sourceSuffixes are those of sources that become code.
var sourceSuffixes = setOf(".c", ".i", ".ii", ".cc", ".cp", ".cxx", ".cpp", ".CPP", ".c++", ".C", ".m", ".mi", ".mm", ".M", ".mii", ".s", ".S", ".sx",
	".cppm", ".ixx", ".tcc")

func setOf(words ...string) map[string]bool {
	m := make(map[string]bool, len(words))
	for _, w := range words {
		m[w] = true
	}
	return m
}

// ParseCommand takes a command line apart. Response files have to be expanded
// before.
func ParseCommand(args []string) (*Command, error) {
	c := &Command{}
	for len(args) > 0 && prefixes[filepath.Base(args[0])] {
		n := prefixLength(args)
		c.Prefix = append(c.Prefix, args[:n]...)
		args = args[n:]
	}
	if len(args) == 0 || args[0] == "" {
		return nil, fmt.Errorf("the command line names no compiler")
	}
	c.Compiler = args[0]
	p := commandParser{c: c, rest: args[1:]}
	for len(p.rest) > 0 {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	c.Kind = p.kind()
	return c, nil
}

// prefixLength is how many arguments belong to the program before the
// compiler: itself, its options and, for env, variables.
func prefixLength(args []string) int {
	n := 1
	for n < len(args) {
		variable, _, assigns := strings.Cut(args[n], "=")
		switch {
		case args[n] == "-n" && filepath.Base(args[0]) == "nice":
			n += 2
		case strings.HasPrefix(args[n], "-"), assigns && !strings.Contains(variable, "/"):
			n++
		default:
			return n
		}
	}
	return len(args) // "nice -n" and nothing behind it
}

// commandParser goes through the arguments behind the compiler.
type commandParser struct {
	c                     *Command
	rest                  []string
	language              string // of -x, "" for by suffix
	object, text, printer bool
	stdin                 bool
}

func (p *commandParser) next() error {
	arg := p.rest[0]
	p.rest = p.rest[1:]
	var value string
	separate := withValue[arg]
	if separate {
		if len(p.rest) == 0 {
			return fmt.Errorf("option %s of the compiler has no value", arg)
		}
		value, p.rest = p.rest[0], p.rest[1:]
	}
	switch {
	case arg == "-c" || arg == "--compile":
		p.object = true
		return nil
	case arg == "-o" || arg == "--output":
		p.c.Output = value
		return nil
	case strings.HasPrefix(arg, "--output="):
		p.c.Output = strings.TrimPrefix(arg, "--output=")
		return nil
	case strings.HasPrefix(arg, "-o") && !strings.HasPrefix(arg, "-object"):
		p.c.Output = arg[2:]
		return nil
	case dependencyOutput[arg], strings.HasPrefix(arg, "-MF"), strings.HasPrefix(arg, "-MT"), strings.HasPrefix(arg, "-MQ"), strings.HasPrefix(arg, "-MJ"), strings.HasPrefix(arg, "-Wp,-M"):
		return nil
	case arg == "-":
		p.stdin = true
		return nil
	case !strings.HasPrefix(arg, "-"):
		p.input(arg)
		return nil
	}
	p.text = p.text || textOnly[arg]
	p.printer = p.printer || printsOnly[arg]
	p.c.Flags = append(p.c.Flags, arg)
	if separate {
		p.c.Flags = append(p.c.Flags, value)
	}
	if lang, ok := strings.CutPrefix(arg, "-x"); ok {
		if separate {
			lang = value
		}
		p.language = lang
		if lang == "none" {
			p.language = ""
		}
	}
	return nil
}

// input is an argument that is no option: a source, or something for the
// linker, which no object needs.
func (p *commandParser) input(arg string) {
	if sourceSuffixes[filepath.Ext(arg)] || p.language != "" && !strings.HasSuffix(p.language, "-header") {
		p.c.Sources = append(p.c.Sources, arg)
	}
}

func (p *commandParser) kind() Kind {
	switch {
	case p.printer, p.stdin, len(p.c.Sources) == 0:
		return KindOther
	case p.text:
		return KindText
	case p.object:
		return KindObject
	}
	return KindProgram
}

// Object is the file that the command makes of a source.
func (c *Command) Object(source string) string {
	if c.Kind == KindObject && c.Output != "" {
		return c.Output
	}
	base := filepath.Base(source)
	return strings.TrimSuffix(base, filepath.Ext(base)) + ".o"
}

// Entries are what a compile database says of the command when it runs in a
// directory: one for each source, as if it were compiled by itself. A source
// that is compiled and linked at once has no object; the entry says how one is
// made of it.
func (c *Command) Entries(dir string) []Entry {
	if c.Kind != KindObject && c.Kind != KindProgram {
		return nil
	}
	var out []Entry
	for _, s := range c.Sources {
		e := Entry{Directory: dir, File: s}
		e.Arguments = append(append([]string{c.Compiler}, c.Flags...), "-c")
		if c.Kind == KindObject {
			e.Output = c.Object(s)
			e.Arguments = append(e.Arguments, "-o", e.Output)
		}
		e.Arguments = append(e.Arguments, s)
		out = append(out, e)
	}
	return out
}
