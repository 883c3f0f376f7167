package kbuild

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/refusal"
)

const testClang = "Debian clang version 99.1.7 (3~deb12u1)"

// clangKernel is a kernel whose configuration names clang, with programs of a directory
// only.
func clangKernel(t *testing.T, dir, config string) *Kernel {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("CONFIG_CC_VERSION_TEXT=\""+testClang+"\"\n"+config), 0o644); err != nil {
		t.Fatal(err)
	}
	return &Kernel{Release: "7.0-test", Machine: elf.EM_AARCH64, Config: file, Path: dir}
}

func putProgram(t *testing.T, dir, name, version string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho '"+version+"'\necho Target: x86_64-pc-linux-gnu\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Clang compiles for every machine, so only its version counts; the linker has to be
// beside it, or beside what its name is a link to.
func TestFindClang(t *testing.T) {
	dir, links := t.TempDir(), t.TempDir()
	find := func(dir string) (string, string) {
		c, err := clangKernel(t, dir, "").FindCompiler(t.Context())
		if err != nil {
			return "", err.Error()
		}
		return c.llvm, c.Version
	}
	if _, said := find(dir); !strings.Contains(said, "there is no clang-99") && !strings.Contains(said, "this is ") {
		t.Errorf("without clang: %s", said)
	}
	putProgram(t, dir, "clang", "Debian clang version 99.1.6 (1)")
	if _, said := find(dir); !strings.Contains(said, "built with "+testClang+", this is Debian clang version 99.1.6 (1)") {
		t.Errorf("with another clang: %s", said)
	}
	putProgram(t, dir, "clang", testClang)
	if _, said := find(dir); !strings.Contains(said, "there is no ld.lld beside "+dir+"/clang") {
		t.Errorf("without lld: %s", said)
	}
	putProgram(t, dir, "ld.lld", "Debian LLD 99.1.7")
	if err := os.Symlink(filepath.Join(dir, "clang"), filepath.Join(links, "clang-99")); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{dir, links} {
		if llvm, said := find(from); llvm != dir+"/" || said != testClang {
			t.Errorf("LLVM=%s: %s", llvm, said)
		}
	}
}

// What clang made in ways that were not tried is refused before anything is looked for.
func TestClangRefused(t *testing.T) {
	for _, tc := range []struct {
		config  string
		machine elf.Machine
		want    string
	}{
		{"CONFIG_LTO_CLANG=y\n", elf.EM_AARCH64, "its objects are no machine code"},
		{"", elf.EM_X86_64, "the kernel was built with clang: "},
	} {
		k := clangKernel(t, t.TempDir(), tc.config)
		k.Machine = tc.machine
		_, err := k.FindCompiler(t.Context())
		var r refusal.Refusal
		if !errors.As(err, &r) || r.Code != refusal.Unsupported || !strings.Contains(r.Error(), tc.want) {
			t.Errorf("%v: %v", tc.machine, err)
		}
	}
}
