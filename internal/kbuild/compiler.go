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
	_, triple := k.arch()
	candidates := []string{name}
	if !strings.HasPrefix(name, triple) {
		// On another machine the compiler for this one has its name before it.
		candidates = []string{triple + "-" + name, name}
	}
	if k.CC != "" {
		candidates = []string{k.CC}
	}
	found := ""
	for _, c := range candidates {
		path, err := k.look(c)
		if err != nil {
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
	if found == "" {
		return nil, refusal.New(refusal.WrongCompiler, k.Release, "the kernel was built with %s, and there is no %s", wanted, candidates[0])
	}
	return nil, refusal.New(refusal.WrongCompiler, k.Release, "the kernel was built with %s, this is %s", wanted, found)
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

func compilerVersion(ctx context.Context, path string, env []string) (string, error) {
	p := child.Program{Argv: []string{path, "--version"}, Env: env}
	text, err := p.Run(ctx)
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(first), err
}
