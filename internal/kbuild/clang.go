package kbuild

import (
	"context"
	"debug/elf"
	"path/filepath"
	"regexp"
	"strings"

	"livepatch/internal/refusal"
)

// Clang compiles for all machines, so its name says nothing of the kernel's. Its
// version line is "clang version 19.1.7 (…)", with the vendor before it.

// isClang tells clang by its version line.
func isClang(version string) bool { return strings.Contains(version, "clang version ") }

// clangMajor is the number that Debian's programs of LLVM end with: clang-19.
var clangMajor = regexp.MustCompile(`clang version (\d+)\.`)

// checkClang refuses what was built with clang and was not seen to work.
func (k *Kernel) checkClang(config []byte, version string) error {
	switch {
	case configText(config, "LTO_CLANG") == "y":
		return refusal.New(refusal.Unsupported, k.Release, "the kernel was built with clang's optimization when linking: its objects are no machine code: %s", version)
	case k.Machine != elf.EM_AARCH64:
		return refusal.New(refusal.Unsupported, k.Release, "the kernel was built with clang: %s", version)
	}
	return nil
}

// findClang finds the clang that the image was built with, and with it the linker and
// tools, which kbuild wants of the same kind.
func (k *Kernel) findClang(ctx context.Context, wanted string) (*Compiler, error) {
	candidates := []string{"clang"}
	if m := clangMajor.FindStringSubmatch(wanted); m != nil {
		candidates = []string{"clang-" + m[1], "clang"}
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
		if version != wanted {
			found = version
			continue
		}
		llvm := llvmOf(path)
		if llvm == "" {
			return nil, refusal.New(refusal.WrongCompiler, k.Release, "there is no ld.lld beside %s: kbuild needs the linker that goes with clang", path)
		}
		return &Compiler{Program: path, Version: version, llvm: llvm}, nil
	}
	if found == "" {
		return nil, refusal.New(refusal.WrongCompiler, k.Release, "the kernel was built with %s, and there is no %s", wanted, candidates[0])
	}
	return nil, refusal.New(refusal.WrongCompiler, k.Release, "the kernel was built with %s, this is %s", wanted, found)
}

// llvmOf is what kbuild's variable LLVM has to be for a clang: the directory of all
// its programs, with a slash (Documentation/kbuild/llvm.rst); "" if lld is not there.
// Debian's /usr/bin/clang-19 is a link to one.
func llvmOf(clang string) string {
	real, err := filepath.EvalSymlinks(clang)
	for _, path := range []string{real, clang} {
		if dir := filepath.Dir(path) + "/"; err == nil && isFile(dir+"ld.lld") {
			return dir
		}
	}
	return ""
}
