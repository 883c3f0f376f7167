package kbuild

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"livepatch/internal/child"
	"livepatch/internal/refusal"
)

// FindCompiler finds the compiler that the image was built with, to the
// revision of its package. Another one is a refusal.
func (k *Kernel) FindCompiler(ctx context.Context) (*Compiler, error) {
	wanted, name, err := k.Wanted()
	if err != nil {
		return nil, err
	}
	if isClang(wanted) {
		return k.findClang(ctx, wanted)
	}
	_, triple := k.arch()
	candidates := []string{name}
	if !strings.HasPrefix(name, triple) {
		// On another machine the compiler for this one has its name before it.
		candidates = []string{triple + "-" + name, name}
	}
	if k.CC != "" {
		candidates = []string{k.CC}
	}
	found, other := "", ""
	for _, c := range candidates {
		path, err := k.look(c)
		if err != nil {
			continue
		}
		if machine := k.compilesFor(ctx, path); !strings.HasPrefix(triple, machine+"-") {
			// The version line of this machine's own compiler is that of the one for another.
			other = " for " + machine
			continue
		}
		version, err := compilerVersion(ctx, path, k.env())
		if err != nil {
			return nil, err
		}
		if revision(version) == revision(wanted) {
			return &Compiler{Program: path, Version: version}, nil
		}
		found = version
	}
	switch {
	case found == "" && k.CC != "" && other != "":
		return nil, refusal.New(refusal.WrongCompiler, k.Release, "the kernel is for %s, %s compiles%s", triple, k.CC, other)
	case found == "":
		return nil, refusal.New(refusal.WrongCompiler, k.Release, "the kernel was built with %s, and there is no %s", wanted, candidates[0])
	}
	return nil, refusal.New(refusal.WrongCompiler, k.Release, "the kernel was built with %s, this is %s", wanted, found)
}

// CheckModule refuses a module that another compiler made. What its objects say of
// theirs (.comment, a string an object: "GCC: (Debian 12.2.0-14) 12.2.0") is the version
// line without the program's name. Some may come from elsewhere, so one that agrees is
// enough: the proof decides about each function.
func (c *Compiler) CheckModule(name string, comment []byte) error {
	said := map[string]bool{}
	for s := range strings.SplitSeq(string(comment), "\x00") {
		if s == "" {
			continue
		}
		s = strings.TrimPrefix(s, "GCC: ")
		if s == revision(c.Version) {
			return nil
		}
		said[s] = true
	}
	if len(said) == 0 {
		return nil // it does not say
	}
	return refusal.New(refusal.WrongCompiler, name, "the module was built with %s, this is %s", strings.Join(sortedKeys(said), " and "), c.Version)
}

// look finds a program in Path and PATH.
func (k *Kernel) look(name string) (string, error) {
	if k.Path != "" && !strings.Contains(name, "/") {
		if path := filepath.Join(k.Path, name); isFile(path) {
			return path, nil
		}
	}
	return exec.LookPath(name)
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// env is what programs of this kernel see more than others.
func (k *Kernel) env() []string {
	if k.Path == "" {
		return nil
	}
	return []string{"PATH=" + k.Path + string(os.PathListSeparator) + os.Getenv("PATH")}
}

// compilesFor is the machine that a compiler makes code for, as its name begins;
// "" if it does not say.
func (k *Kernel) compilesFor(ctx context.Context, path string) string {
	p := child.Program{Argv: []string{path, "-dumpmachine"}, Env: k.env()}
	said, err := p.Run(ctx)
	if err != nil {
		return ""
	}
	machine, _, _ := strings.Cut(strings.TrimSpace(said), "-")
	return machine
}

func compilerVersion(ctx context.Context, path string, env []string) (string, error) {
	p := child.Program{Argv: []string{path, "--version"}, Env: env}
	text, err := p.Run(ctx)
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(first), err
}
