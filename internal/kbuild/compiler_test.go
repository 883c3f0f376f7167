package kbuild

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/refusal"
)

// A module of another compiler, or of another revision of it, is refused; one that
// is only partly of it, or says nothing, is left to the proof.
func TestModuleCompiler(t *testing.T) {
	c := &Compiler{Version: "x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"}
	const ours, older, clang = "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\x00", "\x00GCC: (Debian 12.2.0-14) 12.2.0\x00", "Debian clang version 14.0.6\x00"
	for comment, want := range map[string]string{
		"": "", "\x00": "", ours: "", "\x00" + ours + ours: "", older + ours: "",
		older + older: "x.ko: the module was built with (Debian 12.2.0-14) 12.2.0, this is x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0 [wrong-compiler]",
		older + clang: "x.ko: the module was built with (Debian 12.2.0-14) 12.2.0 and Debian clang version 14.0.6, this is x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0 [wrong-compiler]",
	} {
		err := c.CheckModule("x.ko", []byte(comment))
		var r refusal.Refusal
		if got := errors.As(err, &r); got != (want != "") || got && r.Error() != want {
			t.Errorf("%q: %v", comment, err)
		}
	}
}

// The compiler has to be one for the kernel's machine, whatever its name and version
// say: a kernel that was built on its own kind of machine names plain gcc.
func TestFindCompilerForMachine(t *testing.T) {
	dir := t.TempDir()
	program := func(name, version, machine string) {
		script := fmt.Sprintf("#!/bin/sh\ncase $1 in -dumpmachine) echo %s ;; *) echo 'gcc-99 %s' ;; esac\n", machine, version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const version, older = "(Test 99.1-2) 99.1.0", "(Test 99.1-1) 99.1.0"
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte("CONFIG_CC_VERSION_TEXT=\"gcc-99 "+version+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	find := func(cc string) string {
		k := &Kernel{Release: "7.0-test", Machine: elf.EM_AARCH64, Config: config, Path: dir, CC: cc}
		c, err := k.FindCompiler(t.Context())
		if err != nil {
			return err.Error()
		}
		return filepath.Base(c.Program)
	}
	program("gcc-99", version, "x86_64-linux-gnu")
	for _, tc := range []struct{ cc, want string }{
		{"", "and there is no aarch64-linux-gnu-gcc-99"},
		{"gcc-99", "the kernel is for aarch64-linux-gnu, gcc-99 compiles for x86_64"},
	} {
		if got := find(tc.cc); !strings.Contains(got, tc.want) {
			t.Errorf("--cc %q with a compiler for x86-64: %s", tc.cc, got)
		}
	}
	program("aarch64-linux-gnu-gcc-99", older, "aarch64-linux-gnu")
	if got := find(""); !strings.Contains(got, "this is gcc-99 "+older) {
		t.Errorf("with an older compiler: %s", got)
	}
	program("aarch64-linux-gnu-gcc-99", version, "aarch64-linux-gnu")
	if got := find(""); got != "aarch64-linux-gnu-gcc-99" {
		t.Errorf("with both: %s", got)
	}
	program("gcc-99", version, "aarch64-redhat-linux")
	if got := find("gcc-99"); got != "gcc-99" {
		t.Errorf("on its own machine: %s", got)
	}
}
