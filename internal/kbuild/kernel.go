// Package kbuild compiles single objects of a kernel, before and after a source
// patch, as the kernel's own build does: it prepares a tree once, finds what a
// patch touches, and never changes the source.
package kbuild

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"livepatch/internal/refusal"
)

// Kernel is a kernel whose objects are to be compiled again: its source, its
// configuration, and the compiler that it was built with.
type Kernel struct {
	Source  string // directory; only read
	Config  string // file
	Symvers string // file; "" without
	Release string // as uname -r prints it
	Machine elf.Machine
	Banner  string // of the image, with the compiler's version

	CC   string // the compiler; "" for the one that the configuration names
	Path string // directories searched for programs before those of PATH

	Work      string // directory of ours, kept: what is prepared once
	Immutable bool   // nobody changes the source: it is a cache's

	// Progress is told what is being done; total is 0 where it is not known.
	Progress func(what string, done, total int)
}

func (k *Kernel) progress(what string, done, total int) {
	if k.Progress != nil {
		k.Progress(what, done, total)
	}
}

// arch is the directory of the machine below arch/, and the prefix of Debian's
// programs for it.
func (k *Kernel) arch() (name, triple string) {
	if k.Machine == elf.EM_AARCH64 {
		return "arm64", "aarch64-linux-gnu"
	}
	return "x86", "x86_64-linux-gnu"
}

// obj is kbuild's directory for output, include that of our headers.
func (k *Kernel) obj() string     { return filepath.Join(k.Work, "build") }
func (k *Kernel) include() string { return filepath.Join(k.Work, "include") }

// kernelBanner takes the compiler out of the banner: "Linux version RELEASE
// (USER@HOST) (COMPILER, LINKER) #1 …". Debian's lld names Debian first.
var kernelBanner = regexp.MustCompile(`^Linux version \S+ \([^()]*\) \((.*), (?:\w+ )?(?:GNU ld|LLD|ld)\b`)

// bannerCompiler is the version line of the image's compiler.
func bannerCompiler(banner string) string {
	if m := kernelBanner.FindStringSubmatch(banner); m != nil {
		return m[1]
	}
	return ""
}

// configText reads the string of an option from a configuration.
func configText(config []byte, option string) string {
	for line := range strings.Lines(string(config)) {
		if value, ok := strings.CutPrefix(line, "CONFIG_"+option+"="); ok {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

// revision is what has to agree of a compiler's version line: gcc's name differs
// with the directory that it is called from, clang's line has none.
func revision(version string) string {
	if isClang(version) {
		return version
	}
	if i := strings.IndexByte(version, '('); i >= 0 {
		return version[i:]
	}
	return version
}

// Compiler is the program that compiles for a kernel.
type Compiler struct {
	Program string
	Version string // its version line
	llvm    string // kbuild's LLVM: where lld and the tools are that go with clang; "" for GNU's
}

// Wanted returns the version line of the compiler that the image was built
// with, and the name of the program.
func (k *Kernel) Wanted() (version, name string, err error) {
	config, err := os.ReadFile(k.Config)
	if err != nil {
		return "", "", fmt.Errorf("read the configuration: %w", err)
	}
	said := configText(config, "CC_VERSION_TEXT")
	version = bannerCompiler(k.Banner)
	if version == "" {
		version = said
	}
	switch {
	case version == "":
		return "", "", fmt.Errorf("%s: neither the image nor the configuration names the compiler", k.Release)
	case said != "" && revision(said) != revision(version):
		return "", "", refusal.New(refusal.WrongCompiler, k.Release,
			"the image was built with %s, the configuration is of a build with %s", version, said)
	case isClang(version):
		return version, "clang", k.checkClang(config, version)
	}
	name, _, _ = strings.Cut(version, " ")
	return version, name, nil
}
